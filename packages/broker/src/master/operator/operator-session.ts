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

/** A command is a line of words; nobody types a longer one. */
const MAX_LINE_BYTES = 4096

/** Bytes that an operator who does not read may let wait. */
const MAX_UNSENT_BYTES = 1024 * 1024

/** How long what was written may take to be read after the end, in milliseconds. */
const ANSWER_TIMEOUT_MS = 10_000

/** What who is at the other end may do: an operator everything, a reader look. */
export type Rights = 'operator' | 'reader'

export interface OperatorSessionHost {
  /** One line. No other is delivered before `answered`. */
  line(session: OperatorSession, text: string): void
  closed(session: OperatorSession): void
}

/**
 * One operator's connection to the master: lines in, text out. After one answer it is over, unless the operator has asked for a
 * prompt; that mode belongs to the session, and a session that has crossed a reload is a new one.
 *
 * Owns its descriptor until `release`.
 */
export class OperatorSession {
  readonly rights: Rights
  /** The user and the process at the other end, for the log. */
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

  /** To borrow. */
  get fd(): BorrowedFd {
    return this.#fd.fd
  }

  write(text: string): void {
    if (!this.open || this.#ending) return
    this.#output = Buffer.concat([this.#output, Buffer.from(text)])
    if (this.#output.length > MAX_UNSENT_BYTES) return this.close()
    this.#flush()
  }

  /** The command is done. */
  answered(): void {
    this.#busy = false
    if (!this.open) return
    if (!this.prompt) return this.end()
    this.write('> ')
    this.#next()
  }

  /** Closes when everything is written. */
  end(): void {
    this.#ending = true
    if (!this.open) return
    if (this.#output.length === 0) return this.close()
    // Who does not read does not keep its place for ever.
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
      // After `quit` nothing is heard any more; behind a command that takes its time only so much.
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

  /** Not by recursion: a line that is answered at once asks for the next. */
  #next(): void {
    if (this.#running) return
    this.#running = true
    try {
      while (this.#runOne()) {
        // Until one takes its time, or there is none.
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
