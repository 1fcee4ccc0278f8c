// HTTPS with TLS in the backend, on a listener with `"protocol": "tls"`: only the backend has the key and the certificate, and
// the broker reads nothing of the connection. Clients choose HTTP/2 or HTTP/1.1 (ALPN).
import { readFileSync } from 'node:fs'
import { createSecureServer } from 'node:http2'
import { parseArgs } from 'node:util'
import { createBackend } from '@baton/backend-sdk'

const { values } = parseArgs({ options: { cert: { type: 'string' }, key: { type: 'string' } } })
const cert = values.cert ?? process.env['TLS_CERT']
const key = values.key ?? process.env['TLS_KEY']
if (cert === undefined || key === undefined) {
  console.error('usage: tls.js --cert FILE --key FILE (PEM; or TLS_CERT and TLS_KEY in the environment)')
  process.exit(2)
}

const server = createSecureServer(
  { cert: readFileSync(cert), key: readFileSync(key), allowHTTP1: true },
  (request, response) => {
    const { remoteAddress, remotePort } = request.socket
    response.end(
      `HTTP/${request.httpVersion} from process ${process.pid}. You are ${remoteAddress}:${remotePort}.\n`,
    )
  },
)

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
const backend = createBackend()
backend.attach(server)
await backend.ready()

// HTTP/2 connections get GOAWAY and finish their open streams; HTTP/1.1 connections close after their next response.
process.once('SIGTERM', () => void backend.drain())
