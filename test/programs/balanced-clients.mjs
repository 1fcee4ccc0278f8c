// Clients of a load balancer: node balanced-clients.mjs HOST PORT. Half of the HTTP clients open a connection for each request, half keep theirs;
// WebSocket clients send numbered messages, and reconnect when they are closed. A line on standard input begins the next phase; the totals of the
// phase before are printed, and after `?NUMBER` those of the present one: `failed` are requests and handshakes that have failed.
import http from 'node:http'
import { createInterface } from 'node:readline'
import { setTimeout as elapsed } from 'node:timers/promises'
import { WebSocket } from 'ws'

const [host, port] = process.argv.slice(2)
const [HTTP_CLIENTS, WEBSOCKETS] = [12, 24]
const TIMEOUT_MS = 20_000
/** A WebSocket whose messages are not answered for this long is given up, as by a heartbeat. */
const SILENCE_MS = 5000

const zeros = () => ({
  requests: 0,
  failed: 0,
  errors: {},
  slowest: 0,
  messages: 0,
  unanswered: 0,
  wrong: 0,
  closed: {},
  handshakes: 0,
})
let totals = zeros()
const failed = (why) => {
  totals.failed += 1
  totals.errors[why] = (totals.errors[why] ?? 0) + 1
}

function get(agent) {
  return new Promise((resolve) => {
    const request = http.get({ host, port, agent, timeout: TIMEOUT_MS }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (chunk) => (body += chunk))
      response.on('error', ({ code }) => resolve(code))
      response.on('end', () =>
        resolve(
          response.statusCode === 200 && /^\d+$/.test(body) ? undefined : `status ${response.statusCode}`,
        ),
      )
    })
    request.on('timeout', () => request.destroy(new Error('timeout')))
    request.on('error', ({ code, message }) => resolve(code ?? message))
  })
}

async function visit(agent) {
  for (;;) {
    const start = performance.now()
    const why = await get(agent)
    totals.requests += 1
    totals.slowest = Math.max(totals.slowest, Math.round(performance.now() - start))
    if (why !== undefined) failed(why)
    await elapsed(20 + Math.random() * 20)
  }
}

async function talk() {
  for (;;) {
    const ws = new WebSocket(`ws://${host}:${port}/`, { handshakeTimeout: TIMEOUT_MS })
    const end = new Promise((resolve) => {
      ws.on('error', ({ code, message }) => {
        if (ws.readyState !== WebSocket.OPEN) failed(`handshake: ${code ?? message}`)
        resolve(0)
      })
      ws.on('close', resolve)
    })
    let sent = 0
    let answered = 0
    let heard = performance.now()
    ws.on('message', (data) => {
      answered += 1
      heard = performance.now()
      totals.messages += 1
      if (Buffer.from(data).toString() !== `${answered} m${answered}`) totals.wrong += 1
    })
    await Promise.race([new Promise((resolve) => ws.once('open', resolve)), end])
    if (ws.readyState === WebSocket.OPEN) totals.handshakes += 1
    const timer = setInterval(() => {
      if (ws.readyState !== WebSocket.OPEN) return
      if (sent > answered && performance.now() - heard > SILENCE_MS) return ws.terminate()
      sent += 1
      ws.send(`m${sent}`)
    }, 150)
    const code = await end
    clearInterval(timer)
    totals.closed[code] = (totals.closed[code] ?? 0) + 1
    totals.unanswered += sent - answered
    await elapsed(50 + Math.random() * 100)
  }
}

createInterface({ input: process.stdin })
  .on('line', (phase) => {
    // A question; the phase goes on.
    if (phase.startsWith('?')) return console.log(JSON.stringify({ msg: 'now', asked: phase, ...totals }))
    console.log(JSON.stringify({ msg: 'totals', phase, ...totals }))
    totals = zeros()
  })
  .on('close', () => process.exit())
for (let n = 0; n < HTTP_CLIENTS; n += 1)
  void visit(new http.Agent({ keepAlive: n % 2 === 0, maxSockets: 1 }))
for (let n = 0; n < WEBSOCKETS; n += 1) void talk()
console.log(JSON.stringify({ msg: 'ready' }))
