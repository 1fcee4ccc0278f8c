// The app behind every peer: a short fixed response, or a long one (BODY_BYTES). APP_MODE is how it gets its connections:
// `attach` through the SDK (Baton, the C floor), `listen` on its own port or, in a worker of `cluster`, on the primary's,
// `pm2` on the port that PM2's processes share, `reusePort` sharing one port with other processes.
import http from 'node:http'

/** The backlog of Baton's listeners. */
const BACKLOG = 4096
/** Longer than nginx and HAProxy keep a connection to it, so that they never use one that it has just closed. Milliseconds. */
const KEEP_ALIVE = 120_000

const { APP_MODE: mode, PORT: port = '0', BODY_BYTES: size = '13' } = process.env
const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

const body = Buffer.from('Hello, world\n'.repeat(Math.ceil(Number(size) / 13)).slice(0, Number(size)))
const headers = { 'content-type': 'text/plain', 'content-length': body.length }
const server = http.createServer((_request, response) => {
  response.writeHead(200, headers)
  response.end(body)
})
server.keepAliveTimeout = KEEP_ALIVE

if (mode === 'attach') {
  const { createBackend } = await import(process.env.SDK ?? '@baton/backend-sdk')
  const backend = createBackend({ logger: false })
  backend.attach(server)
  await backend.ready()
  say('serving')
} else {
  const options = { port: Number(port), host: '127.0.0.1', backlog: BACKLOG }
  server.listen(mode === 'reusePort' ? { ...options, reusePort: true } : options, () => {
    say('serving', { port: server.address().port })
    if (mode === 'pm2') process.send('ready')
  })
}

// Exits with its parent; PM2 gives its processes no stdin.
if (mode !== 'pm2') process.stdin.resume().on('end', () => process.exit())
