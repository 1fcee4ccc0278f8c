// A server of numbered events like a user's: all clients get the same events, and a client that moves gets what was published meanwhile. The
// time decides which events there are, so that every process publishes the same. FLAVOUR: `http`, `express`, `fastify`.
// The path chooses a fault: `/gzip` is compressed, `/sized` has a Content-Length, `/state-throws`, `/state-bigint`, `/state-large`,
// `/state-never`, `/resume-throws`, `/refused` (only the first process answers with 200). SIGTERM drains it, and so does a line `drain`; it then
// exits by itself. A line `end` ends all streams; another line is answered with the numbers of errors.
import http from 'node:http'
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { createGzip } from 'node:zlib'
import { createBackend } from '@baton/backend-sdk'
import { migrateEventStreams } from '@baton/backend-sdk/event-streams'

const INTERVAL_MS = 50
const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

/** Number of the newest event. */
const newest = () => Math.floor((Date.now() - Number(process.env.EPOCH ?? 0)) / INTERVAL_MS)
const text = (number) => `id: ${number}\ndata: ${'x'.repeat(number % 50)}\n\n`

/** By answer: the client, with the number of the last event that it was sent. */
const clients = new Map()
function catchUp(client, until = newest()) {
  while (client.last < until) {
    client.last += 1
    // In pieces, which are chunks of their own.
    const event = text(client.last)
    client.output.write(event.slice(0, 6))
    client.output.write(event.slice(6))
  }
}
function publish(until = newest()) {
  for (const client of clients.values()) if (client.joined) catchUp(client, until)
}
setInterval(() => publish(), INTERVAL_MS).unref()

function stream(request, response) {
  const path = request.url.split('?')[0]
  const { resumed } = backend.connection(request.socket)
  if (path === '/refused' && resumed !== undefined) {
    response.writeHead(401).end()
    return
  }
  const gzip = path === '/gzip'
  response.writeHead(200, {
    'Content-Type': 'text/event-stream',
    'Cache-Control': 'no-store',
    ...(gzip && { 'Content-Encoding': 'gzip' }),
    ...(path === '/sized' && { 'Content-Length': 1_000_000_000 }),
  })
  const output = gzip ? createGzip() : response
  if (gzip) output.pipe(response)
  const client = { path, output, last: newest(), joined: false }
  clients.set(response, client)
  if (resumed === undefined) {
    output.write(`event: hello\ndata: ${client.last}\n\n`)
    client.joined = true
  }
  response.on('close', () => {
    clients.delete(response)
    say('closed', { path, movedOn: backend.connection(request.socket).movedOn })
  })
}

const handlers = {
  http: () => http.createServer(handle),
  express: async () => {
    const { default: express } = await import('express')
    const app = express()
    app.get('/pid', handle)
    app.get('/{*path}', async (request, response) => {
      // As the look-up of a session would: a client that has moved is taken up well after its connection.
      if (backend.connection(request.socket).resumed !== undefined) await setTimeout(100)
      handle(request, response)
    })
    return http.createServer(app)
  },
  fastify: async () => {
    const { default: Fastify } = await import('fastify')
    const app = Fastify()
    app.get('/pid', () => String(process.pid))
    app.get('/*', async (request, reply) => {
      // As authentication would: it takes a while.
      await new Promise((resolve) => setImmediate(resolve))
      reply.hijack()
      stream(request.raw, reply.raw)
    })
    await app.ready()
    return app.server
  },
}
function handle(request, response) {
  if (request.url === '/pid') response.end(String(process.pid))
  else stream(request, response)
}

const states = {
  '/state-throws': () => {
    throw new Error('a bug in state')
  },
  '/state-bigint': () => 1n,
  '/state-large': () => 'x'.repeat(300_000),
  '/state-never': () => undefined,
}
const server = await handlers[process.env.FLAVOUR ?? 'http']()
// Clients make another request after a stream, on the same connection, however slow the machine is.
server.keepAliveTimeout = 600_000
const backend = createBackend()
backend.attach(server)
migrateEventStreams(server, backend, {
  schema: 'events/1',
  state: (response) => {
    const client = clients.get(response)
    return client && (states[client.path] ?? (() => ({ last: client.last })))()
  },
  resume: (response, { last }) => {
    const client = clients.get(response)
    if (client.path === '/resume-throws') throw new Error('a bug in resume')
    client.last = last
    client.joined = true
    catchUp(client)
    say('resumed', { path: client.path })
  },
})

/** All clients of `/events` have then had the same. */
function end(until) {
  for (const client of clients.values()) {
    if (client.path === '/events') catchUp(client, until)
    client.joined = false
    client.output.end()
  }
  // The next event may come before `close`: a compressor takes its time to end.
  publish(until + 1)
}

const drain = () =>
  void backend.drain({ deadline: process.env.DRAIN_DEADLINE ?? '30s' }).then(() => say('drained'))
backend.on('drain', () => say('draining'))
createInterface({ input: process.stdin }).on('line', (word) => {
  if (word === 'drain') drain()
  else if (word === 'end') end(newest())
  else say(word, { errors: backend.migrationErrors })
})
process.stdin.unref?.()
process.once('SIGTERM', drain)
await backend.ready()
say('ready')
