// A backend for other runtimes than Node: http, with SERVER=https the same, or with SERVER=net an echo server.
import { createServer as createHttp } from 'node:http'
import { createServer as createHttps } from 'node:https'
import { createServer as createNet } from 'node:net'
import process from 'node:process'
import { createBackend } from '@baton/backend-sdk'

const server =
  process.env.SERVER === 'net'
    ? createNet((socket) =>
        socket.on('error', () => {}).on('data', (data) => socket.end(`${process.pid} ${String(data)}`)),
      )
    : (process.env.SERVER === 'https' ? createHttps : createHttp)((request, response) =>
        response.end(`${process.pid} ${request.socket.remotePort}`),
      )
// A busy machine takes longer than the default of 5 s.
server.keepAliveTimeout = 600_000
const backend = createBackend()
try {
  backend.attach(server)
  await backend.ready()
  process.once('SIGTERM', () => void backend.drain().then(() => process.exit(0)))
  console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
} catch (error) {
  console.log(JSON.stringify({ msg: 'refused', code: error.code, reason: error.message }))
  process.exit(1)
}
