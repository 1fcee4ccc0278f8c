// The example in docs/how-to/websockets.md.
import { createServer, type IncomingMessage } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { migrateWebSockets } from '@baton/backend-sdk/ws'
import { type WebSocket, WebSocketServer } from 'ws'

/** The rest of the app: rooms whose messages have numbers and are kept for a while, in Redis for example. */
interface Room {
  join(member: Member): void
  leave(member: Member): void
  /** The messages behind a number. */
  since(last: number): { number: number; text: string }[]
}
declare function roomOf(request: IncomingMessage): Room

const server = createServer()
const wss = new WebSocketServer({ server })
const backend = createBackend({ service: 'chat' })
backend.attach(server)

interface Member {
  room: Room
  /** Number of the last message that this client was sent. */
  last: number
  deliver(message: { number: number; text: string }): void
}
const members = new WeakMap<WebSocket, Member>()

wss.on('connection', (ws, request) => {
  const member: Member = {
    room: roomOf(request),
    last: 0,
    deliver({ number, text }) {
      member.last = number
      ws.send(text)
    },
  }
  members.set(ws, member)
  if (backend.connection(request.socket)?.resumed === undefined) {
    ws.send('welcome')
    member.room.join(member)
  }
  ws.on('close', () => {
    member.room.leave(member)
    if (backend.connection(request.socket)?.movedOn) return // the user is still there
    console.log('a user has left')
  })
})

migrateWebSockets(wss, backend, {
  schema: 'chat/1',
  state: (ws) => ({ last: members.get(ws)?.last ?? 0 }),
  resume: (ws, { last }) => {
    const member = members.get(ws)
    if (member === undefined) return
    member.last = last
    for (const message of member.room.since(last)) member.deliver(message) // sent while it moved
    member.room.join(member)
  },
})

await backend.ready()
process.once('SIGTERM', () => void backend.drain())
