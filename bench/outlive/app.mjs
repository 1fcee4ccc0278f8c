// A chat over WebSockets and an API over HTTP, as a user would write them. Connections move to the next process when this one drains.
//
// The chat numbers what it sends on each connection: `NUMBER answer PID EPOCH HEARD ECHOED CRC` to each message `ECHOED TEXT`, which is the
// HEARDth, with the checksum of the whole; `NUMBER push PID EPOCH CRC TEXT` at random moments; and `NUMBER resumed PID EPOCH MICROSECONDS`
// after a move: the time since the state was taken. EPOCH is the number of moves. The API answers `/NUMBER` with `NUMBER PID`.
//
// At its exit it adds the number of requests and messages that it has handled to the file HANDLED.
import { appendFileSync } from 'node:fs'
import http from 'node:http'
import { createInterface } from 'node:readline'
import { crc32 } from 'node:zlib'
import { createBackend } from '@baton/backend-sdk'
import { migrateWebSockets } from '@baton/backend-sdk/ws'
import { WebSocketServer } from 'ws'
import { below, micros } from './totals.mjs'

const { HANDLED, PUSHES_PER_SECOND = '0', DRAIN_DEADLINE = '10m' } = process.env
const PUSH_INTERVAL_MS = 5

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))
let requests = 0
let messages = 0
const server = http.createServer((request, response) => {
  requests += 1
  const body = `${request.url.slice(1)} ${process.pid}`
  response.writeHead(200, { 'content-length': body.length }).end(body)
})
server.keepAliveTimeout = 3_600_000

const wss = new WebSocketServer({ server })
/** @type {Map<import('ws').WebSocket, { heard: number, said: number, epoch: number }>} */
const members = new Map()
const send = (ws, member, kind, ...rest) => {
  member.said += 1
  ws.send(`${member.said} ${kind} ${process.pid} ${member.epoch} ${rest.join(' ')}`)
}
wss.on('connection', (ws) => {
  const member = { heard: 0, said: 0, epoch: 0 }
  members.set(ws, member)
  ws.on('error', () => undefined)
  ws.on('close', () => members.delete(ws))
  ws.on('message', (data) => {
    messages += 1
    member.heard += 1
    send(ws, member, 'answer', member.heard, Number.parseInt(data.toString('latin1', 0, 12), 10), crc32(data))
  })
})

const backend = createBackend({ logger: process.env.QUIET === undefined ? undefined : false })
backend.attach(server)
migrateWebSockets(wss, backend, {
  schema: 'bench/1',
  state: (ws) => ({ ...members.get(ws), frozenAt: micros() }),
  resume: (ws, { frozenAt, ...member }) => {
    const mine = Object.assign(members.get(ws), member)
    mine.epoch += 1
    send(ws, mine, 'resumed', micros() - frozenAt)
  },
})

let owed = 0
if (PUSHES_PER_SECOND !== '0')
  setInterval(() => {
    owed += (Number(PUSHES_PER_SECOND) * PUSH_INTERVAL_MS) / 1000
    if (members.size === 0) owed = 0
    const all = [...members]
    for (; owed >= 1 && all.length > 0; owed--) {
      const [ws, member] = all[below(all.length)]
      const text = 'x'.repeat(below(200))
      if (ws.readyState === ws.OPEN) send(ws, member, 'push', crc32(text), text)
    }
  }, PUSH_INTERVAL_MS).unref()

if (HANDLED !== undefined) process.on('exit', () => appendFileSync(HANDLED, `${requests} ${messages}\n`))
backend.on('drain', () => say('draining'))
createInterface({ input: process.stdin }).on('line', () => void backend.drain({ deadline: DRAIN_DEADLINE }))
process.stdin.unref?.()
process.once('SIGTERM', () => process.exit())
await backend.ready()
say('ready')
