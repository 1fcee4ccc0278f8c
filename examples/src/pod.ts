// An app as a pod runs it: it has no port, so it says by a file that it is ready, for the pod's readiness probe.
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const server = createServer((request, response) => {
  const { remoteAddress, remotePort } = request.socket
  const hello = `Hello from process ${process.pid}. You are ${remoteAddress}:${remotePort}.\n`
  // `/healthz` is what the broker asks (`healthCheck`), over a connection of its own.
  response.end(request.url === '/healthz' ? 'ok\n' : hello)
})

// Which broker and which service come from BATON_SOCKET and BATON_SERVICE.
const backend = createBackend()
backend.attach(server)
await backend.ready()
if (process.env['READY_FILE'] !== undefined) writeFileSync(process.env['READY_FILE'], '')

process.once('SIGTERM', () => void backend.drain())
