import net from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { WebSocket } from 'ws'
import { now } from '../clock.mjs'
import { AnswerReader, DownloadReader, WholeReader } from './readers.mjs'
import { ANSWER_TIMEOUT_MS, Wire } from './wire.mjs'

// Each function is the life of one connection of its kind. It resolves when that is over, however it ended.

/** One request, `Connection: close`. */
export async function exchange(client) {
  const wire = new Wire(client.port, client.ledger)
  await ask(client, 'short', wire, (id) => ({
    bytes: get(`/echo/${id}`, 'close'),
    reader: new AnswerReader(),
  }))
  wire.close()
}

/** Several requests on one connection, with pauses. */
export async function requests(client) {
  const { ledger, random, service } = client
  const kind = 'keep-alive'
  const wire = new Wire(client.port, ledger, (what) => ledger.failed(describe(kind, service, wire, 0, what)))
  const most = random.integer(2, 40)
  for (let count = 1; count <= most && wire.ended === undefined && !client.stopping(); count++) {
    const answer = await ask(client, kind, wire, (id) => ({
      bytes: get(`/echo/${id}`, 'keep-alive'),
      reader: new AnswerReader(),
    }))
    if (answer === undefined || answer.close) break
    await pause(random.next() * 60)
  }
  wire.close()
}

/** A chunked response of up to 256 KiB, with every byte compared. */
export async function download(client) {
  const wire = new Wire(client.port, client.ledger)
  const size = client.random.integer(1, 256 * 1024)
  await ask(client, 'streaming', wire, (id) => ({
    bytes: get(`/download/${id}/${size}`, 'close'),
    reader: new DownloadReader(id, size),
  }))
  wire.close()
}

/** Sends its whole line, closes its half, and reads the response to its FIN. */
export async function lines(client) {
  const wire = new Wire(client.port, client.ledger)
  const size = client.random.integer(1, 20_000)
  await ask(client, 'half-closing', wire, (id) => ({
    bytes: `${id} ${'x'.repeat(size)}`,
    reader: new WholeReader(),
    half: true,
    expected: ` ${size}\n`,
  }))
  wire.close()
}

/** Connects, sends half a line at most, and leaves: by FIN or by RST. Expects nothing. */
export async function visit({ port, ledger, random }) {
  const socket = net.connect({ port, host: '127.0.0.1' })
  const closed = new Promise((resolve) => socket.once('close', resolve))
  socket.on('error', () => {})
  socket.once('connect', () => {
    ledger.connected += 1
    if (random.next() < 0.5) socket.write('GET /')
    const leave = random.next() < 0.5 ? () => socket.resetAndDestroy() : () => socket.destroy()
    setTimeout(leave, random.next() * 50)
  })
  await closed
}

/** Messages that are echoed, and a close handshake. */
export function webSocket({ port, service, ledger, random }) {
  const kind = 'WebSocket'
  const wire = { begun: now(), localPort: 0, answers: 0 }
  const open = (options) => {
    const socket = net.connect(options)
    socket.once('connect', () => {
      wire.localPort = socket.localPort
      ledger.connected += 1
    })
    return socket
  }
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`, {
    createConnection: open,
    perMessageDeflate: false,
  })
  let id = ledger.request(kind)
  let sent = performance.now()
  let what
  let left = random.integer(1, 20)
  let timer = setTimeout(() => fail('no answer in time'), ANSWER_TIMEOUT_MS)
  const fail = (how) => {
    what ??= how
    socket.terminate()
  }
  const say = () => {
    sent = performance.now()
    if (socket.readyState === WebSocket.OPEN) socket.send(`${id} ${service}`)
  }
  return new Promise((resolve) => {
    socket.on('open', say)
    // One frame, and so one Buffer.
    socket.on('message', (/** @type {Buffer} */ data) => {
      const message = data.toString()
      const [echo, name, instance] = message.split(' ')
      if (Number(echo) !== id || name !== service) return fail(`wrong answer: ${message} to ${id}`)
      ledger.answered(kind, id, Number(instance), performance.now() - sent)
      wire.answers += 1
      id = 0
      left -= 1
      if (left === 0) return socket.close(1000)
      setTimeout(() => {
        if (socket.readyState !== WebSocket.OPEN) return
        id = ledger.request(kind)
        say()
      }, random.next() * 100)
      timer.refresh()
      return undefined
    })
    socket.on('error', (error) => {
      what ??= error.code ?? error.message
    })
    socket.on('close', (code) => {
      clearTimeout(timer)
      timer = undefined
      if (code !== 1000 || what !== undefined || left > 0) {
        ledger.failed(describe(kind, service, wire, id, what ?? `close ${code}`))
      }
      resolve()
    })
  })
}

/** One request and its response. Resolves with undefined after a failure, which was reported to the ledger. */
async function ask({ service, ledger }, kind, wire, compose) {
  const id = ledger.request(kind)
  const sent = performance.now()
  const { bytes, reader, half = false, expected = '' } = compose(id)
  const { answer, failure } = await wire.exchange(bytes, reader, { half })
  const [echo, instance] = answer?.body?.split(' ') ?? [id, answer?.instance]
  let what = failure
  if (answer !== undefined && (Number(echo) !== id || !(answer.body ?? expected).includes(expected))) {
    what = `wrong answer: ${answer.body} to ${id}`
  }
  if (what !== undefined) {
    ledger.failed(describe(kind, service, wire, id, what))
    return undefined
  }
  ledger.answered(kind, id, Number.parseInt(instance, 10), performance.now() - sent)
  return answer
}

/** @param id 0 if no request was in flight */
function describe(kind, service, { begun, localPort, answers }, id, what) {
  return { kind, service, id, what, port: localPort, answers, begun, at: now() }
}

function get(path, connection) {
  return `GET ${path} HTTP/1.1\r\nHost: chaos\r\nConnection: ${connection}\r\n\r\n`
}
