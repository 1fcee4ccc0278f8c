// The server's side of random conversations. A client begins with a line that has its number; how each went is a line on standard output.
import net from 'node:net'
import { createBackend } from '@baton/backend-sdk'
import { play } from './random-streams.mjs'

const server = net.createServer({ allowHalfOpen: true }, (socket) => {
  let head = Buffer.alloc(0)
  const onReadable = () => {
    const chunk = socket.read()
    if (chunk === null) return
    head = Buffer.concat([head, chunk])
    const at = head.indexOf('\n')
    if (at === -1) return
    socket.off('readable', onReadable)
    const id = Number(head.subarray(0, at))
    void play(socket, id, 'server', head.subarray(at + 1)).then((result) =>
      console.log(JSON.stringify({ msg: 'conversation', id, ...result })),
    )
  }
  socket.on('readable', onReadable)
  socket.on('error', () => {})
})
const backend = process.env.PORT === undefined ? createBackend() : undefined
backend?.attach(server)
await backend?.ready()
if (backend === undefined) await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
console.log(JSON.stringify({ msg: 'ready', pid: process.pid, port: server.address()?.port }))
