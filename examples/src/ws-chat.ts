// A chat over WebSocket behind Baton: what one client says, all clients of this process hear. (A chat room that spans
// several processes needs something between them to publish on; that is not Baton's part.)
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { WebSocket, WebSocketServer } from 'ws'

const GOING_AWAY = 1001 // RFC 6455, 7.4.1: clients dial again, and reach a process that stays.

const server = createServer((_request, response) => response.writeHead(426, { upgrade: 'websocket' }).end())
const chat = new WebSocketServer({ server })

chat.on('connection', (socket, request) => {
  const name = `${request.socket.remoteAddress}:${request.socket.remotePort}`
  socket.on('message', (data, isBinary) =>
    say(`${name}: ${isBinary ? '(binary)' : (data as Buffer).toString()}`),
  )
  // Such as a frame that is no WebSocket frame. `ws` closes the connection by itself.
  socket.on('error', (error) => console.error(`${name}: ${error.message}`))
  socket.on('close', () => say(`${name} left`))
  say(`${name} joined`)
})

function say(text: string): void {
  for (const client of chat.clients) if (client.readyState === WebSocket.OPEN) client.send(text)
}

// Which broker and which service come from BATON_SOCKET and BATON_SERVICE.
const backend = createBackend()
backend.attach(server)
// An upgraded connection has no last answer to leave after, so the app says goodbye. The operator can ask for a drain too
// (`baton drain`), hence the event and not the signal.
backend.on('drain', () => {
  for (const client of chat.clients) client.close(GOING_AWAY, 'draining')
})
await backend.ready()

process.once('SIGTERM', () => void backend.drain())
