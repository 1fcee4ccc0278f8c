// New connections on schedule, whatever happens to earlier ones (an open loop): a slow server does not slow its clients down,
// as it would with clients that wait for one response before the next request. Each connection sends one request
// and reads the response to its end; nothing is retried. `stop` on stdin ends the arrivals; the results of all
// connections are printed once the last of them is over. Times are milliseconds of CLOCK_MONOTONIC.
import net from 'node:net'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'

const ANSWER_TIMEOUT_MS = 30_000

const { values } = parseArgs({
  options: {
    port: { type: 'string' },
    /** Connections per second. */
    rate: { type: 'string' },
    /** Connections opened at the same moment. */
    burst: { type: 'string', default: '1' },
    /** Connections open at a time, at most: this process has a limit of descriptors. Beyond it, arrivals are late. */
    'max-open': { type: 'string', default: 'Infinity' },
  },
})
const port = Number(values.port)
const burst = Number(values.burst)
const maxOpen = Number(values['max-open'])
const interval = (1000 / Number(values.rate)) * burst
const request = 'GET / HTTP/1.1\r\nHost: arrivals\r\nConnection: close\r\n\r\n'

const now = () => Number(process.hrtime.bigint()) / 1e6
const say = (msg, more) => console.log(JSON.stringify({ msg, ...more }))

/** [local port, begun, milliseconds, pid of the server or the error] of each connection. */
const results = []
let open = 0
let stopped = false
/** Maximum delay of an arrival after its scheduled time. */
let latest = 0

function connect() {
  const begun = now()
  let text = ''
  let failure
  open += 1
  let localPort = 0
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true })
  socket.setEncoding('latin1')
  socket.setTimeout(ANSWER_TIMEOUT_MS, () => socket.destroy(Object.assign(new Error(), { code: 'timeout' })))
  socket.on('connect', () => {
    localPort = socket.localPort
  })
  socket.write(request)
  socket.on('data', (chunk) => {
    text += chunk
  })
  socket.on('error', (error) => {
    failure = [error.code, error.syscall].filter(Boolean).join(' ')
  })
  socket.on('close', () => {
    const end = now()
    const pid = /^HTTP\/1\.1 200 [^]*\r\n\r\n(\d+)\n$/.exec(text)?.[1]
    if (failure === undefined && pid === undefined)
      failure = text === '' ? 'no answer' : text.split('\r\n')[0]
    results.push([localPort, begun, end - begun, failure ?? Number(pid)])
    open -= 1
    finish()
  })
}

function finish() {
  if (stopped && open === 0) say('done', { results, latest })
}

let due = now()
const timer = setInterval(() => {
  for (; due <= now() && open < maxOpen; due += interval) {
    latest = Math.max(latest, now() - due)
    for (let count = 0; count < burst; count++) connect()
  }
}, 1)

const input = createInterface({ input: process.stdin })
input.once('line', () => {
  stopped = true
  clearInterval(timer)
  input.close()
  finish()
})
// The parent has exited.
input.once('close', () => {
  if (!stopped) process.exit()
})
say('arriving', { at: now() })
