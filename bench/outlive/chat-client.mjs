// A client of the chat in app.mjs: WebSocket on a bare socket, so that one process can run thousands. It numbers its messages, and checks
// the numbers of both directions, the content, and that no two processes serve the connection at a time.
import { createHash } from 'node:crypto'
import { connect } from 'node:net'
import { crc32 } from 'node:zlib'
import { below, micros, Sequence } from './totals.mjs'

const KEY = Buffer.alloc(16, 'bench').toString('base64')
const ACCEPT = createHash('sha1').update(`${KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
const REQUEST = `GET /chat HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n`
const TEXT = Buffer.from('the quick brown fox jumps over the lazy dog. '.repeat(2000))
const [FIN, CONTINUATION, TEXT_FRAME, CLOSE, PING] = [0x80, 0, 1, 8, 9]

/** @param {number} first the first byte @param {Buffer} payload */
function masked(first, payload) {
  const { length } = payload
  const extra = length < 126 ? 0 : length < 65_536 ? 2 : 8
  const frame = Buffer.allocUnsafe(6 + extra + length)
  frame[0] = first
  frame[1] = 0x80 | (extra === 0 ? length : extra === 2 ? 126 : 127)
  if (extra === 2) frame.writeUInt16BE(length, 2)
  if (extra === 8) frame.writeBigUInt64BE(BigInt(length), 2)
  const mask = 2 + extra
  frame.writeUInt32LE(below(2 ** 32), mask)
  for (let at = 0; at < length; at++) frame[mask + 4 + at] = payload[at] ^ frame[mask + (at & 3)]
  return frame
}

export class ChatClient {
  #port
  #totals
  #ended
  #isPlain
  #socket
  #isOpen = false
  #rest = Buffer.alloc(0)
  #sent = 0
  /** Messages without an answer, oldest first. @type {{ number: number, crc: number, at: number }[]} */
  #waiting = []
  #received
  #echoed
  /** The process that serves it, and the number of moves until then. */
  pid = 0
  /** Of a close frame. @type {number | undefined} */
  closeCode
  /** Of the connection that ended last. */
  unanswered = 0
  wasOpen = false
  #epoch = 0
  /** A write that was cut in two; nothing else may be written before its rest. */
  #cut

  /**
   * @param {{ port: number, totals: import('./totals.mjs').Totals, ended?: (client: ChatClient) => void,
   *   isPlain?: boolean }} options `ended`: the connection has ended, and not by `close()`; default: it connects again. `isPlain`: one
   *   message in one write, always
   */
  constructor({ port, totals, ended = (client) => client.connect(), isPlain = false }) {
    this.#port = port
    this.#totals = totals
    this.#ended = ended
    this.#isPlain = isPlain
    this.connect()
  }

  get isOpen() {
    return this.#isOpen
  }

  get isAnswered() {
    return this.#waiting.length === 0 && this.#cut === undefined
  }

  connect() {
    this.#totals.connections += 1
    this.#received = new Sequence(this.#totals)
    this.#echoed = new Sequence(this.#totals)
    this.#rest = Buffer.alloc(0)
    this.#sent = this.#epoch = this.pid = 0
    this.closeCode = undefined
    const socket = connect({ port: this.#port, host: '127.0.0.1', noDelay: true })
    this.#socket = socket
    socket.write(REQUEST)
    socket.on('data', (chunk) => this.#read(chunk))
    socket.on('error', () => undefined)
    socket.on('close', () => {
      if (this.#socket === socket) this.#end()
    })
  }

  /** One message of random length, sometimes in fragments, sometimes in two writes. */
  say() {
    if (!this.#isOpen || this.#cut !== undefined) return
    this.#sent += 1
    const padding = TEXT.subarray(0, below(50) === 0 ? below(TEXT.length) : below(300))
    const payload = Buffer.concat([Buffer.from(`${this.#sent} `), padding])
    this.#totals.sent += 1
    this.#waiting.push({ number: this.#sent, crc: crc32(payload), at: micros() })
    let bytes
    if (!this.#isPlain && below(8) === 0) {
      const border = below(payload.length)
      const parts = [
        masked(TEXT_FRAME, payload.subarray(0, border)),
        masked(FIN | CONTINUATION, payload.subarray(border)),
      ]
      bytes = Buffer.concat(parts)
    } else bytes = masked(FIN | TEXT_FRAME, payload)
    const end = !this.#isPlain && below(8) === 0 ? below(bytes.length) : bytes.length
    this.#socket.write(bytes.subarray(0, end))
    if (end === bytes.length) return
    const socket = this.#socket
    this.#cut = setTimeout(() => {
      this.#cut = undefined
      socket.write(bytes.subarray(end))
    }, below(20))
  }

  /** Resolves nothing and counts nothing: for the end of a run. */
  close() {
    const socket = this.#socket
    this.#socket = undefined
    this.#isOpen = false
    socket?.destroy()
  }

  #end() {
    clearTimeout(this.#cut)
    this.#cut = undefined
    this.wasOpen = this.#isOpen
    if (this.wasOpen) this.#totals.ended += 1
    else this.#totals.fault('failed', 'no WebSocket')
    this.#isOpen = false
    this.unanswered = this.#waiting.length
    this.#totals.cut += this.unanswered
    this.#waiting = []
    this.#ended(this)
  }

  #read(chunk) {
    let data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    if (!this.#isOpen) {
      const end = data.indexOf('\r\n\r\n')
      if (end < 0) {
        this.#rest = data
        return
      }
      const head = data.toString('latin1', 0, end)
      if (!head.startsWith('HTTP/1.1 101') || !head.includes(ACCEPT)) {
        this.#socket.destroy()
        return
      }
      this.#isOpen = true
      data = data.subarray(end + 4)
    }
    for (;;) {
      const short = data[1]
      const header = short === 126 ? 4 : short === 127 ? 10 : 2
      if (data.length < header) break
      const length =
        short === 126 ? data.readUInt16BE(2) : short === 127 ? Number(data.readBigUInt64BE(2)) : short
      if (data.length < header + length) break
      this.#frame(data[0] & 15, data.subarray(header, header + length))
      data = data.subarray(header + length)
    }
    this.#rest = data
  }

  #frame(opcode, payload) {
    if (opcode === TEXT_FRAME) this.#heard(payload.toString('latin1'))
    else if (opcode === PING) this.#socket.write(masked(FIN | 10, payload))
    else if (opcode === CLOSE) this.closeCode = payload.length < 2 ? 1005 : payload.readUInt16BE(0)
    else this.#totals.fault('wrong', `a frame with opcode ${opcode}`)
  }

  /** `NUMBER KIND PID EPOCH ...`: see app.mjs. */
  #heard(text) {
    const [number, kind, pid, epoch, ...rest] = text.split(' ', 7)
    this.#received.arrived(Number(number))
    this.#checkOwner(Number(pid), Number(epoch))
    if (kind === 'answer') this.#answered(rest.map(Number))
    else if (kind === 'resumed') {
      this.#totals.moves += 1
      this.#totals.pause.add(Number(rest[0]))
    } else if (kind === 'push') {
      this.#totals.pushed += 1
      const padding = text.slice(text.lastIndexOf(' ') + 1)
      if (crc32(padding) !== Number(rest[0])) this.#totals.fault('wrong', 'the content of a pushed message')
    } else this.#totals.fault('wrong', text.slice(0, 80))
  }

  #answered([heard, echoed, crc]) {
    this.#totals.answered += 1
    this.#echoed.arrived(echoed)
    const question = this.#waiting.shift()
    if (question === undefined) return
    this.#totals.latency.add(micros() - question.at)
    if (heard !== echoed || question.number !== echoed || question.crc !== crc)
      this.#totals.fault('wrong', `message ${question.number} was number ${echoed}, as the ${heard}th`)
  }

  #checkOwner(pid, epoch) {
    const isSame = epoch === this.#epoch && (this.pid === 0 || pid === this.pid)
    if (!isSame && epoch <= this.#epoch)
      this.#totals.fault('twoOwners', `${this.pid} and ${pid} after ${epoch} moves`)
    this.pid = pid
    this.#epoch = epoch
  }
}
