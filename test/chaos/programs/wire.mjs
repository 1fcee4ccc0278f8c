import net from 'node:net'
import { now } from '../clock.mjs'

/** A client waits for as long as this for one answer, in milliseconds; longer than any fault lasts. */
export const ANSWER_TIMEOUT_MS = Number(process.env.CHAOS_ANSWER_TIMEOUT_MS)

/**
 * One client connection with nothing between it and what happens to it: each exchange ends in an answer, or in the way in
 * which the connection ended without one. Times are `now()`.
 */
export class Wire {
  begun = now()
  /** This end; 0 until it is established. */
  localPort = 0
  /** FIN, an errno, or undefined while it lasts. */
  ended
  /** Whole answers so far. */
  answers = 0
  #socket
  #reader
  #settle
  #timer
  #onIdleEnd

  /** @param onIdleEnd the connection ended while nothing was asked */
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
   * Sends, and reads until `reader.push(chunk)` gives something other than undefined. Resolves with `{ answer }` or with
   * `{ failure }`; a reader that throws is a failure too.
   *
   * @param reader `end()`, when there is one, gives the answer that the connection's FIN completes
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
    if (this.#reader === undefined) return this.#finish('bytes that nobody asked for')
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
