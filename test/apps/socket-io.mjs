// https://socket.io/docs/v4/server-initialization/#with-an-http-server
import { createServer } from 'node:http'
import { Server } from 'socket.io'

const httpServer = createServer()
const io = new Server(httpServer, {})

io.on('connection', (socket) => {
  socket.on('message', (text) => {
    socket.emit('message', `${process.pid} received ${text}`)
  })

  const { remoteAddress, remotePort } = socket.request.socket
  socket.emit('message', `${process.pid} ${remoteAddress} ${remotePort}`)
})

httpServer.listen(process.env.PORT ?? 3000)
