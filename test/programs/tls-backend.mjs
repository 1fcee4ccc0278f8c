// TLS terminated in the backend: says each id that it adopts, and tells each client the id that its TLS socket is known by.
// KEY and CERTIFICATE name PEM files.
import { readFileSync } from 'node:fs'
import tls from 'node:tls'
import { createBackend } from '@baton/backend-sdk'

const { KEY, CERTIFICATE } = process.env
const server = tls.createServer({ key: readFileSync(KEY), cert: readFileSync(CERTIFICATE) }, (socket) => {
  socket.end(`${backend.connection(socket)?.id}\n`)
})

const backend = createBackend()
backend.attach(server)
backend.on('adopt', (_socket, { id }) => console.log(JSON.stringify({ msg: 'adopt', id })))
await backend.ready()
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
