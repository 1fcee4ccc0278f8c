import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net'
import { setCloseOnExec } from '@baton/native-sendmsg'
import { congestedOutput } from '../log/congestion.ts'
import { outputPace } from './output-pace.ts'

/** Shared by all pipes: a chunk is handled before the next read. Its size limits one piece of work: it can hold 8192 lines (`yes`). */
const buffer = Buffer.allocUnsafe(16 * 1024)

/**
 * Maximum pause in reading while an output is congested, in ms, after each `PACED_BYTES`: a burst is written instead of dropped, and an app
 * that prints up to 1.3 MB a second never waits for the reader of the log, or for the disk.
 */
const MAX_PAUSE_MS = 50
const PACED_BYTES = 64 * 1024

export interface OutputPipeEvents {
  /** The chunk is valid during the call. */
  data(chunk: Buffer): void
  /** Every holder of the other end has closed it, and everything was read. Not reported after `close`. */
  ended(): void
}

/**
 * Our end of the socket that is a process's stdout or stderr. Bytes are reported in the event-loop turn in which they are read: between
 * turns everything is either reported or in the kernel, so nothing is lost when this program re-executes itself.
 */
export class OutputPipe {
  #fd: number | null
  readonly #socket: Socket | undefined
  /** Bytes read in a row while an output was congested. */
  #paced = 0

  /** Owns `fd`; null is a stream that has already ended. */
  constructor(fd: number | null, events: OutputPipeEvents) {
    this.#fd = fd
    if (fd === null) return
    // A descriptor that has crossed an exec does not have the flag.
    setCloseOnExec(fd, true)
    // Not 'data' events: a paused socket would continue to read, into a buffer that an exec loses.
    const onread = {
      buffer,
      callback: (count: number) => {
        const began = performance.now()
        events.data(buffer.subarray(0, count))
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
    // ECONNRESET: the other end was closed with unread input, which does not matter here. 'close' follows.
    this.#socket.on('error', () => undefined)
    this.#socket.on('close', () => {
      if (this.#fd === null) return
      this.#fd = null
      events.ended()
    })
  }

  /** @param ms time spent on the bytes */
  #mayReadOn(count: number, ms: number): boolean {
    const inBudget = outputPace.spend(ms)
    const resume = () => this.#socket?.resume()
    const output = congestedOutput()
    this.#paced = output === undefined ? 0 : this.#paced + count
    if (output === undefined || this.#paced < PACED_BYTES) {
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
