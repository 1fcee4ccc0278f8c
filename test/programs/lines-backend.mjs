// A protocol of lines over plain TCP: each is echoed with its number on that connection. The number, and the beginning of a line, move with
// the connection. SIGTERM drains it; it then exits by itself.
import { createServer } from 'node:net'
import { createBackend } from '@baton/backend-sdk'

const sessions = new WeakMap()
const server = createServer((socket) => {
  const session = { count: 0, rest: Buffer.alloc(0) }
  sessions.set(socket, session)
  socket.on('error', () => undefined)
  socket.on('data', (chunk) => {
    session.rest = Buffer.concat([session.rest, chunk])
    for (let end = session.rest.indexOf(10); end !== -1; end = session.rest.indexOf(10)) {
      session.count += 1
      socket.write(`${session.count} ${session.rest.toString('latin1', 0, end + 1)}`)
      session.rest = session.rest.subarray(end + 1)
    }
  })
})

const backend = createBackend()
backend.attach(server, {
  migrate: {
    schema: 'lines/1',
    state: (socket) => {
      const session = sessions.get(socket)
      socket.unshift(session.rest)
      session.rest = Buffer.alloc(0)
      return { count: session.count }
    },
    resume: (socket, { count }) => {
      sessions.get(socket).count = count
    },
  },
})
await backend.ready()
process.once('SIGTERM', () => void backend.drain({ deadline: process.env.DRAIN_DEADLINE ?? '30s' }))
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
