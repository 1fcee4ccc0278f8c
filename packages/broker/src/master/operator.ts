import {
  acceptOne,
  EPOLLIN,
  NativeError,
  OwnedFd,
  peerCredentials,
  type Poller,
  type Watch,
} from '@baton/native-sendmsg'
import { type Rights, Session } from './session.ts'

/** More operators, or readers, than that are a program that forgets to close. */
const MOST_SESSIONS = 64
/** Out of descriptors: milliseconds until the next look. */
const PRESSURE_PAUSE = 100

export interface OperatorHost {
  /** To be answered with `session.write` and `session.answered`. */
  command(session: Session, words: readonly string[]): void
}

/** Accepts on the operator's socket. Who has this process's user, or root, is an operator; everybody else a reader. */
export class Operator {
  readonly #socket: OwnedFd
  readonly #poller: Poller
  readonly #host: OperatorHost
  readonly #sessions = new Set<Session>()
  readonly #awaitingEnd = new Set<Session>()
  readonly #watch: Watch
  #resume: NodeJS.Timeout | undefined

  /** Borrows `socket`. */
  constructor(socket: OwnedFd, poller: Poller, host: OperatorHost) {
    this.#socket = socket
    this.#poller = poller
    this.#host = host
    this.#watch = poller.add(socket.fd, EPOLLIN, () => this.#accept())
  }

  /** Goes on with a connection that was accepted before; owns `fd`. */
  adopt(fd: OwnedFd): Session {
    const session: Session = new Session(fd, peerOf(fd), this.#poller, {
      line: (from, text) => this.#host.command(from, text.split(/\s+/)),
      closed: (from) => void this.#sessions.delete(from),
    })
    this.#sessions.add(session)
    return session
  }

  /** The session hears when the broker ends. */
  awaitEnd(session: Session): void {
    this.#awaitingEnd.add(session)
  }

  /** A line to those who wait for the end: what is waited for. */
  tell(line: string): void {
    for (const session of this.#awaitingEnd) session.write(`${line}\n`)
  }

  /** Says so to those who wait for the end. */
  finish(text: string): void {
    for (const session of this.#awaitingEnd) session.write(text)
  }

  close(): void {
    clearTimeout(this.#resume)
    this.#watch.remove()
    for (const session of this.#sessions) session.close()
  }

  #accept(): void {
    try {
      for (;;) {
        const accepted = acceptOne(this.#socket.fd)
        if (accepted === undefined) return
        const fd = new OwnedFd(accepted.fd)
        const session = this.adopt(fd)
        // Readers take nobody else's place.
        const same = [...this.#sessions].filter(({ rights }) => rights === session.rights)
        if (same.length > MOST_SESSIONS) session.close()
      }
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#watch.modify(0)
      this.#resume = setTimeout(() => this.#watch.modify(EPOLLIN), PRESSURE_PAUSE)
    }
  }
}

function peerOf(fd: OwnedFd): { rights: Rights; peer: string } {
  const { uid, pid } = peerCredentials(fd.fd)
  return {
    rights: uid === 0 || uid === process.getuid?.() ? 'operator' : 'reader',
    peer: `uid ${uid} (pid ${pid})`,
  }
}
