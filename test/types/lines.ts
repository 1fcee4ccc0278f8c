// The example of plain TCP in docs/how-to/websockets.md.
import { createServer, type Socket } from 'node:net'
import { createBackend } from '@baton/backend-sdk'

interface Session {
  user: string
  /** The beginning of a line: read, and not used yet. */
  rest: Buffer
}
declare const sessions: Map<Socket, Session>
declare function start(socket: Socket, user: string): void

const server = createServer((socket) => socket.once('close', () => sessions.delete(socket)))
const backend = createBackend({ service: 'lines' })

backend.attach(server, {
  migrate: {
    schema: 'lines/1',
    state: (socket) => {
      const session = sessions.get(socket)
      if (session === undefined) return undefined
      socket.unshift(session.rest) // read, and not used: the next process reads it again
      session.rest = Buffer.alloc(0)
      return { user: session.user }
    },
    resume: (socket, { user }) => start(socket, user),
  },
})
