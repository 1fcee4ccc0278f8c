// https://github.com/websockets/ws#simple-server
import { WebSocketServer } from 'ws'

const wss = new WebSocketServer({ port: process.env.PORT ?? 8080 })

wss.on('connection', function connection(ws, request) {
  ws.on('error', console.error)

  ws.on('message', function message(data) {
    ws.send(`${process.pid} received ${Buffer.from(data).toString()}`)
  })

  const { remoteAddress, remotePort } = request.socket
  ws.send(`${process.pid} ${remoteAddress} ${remotePort}`)
})
