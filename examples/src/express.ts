// An Express app behind Baton. The Express app is a request handler; the http.Server around it is attached.
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import express from 'express'

const app = express()

app.get('/', (request, response) => {
  response.send(`Hello from process ${process.pid}. You are ${request.ip}:${request.socket.remotePort}.\n`)
})

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
const backend = createBackend()
// Instead of `server.listen()`: the broker has the listening socket, and this server gets the connections.
backend.attach(createServer(app))
// Once this resolves, connections may arrive. Without a broker it waits for one.
await backend.ready()

// Takes no more connections; current requests finish, and idle connections move to another process. Then nothing keeps the process alive.
process.once('SIGTERM', () => void backend.drain())
