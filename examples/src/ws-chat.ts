// A WebSocket chat behind Baton: each message goes to all clients of this process. (A chat room across several processes needs
// a message broker between them, which Baton does not provide.)
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { WebSocket, WebSocketServer } from 'ws'

const GOING_AWAY = 1001 // RFC 6455, 7.4.1. Clients reconnect, and reach another process.

const server = createServer((_request, response) => response.writeHead(426, { upgrade: 'websocket' }).end())
const chat = new WebSocketServer({ server })

chat.on('connection', (socket, request) => {
  const name = `${request.socket.remoteAddress}:${request.socket.remotePort}`
  socket.on('message', (data, isBinary) =>
    broadcast(`${name}: ${isBinary ? '(binary)' : (data as Buffer).toString()}`),
  )
  // For example an invalid frame. `ws` closes the connection itself.
  socket.on('error', (error) => console.error(`${name}: ${error.message}`))
  socket.on('close', () => broadcast(`${name} left`))
  broadcast(`${name} joined`)
})

function broadcast(text: string): void {
  for (const client of chat.clients) if (client.readyState === WebSocket.OPEN) client.send(text)
}

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
const backend = createBackend()
backend.attach(server)
// WebSockets do not end after a response, so the app closes them. On the event, not on the signal, because the operator can
// request a drain too (`baton drain`).
backend.on('drain', () => {
  for (const client of chat.clients) client.close(GOING_AWAY, 'draining')
})
await backend.ready()

process.once('SIGTERM', () => void backend.drain())
