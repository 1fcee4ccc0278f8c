// A line protocol in which the server speaks first: a greeting with the number of the connection, an echo, and a last
// line once the client has stopped sending. A client that sends `reset me` is reset.
import net from 'node:net'
import { createBackend } from '@baton/backend-sdk'

let turns = 0
const server = net.createServer({ allowHalfOpen: true }, (socket) => {
  const { remoteAddress, remotePort } = socket
  socket.write(`${JSON.stringify({ pid: process.pid, turn: ++turns, remoteAddress, remotePort })}\n`)
  let bytes = 0
  socket.on('data', (chunk) => {
    bytes += chunk.length
    if (chunk.toString() === 'reset me') socket.resetAndDestroy()
    else socket.write(chunk)
  })
  socket.on('end', () => socket.end(`bye ${bytes}\n`))
  socket.on('error', () => socket.destroy())
})

const backend = createBackend()
backend.attach(server)
await backend.ready()
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
