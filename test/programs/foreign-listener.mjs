// Listens at a Unix socket as another user than it was started as: `UID PATH`. Says who comes, and how much each had to say.
// Imports nothing of the repository: that user may not be allowed to read it.
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
