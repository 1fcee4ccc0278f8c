// A plain TCP server behind Baton, on a listener with `"protocol": "tcp"`: each client gets back what it sends.
import { createServer } from 'node:net'
import { pipeline } from 'node:stream'
import { createBackend } from '@baton/backend-sdk'

// Adopted sockets get the server's options. allowHalfOpen: a client that has ended its side still gets the rest of its echo.
const server = createServer({ allowHalfOpen: true }, (socket) => {
  pipeline(socket, socket, (error) => {
    if (error) console.error(`${socket.remoteAddress}:${socket.remotePort}: ${error.message}`)
  })
})

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
const backend = createBackend()
backend.attach(server)
await backend.ready()

// Only the client knows when its session is over, so sessions may continue until the deadline and are then cut.
process.once('SIGTERM', () => void backend.drain({ deadline: '60s' }))
