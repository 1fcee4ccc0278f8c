// A server of y-websocket. The client has the document, so that the next process gets it from there; who is present moves along.
import http from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { migrateWebSockets } from '@baton/backend-sdk/ws'
import { getYDoc, setupWSConnection } from '@y/websocket-server/utils'
import { createEncoder, toUint8Array, writeVarUint } from 'lib0/encoding'
import { WebSocketServer } from 'ws'
import { applyAwarenessUpdate, encodeAwarenessUpdate } from 'y-protocols/awareness'
import { writeUpdate } from 'y-protocols/sync'
import { encodeStateAsUpdate } from 'yjs'

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

const MESSAGE_SYNC = 0
const server = http.createServer()
const wss = new WebSocketServer({ server })
const backend = createBackend()
backend.attach(server)

const docOf = (request) => getYDoc(request.url.slice(1).split('?')[0])
wss.on('connection', (ws, request) => {
  // Asks the client for what this process does not have.
  setupWSConnection(ws, request)
  ws.on('close', () => say('closed', { movedOn: backend.connection(request.socket).movedOn }))
})
migrateWebSockets(wss, backend, {
  schema: 'yjs/1',
  state(ws, request) {
    const { awareness, conns } = docOf(request)
    const present = [...(conns.get(ws) ?? [])]
    return { awareness: Buffer.from(encodeAwarenessUpdate(awareness, present)).toString('base64') }
  },
  resume(ws, state, request) {
    const doc = docOf(request)
    applyAwarenessUpdate(doc.awareness, Buffer.from(state.awareness, 'base64'), ws)
    // Changes that others made while it moved.
    const encoder = createEncoder()
    writeVarUint(encoder, MESSAGE_SYNC)
    writeUpdate(encoder, encodeStateAsUpdate(doc))
    ws.send(toUint8Array(encoder))
  },
})
// Each document has a timer, which keeps the process running.
process.once('SIGTERM', () => void backend.drain({ deadline: '1h' }).then(() => process.exit()))
await backend.ready()
say('ready')
