// socket.io behind Baton. Clients that may start with HTTP long-polling need `"balance": "source-hash"` in the service: each
// poll can be a new connection, and must reach the process that has the session.
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { Server } from 'socket.io'

const server = createServer()
const io = new Server(server)

io.on('connection', (socket) => {
  socket.on('message', (text: string) => socket.emit('message', `process ${process.pid} received ${text}`))
})

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
const backend = createBackend()
backend.attach(server)
// Closes the transports without a disconnect packet, so that clients reconnect by themselves and reach another process. (After
// `socket.disconnect()` they would not reconnect.) On the event, not on the signal, because the operator can request a drain too.
backend.on('drain', () => void io.close())
await backend.ready()

process.once('SIGTERM', () => void backend.drain())
