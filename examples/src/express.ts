// An Express app behind Baton. Express makes a request handler, Node's http.Server around it is what is attached.
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import express from 'express'

const app = express()

app.get('/', (request, response) => {
  response.send(`Hello from process ${process.pid}. You are ${request.ip}:${request.socket.remotePort}.\n`)
})

// Which broker and which service come from BATON_SOCKET and BATON_SERVICE.
const backend = createBackend()
// Instead of `server.listen()`: the broker has the listening socket, this server gets what it accepts.
backend.attach(createServer(app))
// From here on connections may come. Without a broker this waits for one.
await backend.ready()

// No new connection, answers in flight finish and say `Connection: close`; then nothing keeps the process alive.
process.once('SIGTERM', () => void backend.drain())
