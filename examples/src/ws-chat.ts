// A WebSocket chat behind Baton that is deployed while its users talk: each message goes to all clients of this process, and a client moves to the
// next process with its name. (A chat room across several processes needs a message broker between them, which Baton does not provide.)
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { migrateWebSockets } from '@baton/backend-sdk/ws'
import { WebSocket, WebSocketServer } from 'ws'

const server = createServer((_request, response) => response.writeHead(426, { upgrade: 'websocket' }).end())
const chat = new WebSocketServer({ server })
/** The facts that this process knows about its clients, and the next one must be told. */
const names = new WeakMap<WebSocket, string>()

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
const backend = createBackend()
backend.attach(server)

chat.on('connection', (socket, request) => {
  names.set(socket, `${request.socket.remoteAddress}:${request.socket.remotePort}`)
  const name = () => names.get(socket) ?? ''
  socket.on('message', (data, isBinary) => {
    const text = isBinary ? '(binary)' : (data as Buffer).toString()
    const [, chosen] = /^\/name (.+)$/.exec(text) ?? []
    if (chosen === undefined) return broadcast(`${name()}: ${text}`)
    broadcast(`${name()} is now ${chosen}`)
    names.set(socket, chosen)
  })
  // For example an invalid frame. `ws` closes the connection itself.
  socket.on('error', (error) => console.error(`${name()}: ${error.message}`))
  socket.on('close', () => {
    // The client has not left: another process has it now.
    if (backend.connection(request.socket)?.movedOn !== true) broadcast(`${name()} left`)
  })
  // It has not joined either, if it comes from another process.
  if (backend.connection(request.socket)?.resumed === undefined) broadcast(`${name()} joined`)
})

migrateWebSockets(chat, backend, {
  schema: 'chat/1',
  state: (socket) => ({ name: names.get(socket) ?? '' }),
  resume: (socket, { name }) => void names.set(socket, name),
})

function broadcast(text: string): void {
  for (const client of chat.clients)
    if (client.readyState === WebSocket.OPEN) client.send(`${text} [process ${process.pid}]`)
}

await backend.ready()
process.once('SIGTERM', () => void backend.drain())
