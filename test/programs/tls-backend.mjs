// TLS terminated in the backend: prints each id that it adopts, and sends each client the id of its TLS socket.
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
