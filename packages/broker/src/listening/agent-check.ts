import { createServer, type Server, type Socket } from 'node:net'
import { localAddress, type OwnedFd } from '@baton/native-sendmsg'
import { formatAddress } from '../config/address.ts'

/** Connections that stay open until their client has closed. A further one replaces the oldest, which has its answer. */
const MAX_OPEN = 64

/** How long a client may take to read the answer and close, in milliseconds. */
const LINGER_MS = 1000

/** Maximum bytes from a client (`agent-send`) that are read and discarded: a close with unread data would reset the connection. */
const MAX_DISCARDED = 4096

/**
 * Answers HAProxy's agent check: one line to each connection, which is then closed. Each client gets its answer at once, so clients that stay cost
 * others nothing. Owns the listening socket.
 */
export class AgentCheck {
  readonly address: string
  readonly #fd: OwnedFd
  readonly #answer: () => string
  /** The oldest first. */
  readonly #open = new Set<Socket>()
  #server: Server | undefined

  /** @param answer evaluated for each check; with its newline */
  constructor(fd: OwnedFd, answer: () => string) {
    const { address: host, port } = localAddress(fd.fd)
    this.address = formatAddress({ kind: 'tcp', host, port })
    this.#fd = fd
    this.#answer = answer
  }

  /** Until then, checks wait in the kernel. Does nothing after `close`. */
  start(): void {
    if (this.#server !== undefined || this.#fd.closed) return
    this.#server = createServer((socket) => this.#accepted(socket))
    this.#server.on('error', ({ syscall }: NodeJS.ErrnoException) => {
      // One client could not be accepted, for want of memory or files. Otherwise the listening socket has failed: HAProxy sees no answer.
      if (syscall !== 'accept') this.close()
    })
    this.#server.listen({ fd: this.#fd.release() })
  }

  /** Closes this process's copy of the socket: another process that has it answers from now on. */
  close(): void {
    this.#fd.close()
    this.#server?.close()
  }

  #accepted(socket: Socket): void {
    const [oldest] = this.#open
    if (oldest !== undefined && this.#open.size >= MAX_OPEN) {
      this.#open.delete(oldest)
      oldest.destroy()
    }
    this.#open.add(socket)
    // A process that has nothing else to do ends.
    socket.unref()
    const cut = setTimeout(() => socket.destroy(), LINGER_MS).unref()
    socket.on('error', () => {})
    socket.once('close', () => {
      clearTimeout(cut)
      this.#open.delete(socket)
    })
    socket.on('data', () => {
      if (socket.bytesRead > MAX_DISCARDED) socket.destroy()
    })
    socket.end(this.#answer())
  }
}
