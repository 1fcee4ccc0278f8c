import { once } from 'node:events'
import type { Test } from 'tap'
import { WebSocket } from 'ws'

/** A client of an echo with numbers: sends numbered messages, whole or in fragments, with pings, and checks every answer. */
export class WsTalker {
  readonly ws: WebSocket
  readonly problems: string[] = []
  sent = 0
  heard = 0
  pings = 0
  pongs = 0
  closeCode: number | undefined
  readonly #expected = new Map<number, { data: Buffer; binary: boolean }>()

  constructor(t: Test, port: number, deflate = false, path = '/chat?room=1') {
    this.ws = new WebSocket(`ws://127.0.0.1:${port}${path}`, {
      perMessageDeflate: deflate ? { threshold: 0 } : false,
    })
    this.ws.on('error', (error) => this.problems.push(error.message))
    this.ws.on('close', (code) => (this.closeCode = code))
    this.ws.on('pong', () => (this.pongs += 1))
    this.ws.on('message', (data: Buffer, binary) => this.#check(data, binary))
    t.teardown(() => this.ws.terminate())
  }

  async open(): Promise<this> {
    await once(this.ws, 'open')
    return this
  }

  /** One message, or a ping, of a random form. */
  sayAnything(): void {
    if (below(10) === 0) this.ping()
    else if (below(30) === 0) this.say(below(100_000), 1 + below(3), true)
    else this.say(below(200), 1 + below(4), below(2) === 0)
  }

  /** One message; pings between its fragments. */
  say(length: number, fragments = 1, binary = false): void {
    this.sent += 1
    const text = 'the quick brown fox '.repeat(length / 20 + 1).slice(0, length)
    const data = Buffer.from(`${this.sent}:${text}`)
    this.#expected.set(this.sent, { data, binary })
    const size = Math.ceil(data.length / fragments)
    for (let part = 0; part < fragments; part++) {
      const fin = part === fragments - 1
      this.ws.send(data.subarray(part * size, (part + 1) * size), { binary, fin })
      if (!fin && part % 2 === 0) this.ping()
    }
  }

  ping(): void {
    this.pings += 1
    this.ws.ping()
  }

  /** Each message and each ping has its answer. */
  get isAnswered(): boolean {
    return this.heard === this.sent && this.pongs === this.pings
  }

  #check(data: Buffer, binary: boolean): void {
    this.heard += 1
    const wanted = this.#expected.get(this.heard)
    this.#expected.delete(this.heard)
    const text = wanted && Buffer.concat([Buffer.from(`${this.heard} `), wanted.data])
    if (text?.equals(data) !== true || wanted?.binary !== binary)
      this.problems.push(`answer ${this.heard} is ${data.toString('utf8', 0, 30)}`)
  }
}

/** A random integer from 0. */
export function below(limit: number): number {
  return Math.floor(Math.random() * limit)
}
