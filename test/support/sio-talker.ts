import type { Test } from 'tap'
import { io, type Socket } from 'socket.io-client'
import { below } from './ws-talker.ts'

/** The facts that `test/programs/socket-io-backend.mjs` knows of a client. */
export interface Who {
  readonly pid: number
  readonly id: string
  readonly data: { readonly room: string; readonly last: number; readonly count: number }
  readonly rooms: readonly string[]
  readonly recovered: boolean
  readonly marked: number
  readonly auth: unknown
  readonly issued: number
  readonly transport: string
  readonly host: string
}

/** A client of `test/programs/socket-io-backend.mjs`: sends numbered events, and checks each answer and each message of its room. */
export class SioTalker {
  readonly socket: Socket
  readonly admin: Socket
  readonly team: Socket
  readonly problems: string[] = []
  readonly room: string
  sent = 0
  answered = 0
  /** Number of the last message of its room. */
  news = 0
  broadcasts = 0
  pings = 0
  reconnects = 0
  #ids: (string | undefined)[] = []

  constructor(
    t: Test,
    port: number,
    options: { readonly room?: string; readonly transports?: string[]; readonly fault?: string } = {},
  ) {
    const { room = 'r0', transports = ['websocket'], fault } = options
    this.room = room
    this.socket = io(`http://127.0.0.1:${port}`, {
      transports,
      query: { room },
      auth: { user: room, ...(fault && { fault }) },
      forceNew: true,
      reconnectionDelay: 20,
    })
    this.admin = this.socket.io.socket('/admin')
    this.team = this.socket.io.socket('/team-1')
    this.socket.io.on('ping', () => (this.pings += 1))
    this.socket.on('news', (number: number) => {
      if (number !== this.news + 1) this.problems.push(`news ${number} after ${this.news}`)
      this.news = number
    })
    this.socket.on('broadcast', () => (this.broadcasts += 1))
    this.socket.on('asked', (number: number, answer: (number: number) => void) => {
      if (number > 0) answer(number)
    })
    this.socket.on('answered', (number: number, count: number) => this.#check(number, count))
    this.socket.on('heard', (number: number, count: number) => this.#check(number, count))
    t.teardown(() => this.close())
  }

  async open(): Promise<this> {
    await Promise.all([
      first(this.socket, 'welcome'),
      first(this.admin, 'connect'),
      first(this.team, 'connect'),
    ])
    this.#ids = this.ids
    for (const socket of [this.socket, this.admin, this.team]) {
      socket.on('connect', () => (this.reconnects += 1))
      socket.on('disconnect', (reason) => this.problems.push(`disconnected: ${reason}`))
      socket.on('connect_error', (error) => this.problems.push(error.message))
    }
    return this
  }

  close(): void {
    for (const socket of [this.socket, this.admin, this.team]) socket.disconnect()
  }

  get ids(): (string | undefined)[] {
    return [this.socket.id, this.admin.id, this.team.id]
  }

  get isAnswered(): boolean {
    return this.answered === this.sent
  }

  async who(): Promise<Who> {
    return (await this.socket.emitWithAck('who')) as Who
  }

  /** One event of a random form. Answers to some forms overtake others in the app: one at a time. */
  sayAnything(): void {
    if (!this.isAnswered) return
    this.sent += 1
    const number = this.sent
    const form = below(5)
    if (form === 0) this.socket.emit('ask', number, (n: number, count: number) => this.#check(n, count))
    else if (form === 1)
      this.socket.emit('ask-slowly', number, (n: number, count: number) => this.#check(n, count))
    else if (form === 2) this.socket.emit('said', number)
    else if (form === 3) this.socket.emit('ask-me', number)
    else {
      const bytes = Buffer.alloc(below(3000), number)
      this.socket.emit('bytes', number, bytes, (n: number, count: number, back: Buffer) => {
        if (!bytes.equals(back)) this.problems.push(`other bytes in ${n}`)
        this.#check(n, count)
      })
    }
  }

  /** Several at once, answered in this order. */
  sayMany(count: number): void {
    if (!this.isAnswered) return
    for (let index = 0; index < count; index++) {
      this.sent += 1
      this.socket.emit('ask', this.sent, (n: number, seen: number) => this.#check(n, seen))
    }
  }

  async checkNamespaces(): Promise<void> {
    const [, admin, team] = this.#ids
    if ((await this.admin.emitWithAck('who')) !== admin) this.problems.push('another id in /admin')
    if ((await this.team.emitWithAck('who')) !== team) this.problems.push('another id in /team-1')
    if (this.ids.join() !== this.#ids.join()) this.problems.push('the client has another id')
  }

  #check(number: number, count: number): void {
    this.answered += 1
    if (number !== this.answered || count !== this.answered)
      this.problems.push(`answer ${number}, counted ${count}, wanted ${this.answered}`)
  }
}

/** Clients of socket.io are no emitters of Node. */
function first(socket: Socket, event: string): Promise<void> {
  return new Promise((resolve) => void socket.once(event, () => resolve()))
}
