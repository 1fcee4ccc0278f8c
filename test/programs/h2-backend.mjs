// HTTP/2 over TLS, terminated in the backend. KEY and CERTIFICATE name PEM files.
import { readFileSync } from 'node:fs'
import http2 from 'node:http2'
import { createBackend } from '@baton/backend-sdk'

const server = http2.createSecureServer({
  key: readFileSync(process.env.KEY),
  cert: readFileSync(process.env.CERTIFICATE),
})
server.on('stream', (stream, headers) => {
  const { remoteAddress, remotePort, alpnProtocol } = stream.session.socket
  stream.respond({ ':status': 200, 'content-type': 'application/json' })
  stream.end(
    JSON.stringify({ pid: process.pid, path: headers[':path'], remoteAddress, remotePort, alpnProtocol }),
  )
})

const backend = createBackend()
backend.attach(server)
await backend.ready()
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
