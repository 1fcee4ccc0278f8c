import {
  type BorrowedFd,
  closeReachable,
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  NativeError,
  type OwnedFd,
  type Poller,
  receivePlain,
  send,
  type Watch,
} from '@baton/native-sendmsg'

/** Maximum length of a command line. */
const MAX_LINE_BYTES = 4096

/** Maximum unread output. A session with more is closed. */
const MAX_UNSENT_BYTES = 1024 * 1024

/** How long the peer may take to read the last answer, in ms. */
const ANSWER_TIMEOUT_MS = 10_000

/** Permissions of the peer: an operator may do everything, a reader may only query. */
export type Rights = 'operator' | 'reader'

export interface OperatorSessionHost {
  /** A command line. The next one is delivered only after `answered`. */
  line(session: OperatorSession, text: string): void
  closed(session: OperatorSession): void
}

/**
 * One operator's connection to the master: lines in, text out. It ends after one answer, unless the operator has requested a
 * prompt. A session that crosses a reload becomes a new one, without a prompt.
 *
 * Owns its descriptor until `close`.
 */
export class OperatorSession {
  readonly rights: Rights
  /** User and process at the other end, for logs. */
  readonly peer: string
  prompt = false
  readonly #fd: OwnedFd
  readonly #host: OperatorSessionHost
  #watch: Watch | undefined
  #input = ''
  #inputEnded = false
  #output: Buffer = Buffer.alloc(0)
  #busy = false
  #ending = false
  #running = false

  constructor(
    fd: OwnedFd,
    { rights, peer }: Pick<OperatorSession, 'rights' | 'peer'>,
    poller: Poller,
    host: OperatorSessionHost,
  ) {
    this.#fd = fd
    this.rights = rights
    this.peer = peer
    this.#host = host
    this.#watch = poller.add(fd.fd, EPOLLIN, (events) => this.#ready(events))
  }

  get open(): boolean {
    return !this.#fd.closed
  }

  /** Borrowed from this session. */
  get fd(): BorrowedFd {
    return this.#fd.fd
  }

  write(text: string): void {
    if (!this.open || this.#ending) return
    this.#output = Buffer.concat([this.#output, Buffer.from(text)])
    if (this.#output.length > MAX_UNSENT_BYTES) return this.close()
    this.#flush()
  }

  /** The current command has been answered. */
  answered(): void {
    this.#busy = false
    if (!this.open) return
    if (!this.prompt) return this.end()
    this.write('> ')
    this.#next()
  }

  /** Closes once everything is written. */
  end(): void {
    this.#ending = true
    if (!this.open) return
    if (this.#output.length === 0) return this.close()
    // Close peers that never read the answer.
    setTimeout(() => this.close(), ANSWER_TIMEOUT_MS).unref()
  }

  close(): void {
    if (!this.open) return
    this.#watch?.remove()
    closeReachable(this.#fd, true)
    this.#host.closed(this)
  }

  #ready(events: number): void {
    if ((events & EPOLLOUT) !== 0) this.#flush()
    if (!this.open) return
    if ((events & EPOLLIN) !== 0 && !this.#inputEnded) this.#read()
    else if ((events & (EPOLLHUP | EPOLLERR)) !== 0) this.close()
  }

  #read(): void {
    try {
      const bytes = receivePlain(this.#fd.fd, MAX_LINE_BYTES)
      // Input after `quit` is ignored. Input behind a running command is limited.
      if (!this.#ending) this.#input += bytes.toString('latin1')
      if (this.#input.length > 2 * MAX_LINE_BYTES) return this.close()
      if (bytes.length === 0) {
        this.#inputEnded = true
        this.#watch?.modify(this.#output.length > 0 ? EPOLLOUT : 0)
      }
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (error.code !== 'EAGAIN') this.close()
      return
    }
    this.#next()
  }

  /** A loop, because a line that is answered immediately would recurse into the next one. */
  #next(): void {
    if (this.#running) return
    this.#running = true
    try {
      while (this.#runOne()) {
        // Until a command is pending, or no line is left.
      }
    } finally {
      this.#running = false
    }
  }

  #runOne(): boolean {
    if (this.#busy || this.#ending || !this.open) return false
    const end = this.#input.indexOf('\n')
    if (end < 0) {
      if (this.#inputEnded || this.#input.length >= MAX_LINE_BYTES) this.end()
      return false
    }
    const line = this.#input.slice(0, end).trim()
    this.#input = this.#input.slice(end + 1)
    if (line === '') return true
    this.#busy = true
    this.#host.line(this, line)
    return true
  }

  #flush(): void {
    try {
      while (this.#output.length > 0) this.#output = this.#output.subarray(send(this.#fd.fd, this.#output))
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (error.code !== 'EAGAIN') return this.close()
    }
    const input = this.#inputEnded ? 0 : EPOLLIN
    this.#watch?.modify(this.#output.length > 0 ? input | EPOLLOUT : input)
    if (this.#ending && this.#output.length === 0) this.close()
  }
}
