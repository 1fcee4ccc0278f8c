import type { ControlSocket, ControlStream } from '@baton/backend-sdk/protocol'
import { File, type Process } from './kernel.ts'

/** One end of a Unix stream socket, with the bytes waiting to be read from it. */
export class StreamEnd extends File {
  peer!: StreamEnd
  readonly room: number
  /** Receives the bytes that the kernel has accepted from this end. */
  tap: ((bytes: Buffer) => void) | undefined
  #queue: Buffer[] = []
  #size = 0
  /** The peer closed with unread data: reported once, before the queued bytes (unix(7) sockets, Linux 6.18). */
  #reset = false
  /** Nothing more will arrive: the peer has closed, or has shut down its sending side. */
  #ended = false
  #closed = false

  constructor(label: string, room: number) {
    super(label)
    this.room = room
  }

  get readable(): boolean {
    return this.#reset || this.#size > 0 || this.#ended
  }

  get writable(): boolean {
    return this.peer.#closed || this.peer.#size < this.room
  }

  /** The number of bytes that the kernel accepts; -1 is EPIPE. */
  send(bytes: Uint8Array): number {
    const { peer } = this
    if (peer.#closed) return -1
    const count = Math.min(bytes.length, this.room - peer.#size)
    const taken = Buffer.from(bytes.subarray(0, count))
    if (count > 0) peer.#queue.push(taken)
    peer.#size += count
    this.tap?.(taken)
    return count
  }

  receive(max: number): Buffer | 'reset' | 'nothing' {
    if (this.#reset) {
      this.#reset = false
      return 'reset'
    }
    if (this.#size === 0) return this.#ended ? Buffer.alloc(0) : 'nothing'
    const all = Buffer.concat(this.#queue)
    const taken = all.subarray(0, max)
    this.#queue = taken.length < all.length ? [all.subarray(taken.length)] : []
    this.#size -= taken.length
    return taken
  }

  /** shutdown(SHUT_WR). */
  finish(): void {
    this.peer.#ended = true
  }

  override released(): void {
    this.#closed = true
    this.peer.#ended = true
    if (this.#size > 0) this.peer.#reset = true
    this.#queue = []
  }
}

export function streamPair(label: string, room: number): [StreamEnd, StreamEnd] {
  const [a, b] = [new StreamEnd(`${label} (broker)`, room), new StreamEnd(`${label} (backend)`, room)]
  a.peer = b
  b.peer = a
  return [a, b]
}

type Events = {
  data: (chunk: Buffer) => void
  error: (error: Error) => void
  end: () => void
  close: () => void
}

/** An error returned by the simulated kernel. */
export class SocketError extends Error {}

/**
 * Behaves like net.Socket on such a socket (Node 20): a write goes to the kernel immediately if it can, and its callback comes
 * later; after EPIPE the length is 0 and `errored` is set; destroy() discards unread bytes, and 'close' comes later.
 */
export class SimulatedSocket implements ControlSocket {
  writableLength = 0
  errored: Error | null = null
  destroyed = false
  readonly #process: Process
  readonly #end: StreamEnd
  readonly #fd: number
  readonly #listeners: Partial<Events> = {}
  readonly #pending: { bytes: Uint8Array; onTaken: (error?: Error | null) => void }[] = []
  #finishing: (() => void) | undefined
  #finished = false
  #eof = false

  constructor(process: Process, end: StreamEnd) {
    this.#process = process
    this.#end = end
    this.#fd = process.open(end)
  }

  get readable(): boolean {
    return !this.destroyed && !this.#eof && this.#end.readable
  }

  get writable(): boolean {
    return !this.destroyed && this.errored === null && this.#pending.length > 0 && this.#end.writable
  }

  on<E extends keyof Events>(event: E, listener: Events[E]): this {
    this.#listeners[event] = listener
    return this
  }

  write(bytes: Uint8Array, onTaken: (error?: Error | null) => void): void {
    if (this.#finishing !== undefined || this.#finished)
      return this.#fail(new SocketError('write after end'), onTaken)
    this.writableLength += bytes.length
    this.#pending.push({ bytes, onTaken })
    if (this.#pending.length === 1) this.#flush((done) => this.#process.tasks.push(done))
    if (this.#process.kernel.sabotage === 'a write is believed before the kernel has accepted it')
      this.writableLength = 0
  }

  end(onFinished: () => void): void {
    if (this.destroyed || this.#finishing !== undefined || this.#finished) return
    this.#finishing = onFinished
    this.#finish()
  }

  destroy(): void {
    if (this.destroyed) return
    this.destroyed = true
    this.#process.close(this.#fd)
    const error = new SocketError('ERR_STREAM_DESTROYED')
    for (const { onTaken } of this.#pending.splice(0)) this.#process.tasks.push(() => onTaken(error))
    this.#process.tasks.push(() => {
      if (this.errored !== null) this.#listeners.error?.(this.errored)
      this.#listeners.close?.()
    })
  }

  /** The event loop found it readable: one read of at most `max` bytes. */
  read(max: number): void {
    const got = this.#process.call(`reads ${this.#end.label}`, () => this.#end.receive(max))
    if (got === 'nothing') return
    if (got === 'reset') {
      this.errored = new SocketError('ECONNRESET')
      this.destroy()
    } else if (got.length > 0) this.#listeners.data?.(got)
    else {
      this.#eof = true
      this.#listeners.end?.()
    }
  }

  /** The event loop found it writable. */
  drain(): void {
    this.#flush((done) => done())
  }

  #flush(whenDone: (done: () => void) => void): void {
    for (;;) {
      const first = this.#pending[0]
      if (first === undefined) return this.#finish()
      const count = this.#process.call(`writes ${first.bytes.length} bytes to ${this.#end.label}`, () =>
        this.#end.send(first.bytes),
      )
      if (count === -1) {
        this.#pending.shift()
        return this.#fail(new SocketError('EPIPE'), first.onTaken)
      }
      this.writableLength -= count
      if (count < first.bytes.length) {
        first.bytes = first.bytes.subarray(count)
        return
      }
      this.#pending.shift()
      whenDone(() => first.onTaken())
    }
  }

  #fail(error: Error, onTaken: (error?: Error | null) => void): void {
    this.errored ??= error
    this.writableLength = 0
    this.#process.tasks.push(() => {
      onTaken(error)
      this.destroy()
    })
  }

  #finish(): void {
    const then = this.#finishing
    if (then === undefined || this.#pending.length > 0) return
    this.#finishing = undefined
    this.#finished = true
    this.#process.call(`shuts ${this.#end.label} down`, () => this.#end.finish())
    this.#process.tasks.push(then)
  }
}

/** Both descriptors of one end. */
export function controlStream(process: Process, end: StreamEnd): ControlStream & { socket: SimulatedSocket } {
  const duplicate = process.open(end)
  let closed = false
  const socket = new SimulatedSocket(process, end)
  return {
    socket,
    onData: (listener) => socket.on('data', listener),
    readToEnd: () => {
      if (process.kernel.sabotage === 'control is not read to its end')
        return { data: Buffer.alloc(0), ended: true }
      const chunks: Buffer[] = []
      for (;;) {
        const got = process.call(`recv from ${end.label}`, () => end.receive(64 * 1024))
        if (got === 'reset') continue
        if (got === 'nothing' || got.length === 0)
          return { data: Buffer.concat(chunks), ended: got !== 'nothing' }
        chunks.push(got)
      }
    },
    soon: (run) => process.tasks.push(run),
    sendWithDescriptor: () => process.kernel.violate('WELCOME is not part of the simulation'),
    close: () => {
      if (closed) return
      closed = true
      process.close(duplicate)
    },
  }
}
