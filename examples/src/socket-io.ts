// socket.io behind Baton. Clients that may start with HTTP long-polling need `"balance": "source-hash"` in the service: each
// poll can be a connection of its own, and has to reach the process that knows the session.
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { Server } from 'socket.io'

const server = createServer()
const io = new Server(server)

io.on('connection', (socket) => {
  socket.on('message', (text: string) => socket.emit('message', `process ${process.pid} heard ${text}`))
})

// Which broker and which service come from BATON_SOCKET and BATON_SERVICE.
const backend = createBackend()
backend.attach(server)
// Ends the transports without a word of goodbye, so that clients dial again by themselves and reach a process that stays.
// (After `socket.disconnect()` they would not: the server has sent them away.) The operator can ask for a drain too, hence
// the event and not the signal.
backend.on('drain', () => void io.close())
await backend.ready()

process.once('SIGTERM', () => void backend.drain())
