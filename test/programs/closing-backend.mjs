// An app that ends as Node's documentation shows it: SIGTERM closes the server, and the process exits in its callback. It also listens
// on a port of its own.
import http from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const server = http.createServer((_request, response) => {
  response.setHeader('x-pid', process.pid).end(JSON.stringify({ pid: process.pid }))
})
// Node's default of 5 s is shorter than the pauses of a test on a slow machine.
server.keepAliveTimeout = 600_000
const backend = createBackend()
backend.attach(server)
server.listen(0, '127.0.0.1')
await backend.ready()
process.once('SIGTERM', () => {
  server.close(() => process.exit())
  if (process.env.DRAIN_DEADLINE !== undefined) void backend.drain({ deadline: process.env.DRAIN_DEADLINE })
})
console.log(JSON.stringify({ msg: 'ready', pid: process.pid, port: server.address().port }))
