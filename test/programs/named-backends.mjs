// One process with a TLS backend for each of the services in SERVICES, which answers over HTTP/1.1 and HTTP/2 with the name of the service, and the
// client's address. KEY and CERTIFICATE name PEM files.
import { readFileSync } from 'node:fs'
import http2 from 'node:http2'
import { createBackend } from '@baton/backend-sdk'

const key = readFileSync(process.env.KEY)
const cert = readFileSync(process.env.CERTIFICATE)
const join = async (service) => {
  const server = http2.createSecureServer({ key, cert, allowHTTP1: true }, (request, response) => {
    const { remoteAddress, remotePort, alpnProtocol } = request.stream?.session?.socket ?? request.socket
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ service, remoteAddress, remotePort, alpnProtocol }))
  })
  const backend = createBackend({ service, logger: false })
  await backend.attach(server).ready()
}
await Promise.all(process.env.SERVICES.split(',').map(join))
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
