// A TLS server whose sessions are to resume in other processes, as https, tls or http2 (SERVER). It answers with its pid and whether the
// client has resumed. Its arguments differ between releases, as the paths of two release folders do.
import { readFileSync } from 'node:fs'
import { createSecureServer } from 'node:http2'
import { createServer as createHttps } from 'node:https'
import { createServer as createTls } from 'node:tls'
import { createBackend } from '@baton/backend-sdk'

const { KEY, CERTIFICATE, SERVER, ASKS } = process.env
const options = {
  key: readFileSync(KEY),
  cert: readFileSync(CERTIFICATE),
  allowHTTP1: true,
  ...(ASKS && { requestCert: true, rejectUnauthorized: true, ca: readFileSync(CERTIFICATE) }),
}
const said = (socket) =>
  JSON.stringify({ pid: process.pid, resumed: socket.isSessionReused(), authorized: socket.authorized })
const answer = (request, response) => {
  response.setHeader('connection', 'close')
  response.end(said(request.socket))
}
const servers = {
  https: () => createHttps(options, answer),
  http2: () => createSecureServer(options, answer),
  tls: () =>
    createTls(options, (socket) => {
      socket.on('error', () => {})
      socket.once('data', () => socket.end(`HTTP/1.1 200 OK\r\n\r\n${said(socket)}`))
    }),
}

const backend = createBackend()
backend.attach(servers[SERVER]())
await backend.ready()
process.once('SIGTERM', () => void backend.drain())
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
