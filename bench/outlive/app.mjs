// A chat over WebSockets and an API over HTTP, as a user would write them. Connections move to the next process when this one drains.
//
// The chat numbers what it sends on each connection: `NUMBER answer PID EPOCH HEARD ECHOED CRC` to each message `ECHOED TEXT`, which is the
// HEARDth, with the checksum of the whole; `NUMBER push PID EPOCH CRC TEXT` at random moments; and `NUMBER resumed PID EPOCH MICROSECONDS`
// after a move: the time since the state was taken. EPOCH is the number of moves. The API answers `/NUMBER` with `NUMBER PID`.
//
// Lines on standard input: `drain` hands everything over, and `serve` registers again, in the same process, if STAY is set; without it a drained
// process exits. QUIET_MOVES: no message after a move. At its exit it adds the number of requests and messages that it has handled to the file HANDLED.
import { appendFileSync } from 'node:fs'
import http from 'node:http'
import { createInterface } from 'node:readline'
import { crc32 } from 'node:zlib'
import { createBackend } from '@baton/backend-sdk'
import { migrateWebSockets } from '@baton/backend-sdk/ws'
import { WebSocketServer } from 'ws'
import { below, micros } from './totals.mjs'

const { HANDLED, QUIET, QUIET_MOVES, STAY, PUSHES_PER_SECOND = '0', DRAIN_DEADLINE = '600000' } = process.env
const PUSH_INTERVAL_MS = 5

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))
let requests = 0
let messages = 0
/** @type {Map<import('ws').WebSocket, { heard: number, said: number, epoch: number }>} */
const members = new Map()
let backend

function send(ws, member, kind, ...rest) {
  member.said += 1
  ws.send(`${member.said} ${kind} ${process.pid} ${member.epoch} ${rest.join(' ')}`)
}

async function serve() {
  const server = http.createServer((request, response) => {
    requests += 1
    const body = `${request.url.slice(1)} ${process.pid}`
    response.writeHead(200, { 'content-length': body.length }).end(body)
  })
  server.keepAliveTimeout = 3_600_000

  const wss = new WebSocketServer({ server })
  wss.on('connection', (ws) => {
    const member = { heard: 0, said: 0, epoch: 0 }
    members.set(ws, member)
    ws.on('error', () => undefined)
    ws.on('close', () => members.delete(ws))
    ws.on('message', (/** @type {Buffer} */ data) => {
      messages += 1
      member.heard += 1
      const echoed = Number.parseInt(data.toString('latin1', 0, 12), 10)
      send(ws, member, 'answer', member.heard, echoed, crc32(data))
    })
  })

  backend = createBackend({ logger: QUIET === undefined ? undefined : false })
  backend.attach(server)
  migrateWebSockets(wss, backend, {
    schema: 'bench/1',
    state: (ws) => ({ ...members.get(ws), frozenAt: micros() }),
    resume: (ws, { frozenAt, ...member }) => {
      const mine = Object.assign(members.get(ws), member)
      mine.epoch += 1
      if (QUIET_MOVES === undefined) send(ws, mine, 'resumed', micros() - frozenAt)
    },
  })
  backend.on('drain', () => say('draining'))
  await backend.ready()
  say('ready')
}

let owed = 0
function push() {
  owed += (Number(PUSHES_PER_SECOND) * PUSH_INTERVAL_MS) / 1000
  if (members.size === 0) owed = 0
  const all = [...members]
  for (; owed >= 1 && all.length > 0; owed--) {
    const [ws, member] = all[below(all.length)]
    const text = 'x'.repeat(below(200))
    if (ws.readyState === ws.OPEN) send(ws, member, 'push', crc32(text), text)
  }
}

async function drain() {
  await backend.drain({ deadline: Number(DRAIN_DEADLINE) })
  say('drained')
}

if (PUSHES_PER_SECOND !== '0') setInterval(push, PUSH_INTERVAL_MS).unref()
if (HANDLED !== undefined) process.on('exit', () => appendFileSync(HANDLED, `${requests} ${messages}\n`))
const orders = { drain, serve }
createInterface({ input: process.stdin })
  .on('line', (order) => void orders[order]())
  .on('close', () => STAY !== undefined && process.exit())
if (STAY === undefined) process.stdin.unref?.()
process.once('SIGTERM', () => process.exit())
await serve()
