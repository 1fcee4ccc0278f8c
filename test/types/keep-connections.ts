// The example in docs/how-to/keep-connections.md.
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const visitors = new Set<string>()
const server = createServer((_request, response) => response.end(`${visitors.size} visitors\n`))
const backend = createBackend({ service: 'web' })
backend.attach(server)

server.on('connection', (socket) => {
  const visitor = `${socket.remoteAddress}:${socket.remotePort}`
  visitors.add(visitor)
  socket.once('close', () => {
    visitors.delete(visitor)
    if (backend.connection(socket)?.movedOn) return // another process serves this client from now on
    console.log(`${visitor} left`)
  })
})

await backend.ready()
process.once('SIGTERM', () => void backend.drain())
