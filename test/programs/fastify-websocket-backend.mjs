// An app of Fastify with @fastify/websocket: its route echoes each message with its number on that connection.
import websocket from '@fastify/websocket'
import { createBackend } from '@baton/backend-sdk'
import { migrateWebSockets } from '@baton/backend-sdk/ws'
import Fastify from 'fastify'

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

const app = Fastify()
const counts = new WeakMap()
await app.register(websocket)
app.get('/chat', { websocket: true }, (ws, request) => {
  counts.set(ws, 0)
  ws.on('message', (data, binary) => {
    counts.set(ws, counts.get(ws) + 1)
    ws.send(Buffer.concat([Buffer.from(`${counts.get(ws)} `), data]), { binary })
  })
  ws.on('close', () => say('closed', { movedOn: backend.connection(request.raw.socket).movedOn }))
})
await app.ready()

const backend = createBackend()
backend.attach(app.server)
migrateWebSockets(app.websocketServer, backend, {
  schema: 'echo/1',
  state: (ws) => ({ count: counts.get(ws) }),
  resume: (ws, { count }) => void counts.set(ws, count),
})
process.once('SIGTERM', () => void backend.drain({ deadline: '1h' }))
await backend.ready()
say('ready')
