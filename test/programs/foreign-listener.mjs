// Listens on a Unix socket as another user: `UID PATH`. Prints each connection, and how many bytes it sent.
// Imports nothing from the repository: that user may not be able to read it.
import net from 'node:net'

const [uid, path] = process.argv.slice(-2)
const say = (msg, more = {}) => console.log(JSON.stringify({ msg, ...more }))

const server = net.createServer((socket) => {
  socket.on('error', () => {})
  socket.on('close', () => say('connection ended', { bytes: socket.bytesRead }))
  socket.resume()
})
process.setgid(Number(uid))
process.setuid(Number(uid))
server.listen(path, () => say('listening', { uid: process.getuid() }))
