// An app that also listens on its own port, and prints its backend's events. DIRECT requests (to that port)
// show that its event loop is running.
import http from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

const server = http.createServer((request, response) => {
  response.setHeader('x-pid', process.pid)
  response.end(
    JSON.stringify({ pid: process.pid, connection: backend.connection(request.socket)?.id ?? null }),
  )
})
// Node's default of 5 s is shorter than the pauses of a test on a slow machine.
server.keepAliveTimeout = 600_000
const { SECRET: secret, READY_TIMEOUT: timeout } = process.env
const backend = createBackend(secret === undefined ? {} : { secret })
backend.on('adopt', () => say('adopt'))
backend.on('reject', (reason) => say('reject', { reason }))
backend.on('connected', ({ id }) => say('connected', { id }))
backend.on('disconnected', (error) => say('disconnected', { code: error?.code ?? null }))
backend.attach(server)

server.listen(0, '127.0.0.1', () => say('listening', { port: server.address().port }))
process.once('SIGTERM', () => void backend.close().then(() => server.close()))
try {
  await backend.ready(timeout === undefined ? {} : { signal: AbortSignal.timeout(Number(timeout)) })
  say('ready', { id: backend.id, slot: backend.slot })
} catch (error) {
  say('not ready', { name: error.name, code: error.code, reason: error.reason, text: error.message })
}
