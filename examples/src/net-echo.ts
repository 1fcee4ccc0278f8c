// A plain TCP server behind Baton, on a listener with `"protocol": "tcp"`: each client gets back what it sends.
import { createServer } from 'node:net'
import { pipeline } from 'node:stream'
import { createBackend } from '@baton/backend-sdk'

// Adopted sockets take the server's options. Half-open: a client that has sent all still gets the rest of its echo.
const server = createServer({ allowHalfOpen: true }, (socket) => {
  pipeline(socket, socket, (error) => {
    if (error) console.error(`${socket.remoteAddress}:${socket.remotePort}: ${error.message}`)
  })
})

// Which broker and which service come from BATON_SOCKET and BATON_SERVICE.
const backend = createBackend()
backend.attach(server)
await backend.ready()

// Only the client knows when such a session is over, so it may continue until the deadline, and is then cut.
process.once('SIGTERM', () => void backend.drain({ deadline: '60s' }))
