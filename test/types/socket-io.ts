// The example in docs/how-to/socket-io.md.
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { migrateSocketIo } from '@baton/backend-sdk/socket.io'
import { Server, type Socket } from 'socket.io'

interface ToServer {
  say(text: string): void
}
interface ToClient {
  said(number: number, text: string): void
  welcome(): void
}
interface Data {
  room: string
  /** Number of the last message that this client was sent. */
  last: number
}
type ChatSocket = Socket<ToServer, ToClient, Record<string, never>, Data>

/** The rest of the app: messages of rooms have numbers and are kept for a while, in Redis for example. */
declare function since(room: string, last: number): { number: number; text: string }[]
declare function publish(room: string, text: string): void

const server = createServer()
const io = new Server<ToServer, ToClient, Record<string, never>, Data>(server)
const backend = createBackend({ service: 'chat' })
backend.attach(server)

const sockets = migrateSocketIo(io, backend)

function deliver(socket: ChatSocket, { number, text }: { number: number; text: string }): void {
  if (number <= socket.data.last) return
  socket.data.last = number
  socket.emit('said', number, text)
}

io.on('connection', (socket) => {
  socket.on('say', (text) => publish(socket.data.room, text))
  socket.on('disconnect', () => {
    if (sockets.connection(socket)?.movedOn) return // the user is still there
    console.log('a user has left')
  })
  if (socket.recovered) {
    const { room, last } = socket.data
    for (const message of since(room, last)) deliver(socket, message) // sent while it moved
    return
  }
  const room = String(socket.handshake.query['room'])
  socket.data = { room, last: 0 }
  void socket.join(room)
  socket.emit('welcome')
})

// Long-polling clients cannot move: they reconnect to another process at once.
backend.on('drain', () => {
  for (const { conn } of io.sockets.sockets.values()) if (conn.transport.name !== 'websocket') conn.close()
})

declare const other: Server
migrateSocketIo<{ draft: string }>(other, backend, {
  schema: 'chat/2',
  accepts: ['chat/1', 'chat/2'],
  state: (socket: ChatSocket) => (socket.data.room === '' ? undefined : { draft: '' }),
  resume: async (socket, { draft }) => {
    await Promise.resolve(draft)
    socket.emit('welcome')
  },
})

await backend.ready()
process.once('SIGTERM', () => void backend.drain())
