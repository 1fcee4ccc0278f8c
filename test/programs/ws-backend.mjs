// A server of WebSockets like a user's: it echoes each message with its number on that connection, and hands the number over when the
// connection moves. The path chooses a fault: `/state-throws`, `/state-bigint`, `/state-large`, `/state-never`, `/resume-throws`,
// `/refused` (only the first process answers with 101); `/state-big` is large, and not too large; `/state-tells` sends a message to the
// others of its kind, `/state-closes` closes them. SIGTERM drains it, and so does a line `drain`; it then exits by itself.
// `close-server` closes the server of WebSockets.
// Another line is answered with the numbers of errors.
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'
import { migrateWebSockets } from '@baton/backend-sdk/ws'
import { WebSocketServer } from 'ws'

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

const server = http.createServer((request, response) => response.end(String(process.pid)))
const backend = createBackend()
backend.attach(server)

const wss = new WebSocketServer({
  server,
  perMessageDeflate: { threshold: 0 },
  verifyClient: ({ req }) => req.url !== '/refused' || backend.connection(req.socket).resumed === undefined,
})
const counts = new WeakMap()
const paths = new WeakMap()
/** Messages of other connections' states. */
const told = new WeakMap()
const pathOf = ({ url }) => url.split('?')[0]
wss.on('connection', (ws, request) => {
  counts.set(ws, 0)
  paths.set(ws, pathOf(request))
  ws.on('error', () => undefined)
  ws.on('message', (data, binary) => {
    counts.set(ws, counts.get(ws) + 1)
    ws.send(Buffer.concat([Buffer.from(`${counts.get(ws)} `), data]), { binary })
  })
  ws.on('close', (code) =>
    say('closed', {
      path: request.url,
      code,
      movedOn: backend.connection(request.socket).movedOn,
      told: told.get(ws) ?? 0,
    }),
  )
})

const others = (ws, request) =>
  [...wss.clients].filter(
    (each) => each !== ws && each.readyState === each.OPEN && paths.get(each) === pathOf(request),
  )

// ADOPT_FAULT: a listener throws for each connection that was resumed.
if (process.env.ADOPT_FAULT !== undefined) {
  process.on('uncaughtException', ({ message }) => say('uncaught', { message }))
  backend.on('adopt', (_socket, { resumed }) => {
    if (resumed !== undefined) throw new Error('a bug in adopt')
  })
}

const states = {
  '/state-tells': (ws, request) => {
    for (const other of others(ws, request)) {
      other.send('told')
      told.set(other, (told.get(other) ?? 0) + 1)
    }
    return { count: counts.get(ws), told: told.get(ws) ?? 0 }
  },
  '/state-closes': (ws, request) => {
    for (const other of others(ws, request)) other.close()
    return { count: counts.get(ws) }
  },
  '/state-throws': () => {
    throw new Error('a bug in state')
  },
  '/state-bigint': () => 1n,
  '/state-large': () => 'x'.repeat(300_000),
  '/state-big': () => 'x'.repeat(200_000),
  '/state-never': () => undefined,
}
const schema = process.env.SCHEMA ?? 'echo/1'
migrateWebSockets(wss, backend, {
  schema,
  accepts: process.env.ACCEPTS?.split(',') ?? [schema],
  state: (ws, request) => (states[pathOf(request)] ?? (() => ({ count: counts.get(ws) })))(ws, request),
  resume: (ws, { count }, request) => {
    if (request.url === '/resume-throws') throw new Error('a bug in resume')
    counts.set(ws, count)
    say('resumed', { path: request.url })
  },
})

const drain = () =>
  void backend
    .drain({ deadline: process.env.DRAIN_DEADLINE ?? '30s' })
    .then(() => say('drained', { live: wss.clients.size }))
backend.on('disconnected', () => say('disconnected'))
backend.on('drain', () => say('draining'))
createInterface({ input: process.stdin }).on('line', (word) => {
  if (word === 'drain') drain()
  else if (word === 'close-server') wss.close()
  else say(word, { errors: backend.migrationErrors })
})
// A drained process exits, even while standard input is open.
process.stdin.unref?.()
process.once('SIGTERM', drain)
await backend.ready()
say('ready')
