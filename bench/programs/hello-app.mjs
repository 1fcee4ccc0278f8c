// Answers the first bytes of each connection with two, and closes: what comes in front of it is measured, not TLS. APP_MODE: `attach` through the
// SDK, or `listen` on a port of its own.
import { createServer } from 'node:net'

const say = (more) => console.log(JSON.stringify({ msg: 'serving', pid: process.pid, ...more }))
const server = createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => {})
  socket.once('data', () => socket.end('ok'))
})
if (process.env.APP_MODE === 'attach') {
  const { createBackend } = await import('@baton/backend-sdk')
  const backend = createBackend({ logger: false })
  backend.attach(server)
  await backend.ready()
  say({})
} else
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => say({ port: server.address().port }))

process.stdin.resume().on('end', () => process.exit())
