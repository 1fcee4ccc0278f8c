import { Socket } from 'node:net'
import { setCloseOnExec } from '@baton/native-sendmsg'

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

  /** Owns `fd`; null is a stream that has ended already. */
  constructor(fd: number | null, host: OutputPipeHost) {
    this.#fd = fd
    if (fd === null) return
    // It may come from before an exec, which it can only have crossed without the flag.
    setCloseOnExec(fd, true)
    this.#socket = new Socket({ fd, readable: true, writable: false })
    this.#socket.on('data', (chunk: Buffer) => host.data(chunk))
    // ECONNRESET: the other end was closed with something unread, which is nobody's loss. 'close' follows.
    this.#socket.on('error', () => undefined)
    this.#socket.on('close', () => {
      if (this.#fd === null) return
      this.#fd = null
      host.ended()
    })
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
