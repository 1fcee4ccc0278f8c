// An app that leaks 5 MB a second. UNDER: `baton` or `pm2`, and it ends the way each of them expects: current requests finish; or `plain`.
import { createServer } from 'node:http'
import { Server } from 'node:net'

const leaked = []
// Touched, so that it is resident.
setInterval(() => leaked.push(Buffer.alloc(1024 * 1024, 1)), 200).unref()

let isStopping = false
const server = createServer((_request, response) => {
  if (isStopping) response.setHeader('connection', 'close')
  response.end(`${process.pid}\n`)
})
if (process.env.UNDER === 'baton') {
  const { createBackend } = await import('@baton/backend-sdk')
  const backend = createBackend({ logger: false })
  backend.attach(server)
  await backend.ready()
  process.once('SIGTERM', () => void backend.drain())
} else {
  // With --wait-ready, PM2 waits for this message, then ends the previous process with SIGINT.
  server.listen(Number(process.env.PORT), '127.0.0.1', () => process.send?.('ready'))
  const stop = () => {
    isStopping = true
    // Not `server.close()`, which would cut connections between two requests: their next response ends them.
    Server.prototype.close.call(server, () => process.exit(0))
  }
  if (process.env.UNDER === 'pm2') process.once('SIGINT', stop)
}
