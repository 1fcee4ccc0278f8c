// An app for a pod. It has no port, so it creates a file when it is ready, for the pod's readiness probe.
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const server = createServer((request, response) => {
  const { remoteAddress, remotePort } = request.socket
  const hello = `Hello from process ${process.pid}. You are ${remoteAddress}:${remotePort}.\n`
  // The broker requests `/healthz` (`healthCheck`), over its own connection.
  response.end(request.url === '/healthz' ? 'ok\n' : hello)
})

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
const backend = createBackend()
backend.attach(server)
await backend.ready()
if (process.env['READY_FILE'] !== undefined) writeFileSync(process.env['READY_FILE'], '')

process.once('SIGTERM', () => void backend.drain())
