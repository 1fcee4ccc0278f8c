// Short connections: each sends one request and reads its response to the end of the connection. Nothing is retried, so
// every failure of every connection is counted. Prints one line of JSON.
import net from 'node:net'
import { parseArgs } from 'node:util'

const TIMEOUT = 30_000

const { values } = parseArgs({
  options: {
    port: { type: 'string' },
    total: { type: 'string' },
    concurrency: { type: 'string' },
    path: { type: 'string', default: '/' },
  },
})
const port = Number(values.port)
const total = Number(values.total)
const request = `GET ${values.path} HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n`

let started = 0
let finished = 0
let slowest = 0
/** Responses by the pid of the server. */
const answers = {}
/** Connections without a complete response, by what happened to them. */
const failures = {}

function count(counts, key) {
  counts[key] = (counts[key] ?? 0) + 1
}

function connect() {
  const begun = performance.now()
  started += 1
  let text = ''
  let failure
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true })
  socket.setEncoding('latin1')
  socket.setTimeout(TIMEOUT, () => socket.destroy(Object.assign(new Error('timeout'), { code: 'timeout' })))
  socket.write(request)
  socket.on('data', (chunk) => {
    text += chunk
  })
  socket.on('error', (error) => {
    failure = `${error.code} ${error.syscall ?? ''}`.trim()
  })
  socket.on('close', () => {
    if (failure === undefined) failure = fault(text)
    if (failure === undefined) count(answers, /\r\nx-pid: (\d+)/i.exec(text)?.[1])
    else count(failures, failure)
    slowest = Math.max(slowest, performance.now() - begun)
    finished += 1
    if (started < total) connect()
    else if (finished === total) {
      const seconds = (performance.now() - start) / 1000
      console.log(JSON.stringify({ msg: 'done', answers, failures, slowest, seconds }))
    }
  })
}

function fault(text) {
  const status = text.slice('HTTP/1.1 '.length, 12)
  if (status !== '200') return status === '' ? 'no answer' : `status ${status}`
  const body = text.indexOf('\r\n\r\n') + 4
  const length = Number(/\r\ncontent-length: (\d+)/i.exec(text)?.[1])
  return body > 4 && text.length - body === length ? undefined : 'cut answer'
}

const start = performance.now()
for (let index = 0; index < Math.min(total, Number(values.concurrency)); index++) connect()
