import net, { type Socket } from 'node:net'
import type { Test } from 'tap'
import { below } from './ws-talker.ts'

/** A client of a protocol of lines: each is echoed with its number. */
export class LineClient {
  readonly socket: Socket
  received = ''
  sent = 0
  ended = false
  /** The rest of a line that was sent in part. */
  #rest = ''

  constructor(t: Test, port: number) {
    this.socket = net.connect(port, '127.0.0.1').setNoDelay(true)
    this.socket.on('data', (chunk) => (this.received += chunk.toString('latin1')))
    this.socket.on('end', () => (this.ended = true))
    this.socket.on('error', () => (this.ended = true))
    t.teardown(() => this.socket.destroy())
  }

  /** A line, or a part of one. */
  sayAnything(): void {
    if (this.#rest !== '') return this.finish()
    this.sent += 1
    const line = `line ${this.sent}\n`
    const cut = below(line.length)
    this.socket.write(line.slice(0, cut))
    this.#rest = line.slice(cut)
  }

  finish(): void {
    this.socket.write(this.#rest)
    this.#rest = ''
  }

  get expected(): string {
    return Array.from({ length: this.sent }, (_, index) => `${index + 1} line ${index + 1}\n`).join('')
  }

  get isAnswered(): boolean {
    return this.received === this.expected
  }
}
