import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net'
import { setCloseOnExec } from '@baton/native-sendmsg'
import { standardOutput } from '../log/standard.ts'
import { outputPace } from './output-pace.ts'

/** One for all pipes: what was read is told before the next read. Its size bounds one piece of work: it may hold 8192 lines (`yes`). */
const buffer = Buffer.allocUnsafe(16 * 1024)

/**
 * While the log is congested, reading pauses for this time at most, in ms, after each `PACED_BYTES`: a burst is written rather than
 * dropped, and an app that prints up to 1.3 MB a second never waits for whoever reads the log.
 */
const MAX_PAUSE_MS = 50
const PACED_BYTES = 64 * 1024

export interface OutputPipeHost {
  data(chunk: Buffer): void
  /** Every holder of the other end has closed it, and all was read. Not after `close`. */
  ended(): void
}

/**
 * Our end of the socket that is a process's stdout or stderr. Bytes are told in the turn in which they are read: between
 * turns everything is either told or in the kernel, so nothing is lost when the master re-executes itself.
 */
export class OutputPipe {
  #fd: number | null
  readonly #socket: Socket | undefined
  /** Bytes read in a row while the log was congested. */
  #paced = 0

  /** Owns `fd`; null is a stream that has ended already. */
  constructor(fd: number | null, host: OutputPipeHost) {
    this.#fd = fd
    if (fd === null) return
    // It may come from before an exec, which it can only have crossed without the flag.
    setCloseOnExec(fd, true)
    // Not by 'data' events: a socket that is paused would go on reading, into a buffer that an exec loses.
    const onread = {
      buffer,
      callback: (count: number) => {
        const began = performance.now()
        host.data(buffer.subarray(0, count))
        return this.#mayReadOn(count, performance.now() - began)
      },
    }
    const options: SocketConstructorOpts & { onread: OnReadOpts } = {
      fd,
      readable: true,
      writable: false,
      onread,
    }
    this.#socket = new Socket(options)
    // ECONNRESET: the other end was closed with something unread, which is nobody's loss. 'close' follows.
    this.#socket.on('error', () => undefined)
    this.#socket.on('close', () => {
      if (this.#fd === null) return
      this.#fd = null
      host.ended()
    })
  }

  /** @param ms what the bytes cost */
  #mayReadOn(count: number, ms: number): boolean {
    const inBudget = outputPace.spend(ms)
    const resume = () => this.#socket?.resume()
    const output = standardOutput()
    this.#paced = output.congested ? this.#paced + count : 0
    if (this.#paced < PACED_BYTES) {
      if (!inBudget) outputPace.rest(resume)
      return inBudget
    }
    this.#paced = 0
    void output.relieved(MAX_PAUSE_MS).then(inBudget ? resume : () => outputPace.rest(resume))
    return false
  }

  /** Borrowed; null once the stream has ended. libuv closes the descriptor some time before `close` is emitted. */
  get fd(): number | null {
    return this.#socket?.destroyed ? null : this.#fd
  }

  close(): void {
    this.#fd = null
    this.#socket?.destroy()
  }
}
