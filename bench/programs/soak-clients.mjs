// Clients of PORT that never pause: KEPT connections, each closed and opened again after LIFE requests, and FRESH ones with one request each. Nothing is retried.
// Lines on stdin: `report` prints the counts and the failures since the last report; `stop` ends them, then reports.
import net from 'node:net'
import { createInterface } from 'node:readline'

const { PORT, KEPT, FRESH, LIFE = '1000' } = process.env
const ANSWER_TIMEOUT_MS = 60_000
const now = () => Number(process.hrtime.bigint()) / 1e6

let counts = { requests: 0, connections: 0, announced: 0, slowest: 0 }
let failures = []
let open = 0
let stopped = false

function connect(life) {
  if (stopped) return
  const request = `GET / HTTP/1.1\r\nHost: soak\r\n${life === 1 ? 'Connection: close\r\n' : ''}\r\n`
  const begun = now()
  const socket = net.connect({ port: Number(PORT), host: '127.0.0.1', noDelay: true })
  let [left, local, text, asked] = [life, 0, '', begun]
  let [waits, isAnnounced, failure] = [true, false, undefined]
  open += 1
  counts.connections += 1
  socket.setEncoding('latin1')
  socket.setTimeout(ANSWER_TIMEOUT_MS, () => socket.destroy(Object.assign(new Error(), { code: 'timeout' })))
  socket.on('connect', () => (local = socket.localPort))
  socket.write(request)
  socket.on('data', (chunk) => {
    text = text === '' ? chunk : text + chunk
    const head = text.indexOf('\r\n\r\n')
    if (head < 0) return
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(text)?.[1])
    if (!(text.length - head - 4 >= length)) return
    if (!waits || !text.startsWith('HTTP/1.1 200 ') || text.length - head - 4 > length) {
      failure = `wrong answer ${JSON.stringify(text.slice(0, 40))}`
      socket.destroy()
      return
    }
    isAnnounced = /\r\nconnection: close\r\n/i.test(text.slice(0, head + 2))
    text = ''
    waits = false
    counts.requests += 1
    counts.slowest = Math.max(counts.slowest, now() - asked)
    left -= 1
    if (isAnnounced) return
    if (left === 0 || stopped) {
      socket.destroy()
      return
    }
    waits = true
    asked = now()
    socket.write(request)
  })
  socket.on('error', (error) => (failure ??= [error.code, error.syscall].filter(Boolean).join(' ')))
  socket.on('close', () => {
    open -= 1
    if (waits) failure ??= text === '' ? 'no answer' : 'cut answer'
    if (isAnnounced && life > 1) counts.announced += 1
    if (failure !== undefined) failures.push({ failure, local, begun, at: now(), answered: life - left })
    if (!stopped) setImmediate(connect, life)
    else if (open === 0) report('done')
  })
}

function report(msg) {
  const line = JSON.stringify({ msg, ...counts, failures })
  counts = { requests: 0, connections: 0, announced: 0, slowest: 0 }
  failures = []
  process.stdout.write(`${line}\n`, () => {
    if (msg === 'done') process.exit()
  })
}

const input = createInterface({ input: process.stdin })
input.on('line', (line) => {
  if (line === 'report') return report('counted')
  stopped = true
  if (open === 0) report('done')
})
input.once('close', () => process.exit())
for (let count = 0; count < Number(KEPT); count++) connect(Number(LIFE))
for (let count = 0; count < Number(FRESH); count++) connect(1)
