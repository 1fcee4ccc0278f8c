import net from 'node:net'
import { now } from '../clock.mjs'

/** A client's limit for one response, in milliseconds; longer than any fault lasts. */
export const ANSWER_TIMEOUT_MS = Number(process.env.CHAOS_ANSWER_TIMEOUT_MS)

/**
 * One raw client connection: each exchange ends with a response, or with the way in which the connection ended
 * without one. Times are `now()`.
 */
export class Wire {
  begun = now()
  /** The local port; 0 until the connection is established. */
  localPort = 0
  /** FIN, an errno, or undefined while the connection is open. */
  ended
  /** Complete responses so far. */
  answers = 0
  #socket
  #reader
  #settle
  #timer
  #onIdleEnd

  /** @param onIdleEnd called if the connection ends while no request is in flight */
  constructor(port, ledger, onIdleEnd) {
    this.#onIdleEnd = onIdleEnd
    const socket = net.connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
    this.#socket = socket
    socket.on('connect', () => {
      this.localPort = socket.localPort
      ledger.connected += 1
    })
    socket.on('data', (chunk) => this.#read(chunk))
    socket.on('end', () => this.#finish('FIN'))
    socket.on('error', (error) => this.#finish(`${error.code} ${error.syscall}`))
  }

  /**
   * Sends, and reads until `reader.push(chunk)` returns something other than undefined. Resolves with `{ answer }` or with
   * `{ failure }`; if the reader throws, that is a failure too.
   *
   * @param reader `end()`, if present, returns the answer that the connection's FIN completes
   */
  exchange(bytes, reader, { half = false } = {}) {
    return new Promise((resolve) => {
      this.#settle = resolve
      this.#reader = reader
      this.#timer = setTimeout(() => this.#finish('no answer in time'), ANSWER_TIMEOUT_MS)
      if (this.ended !== undefined) return this.#finish(this.ended)
      if (half) this.#socket.end(bytes)
      else this.#socket.write(bytes)
    })
  }

  close() {
    this.#onIdleEnd = undefined
    this.#socket.destroy()
  }

  #read(chunk) {
    if (this.#reader === undefined) return this.#finish('unexpected bytes')
    try {
      const answer = this.#reader.push(chunk)
      if (answer !== undefined) this.#answer(answer)
    } catch (error) {
      this.#finish(`wrong answer: ${error.message}`)
    }
  }

  #answer(answer) {
    this.answers += 1
    this.#done({ answer })
  }

  #finish(how) {
    this.ended ??= how
    this.#socket.destroy()
    const reader = this.#reader
    if (reader === undefined) {
      this.#onIdleEnd?.(this.ended)
      this.#onIdleEnd = undefined
      return
    }
    const answer = how === 'FIN' ? reader.end?.() : undefined
    if (answer === undefined) this.#done({ failure: this.ended })
    else this.#answer(answer)
  }

  #done(result) {
    clearTimeout(this.#timer)
    this.#reader = undefined
    this.#settle(result)
  }
}
