// A client of the API in app.mjs: HTTP/1.1 on one kept connection, now and then with several requests in one go or a head in two writes.
import { connect } from 'node:net'
import { below, micros } from './totals.mjs'

const MAX_WAITING = 3

export class ApiClient {
  #port
  #totals
  #ended
  #isPlain
  #isAnyAnswer
  #socket
  #rest = ''
  #sent = 0
  /** Requests without an answer, oldest first. @type {{ number: number, at: number }[]} */
  #waiting = []
  #cut
  #isConnected = false
  pid = 0
  /** An answer had `Connection: close`. */
  isAnnounced = false
  /** Of the connection that ended last. */
  unanswered = 0
  wasOpen = false

  /**
   * @param {{ port: number, totals: import('./totals.mjs').Totals, ended?: (client: ApiClient) => void,
   *   isPlain?: boolean, isAnyAnswer?: boolean }} options `ended`: the connection has ended, and not by `close()`; default: it connects again. `isPlain`: one
   *   message in one write, always; `isAnyAnswer`: the answer does not name its request
   */
  constructor({ port, totals, ended = (client) => client.connect(), isPlain = false, isAnyAnswer = false }) {
    this.#port = port
    this.#totals = totals
    this.#ended = ended
    this.#isPlain = isPlain
    this.#isAnyAnswer = isAnyAnswer
    this.connect()
  }

  get isOpen() {
    return this.#isConnected
  }

  get isAnswered() {
    return this.#waiting.length === 0 && this.#cut === undefined
  }

  connect() {
    this.#totals.connections += 1
    this.#rest = ''
    this.pid = 0
    this.isAnnounced = false
    const socket = connect({ port: this.#port, host: '127.0.0.1', noDelay: true })
    this.#socket = socket
    socket.setEncoding('latin1')
    socket.on('connect', () => (this.#isConnected = true))
    socket.on('data', (chunk) => this.#read(chunk))
    socket.on('error', () => undefined)
    socket.on('close', () => {
      if (this.#socket === socket) this.#end()
    })
  }

  /** One request, or a few at once. */
  say() {
    if (
      !this.#isConnected ||
      this.#cut !== undefined ||
      this.#waiting.length >= (this.#isPlain ? 1 : MAX_WAITING)
    )
      return
    let text = ''
    for (let count = !this.#isPlain && below(8) === 0 ? 2 : 1; count > 0; count--) {
      this.#sent += 1
      this.#totals.sent += 1
      this.#waiting.push({ number: this.#sent, at: micros() })
      text += `GET /${this.#sent} HTTP/1.1\r\nHost: bench\r\n\r\n`
    }
    const end = !this.#isPlain && below(8) === 0 ? below(text.length) : text.length
    if (end > 0) this.#socket.write(text.slice(0, end))
    if (end === text.length) return
    const socket = this.#socket
    this.#cut = setTimeout(() => {
      this.#cut = undefined
      socket.write(text.slice(end))
    }, below(20))
  }

  /** Counts nothing: for the end of a run. */
  close() {
    const socket = this.#socket
    this.#socket = undefined
    this.#isConnected = false
    socket?.destroy()
  }

  #end() {
    clearTimeout(this.#cut)
    this.#cut = undefined
    this.wasOpen = this.#isConnected
    if (this.wasOpen) this.#totals.ended += 1
    this.#isConnected = false
    this.unanswered = this.#waiting.length
    this.#totals.cut += this.unanswered
    for (const { number } of this.#waiting) this.#totals.fault('failed', `request ${number} has no answer`)
    this.#waiting = []
    this.#ended(this)
  }

  #read(chunk) {
    this.#rest += chunk
    for (;;) {
      const body = this.#rest.indexOf('\r\n\r\n') + 4
      if (body < 4) return
      const length = Number(/\r\ncontent-length: (\d+)/i.exec(this.#rest)?.[1])
      if (!(this.#rest.length - body >= length)) return
      this.#answered(this.#rest.slice(0, body), this.#rest.slice(body, body + length))
      this.#rest = this.#rest.slice(body + length)
    }
  }

  /** The body is `NUMBER PID`. */
  #answered(head, body) {
    const question = this.#waiting.shift()
    const [number, pid] = body.split(' ').map(Number)
    if (question === undefined) {
      this.#totals.doubled += 1
      return
    }
    if (!head.startsWith('HTTP/1.1 200')) {
      this.#totals.fault('failed', head.slice(0, 60))
      return
    }
    if (!this.#isAnyAnswer && number !== question.number)
      this.#totals.fault('wrong', `the answer to ${question.number} is that to ${number}`)
    if (/\r\nconnection: close\r\n/i.test(head)) {
      this.#totals.announced += 1
      this.isAnnounced = true
    }
    const took = micros() - question.at
    this.#totals.answered += 1
    this.#totals.latency.add(took)
    // The first answer of another process: what a move costs the client that notices it.
    if (this.pid !== 0 && this.pid !== pid) {
      this.#totals.moves += 1
      this.#totals.pause.add(took)
    }
    this.pid = pid
    this.#totals.byProcess.set(pid, (this.#totals.byProcess.get(pid) ?? 0) + 1)
  }
}
