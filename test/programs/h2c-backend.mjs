// HTTP/2 whose requests take a while, over TLS with KEY and CERTIFICATE (PEM files), else without.
import { readFileSync } from 'node:fs'
import http2 from 'node:http2'
import { createBackend } from '@baton/backend-sdk'

const { KEY, CERTIFICATE } = process.env
const server =
  KEY === undefined
    ? http2.createServer()
    : http2.createSecureServer({ key: readFileSync(KEY), cert: readFileSync(CERTIFICATE) })
server.on('stream', (stream) => {
  stream.on('error', () => {})
  setTimeout(() => {
    if (stream.destroyed) return
    stream.respond({ ':status': 200 })
    stream.end(String(process.pid))
  }, 20)
})

const backend = createBackend()
backend.attach(server)
await backend.ready()
process.once('SIGTERM', () => void backend.drain())
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
