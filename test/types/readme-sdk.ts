// The example in packages/backend-sdk/README.md.
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const server = createServer((request, response) => {
  const connection = backend.connection(request.socket)
  response.end(`${request.socket.remoteAddress} came through ${connection?.listener} as ${connection?.id}\n`)
})

const backend = createBackend({ service: 'web', version: '1.2.0', weight: 1 })
backend.attach(server) // instead of server.listen(); you can also do both
backend.on('disconnected', () => console.log('no broker for now, adopted connections continue'))

await backend.ready({ signal: AbortSignal.timeout(10_000) }) // registered; without a broker it waits
process.once('SIGTERM', () => void backend.drain({ deadline: '30s' }))
