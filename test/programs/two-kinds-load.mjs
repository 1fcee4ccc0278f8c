// Clients of two kinds, until `stop` on stdin: KEPT connections that send one request after another and are never closed, and
// new connections with one request each, FRESH at a time. Nothing is retried, and every failure is in the results with
// the port and the time of its connection; a kept connection that fails is replaced. Times are milliseconds of CLOCK_MONOTONIC.
import net from 'node:net'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'

const ANSWER_TIMEOUT_MS = 30_000

const { values } = parseArgs({
  options: {
    port: { type: 'string' },
    kept: { type: 'string', default: '64' },
    fresh: { type: 'string', default: '2' },
    /** Milliseconds between a response and the next request of its kind. */
    pause: { type: 'string', default: '0' },
  },
})
const port = Number(values.port)
const pause = Number(values.pause)
const now = () => Number(process.hrtime.bigint()) / 1e6
const say = (msg, more) => console.log(JSON.stringify({ msg, ...more }))

let stopped = false
let open = 0
let connections = 0
let requests = 0
let slowest = 0
/** Kept connections that ended after a response with `Connection: close`, and were replaced. */
let lastAnswers = 0
/** Local ports of the kept connections that a backend has answered: before that, the broker may still own them. */
const keptPorts = new Set()
const failures = []

/** `kind`: `kept` or `fresh`. */
function connect(kind) {
  if (stopped) return
  const begun = now()
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true })
  const request = `GET / HTTP/1.1\r\nHost: load\r\n${kind === 'fresh' ? 'Connection: close\r\n' : ''}\r\n`
  let local = 0
  let asked = begun
  let waiting = true
  let answered = 0
  let text = ''
  let failure
  /** The response had `Connection: close`: HTTP's own way to end a connection. */
  let announced = false
  connections += 1
  open += 1
  const ask = () => {
    if (stopped) {
      socket.destroy()
      return
    }
    asked = now()
    waiting = true
    socket.write(request)
  }
  socket.setEncoding('latin1')
  socket.setTimeout(ANSWER_TIMEOUT_MS, () => socket.destroy(Object.assign(new Error(), { code: 'timeout' })))
  socket.on('connect', () => {
    local = socket.localPort
  })
  socket.write(request)
  socket.on('data', (chunk) => {
    text += chunk
    const body = text.indexOf('\r\n\r\n') + 4
    if (body < 4) return
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(text)?.[1])
    if (!(text.length - body >= length)) return
    const status = text.slice('HTTP/1.1 '.length, 12)
    announced = /\r\nconnection: close\r\n/i.test(text.slice(0, body))
    text = ''
    waiting = false
    if (status !== '200') {
      socket.destroy(Object.assign(new Error(), { code: `status ${status}` }))
      return
    }
    requests += 1
    answered += 1
    if (kind === 'kept') keptPorts.add(local)
    slowest = Math.max(slowest, now() - asked)
    if (kind === 'kept' && !announced) setTimeout(ask, pause)
  })
  socket.on('error', (error) => {
    failure = [error.code, error.syscall].filter(Boolean).join(' ')
  })
  socket.on('close', () => {
    open -= 1
    keptPorts.delete(local)
    if (failure === undefined && waiting) failure = text === '' ? 'no answer' : 'cut answer'
    else if (failure === undefined && kind === 'kept' && announced) lastAnswers += 1
    else if (failure === undefined && kind === 'kept' && !stopped) failure = 'closed'
    if (failure !== undefined) failures.push({ kind, failure, local, begun, ended: now(), answered })
    if (!stopped) setTimeout(connect, pause, kind)
    else if (open === 0) finish()
  })
}

function finish() {
  const done = JSON.stringify({ msg: 'done', connections, requests, slowest, lastAnswers, failures })
  // It may be longer than the pipe, and what is still to be written would be lost.
  process.stdout.write(`${done}\n`, () => process.exit())
}

for (let count = 0; count < Number(values.kept); count++) connect('kept')
for (let count = 0; count < Number(values.fresh); count++) connect('fresh')
const input = createInterface({ input: process.stdin })
input.once('line', () => {
  stopped = true
  input.close()
  if (open === 0) finish()
})
// The parent has exited.
input.once('close', () => {
  if (!stopped) process.exit()
})
const established = setInterval(() => {
  if (keptPorts.size < Number(values.kept)) return
  clearInterval(established)
  say('loading', { connections })
}, 5)
