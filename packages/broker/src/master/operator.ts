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
  #socket: OwnedFd
  readonly #poller: Poller
  readonly #host: OperatorHost
  readonly #sessions = new Set<Session>()
  readonly #awaitingEnd = new Set<Session>()
  #watch: Watch
  #resume: NodeJS.Timeout | undefined

  /** Borrows `socket`. */
  constructor(socket: OwnedFd, poller: Poller, host: OperatorHost) {
    this.#socket = socket
    this.#poller = poller
    this.#host = host
    this.#watch = poller.add(socket.fd, EPOLLIN, () => this.#accept())
  }

  /**
   * Accepts on `socket` from now on, and what still waits in the queue of the former one, which may be closed afterwards.
   *
   * @throws {NativeError} and then goes on with the former one
   */
  replaceSocket(socket: OwnedFd): void {
    while (this.#acceptOne()) {
      // Until it is empty.
    }
    const watch = this.#poller.add(socket.fd, EPOLLIN, () => this.#accept())
    clearTimeout(this.#resume)
    this.#watch.remove()
    this.#watch = watch
    this.#socket = socket
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
      while (this.#acceptOne()) {
        // Until it is empty.
      }
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#watch.modify(0)
      this.#resume = setTimeout(() => this.#watch.modify(EPOLLIN), PRESSURE_PAUSE)
    }
  }

  /** @returns whether there was one */
  #acceptOne(): boolean {
    const accepted = acceptOne(this.#socket.fd)
    if (accepted === undefined) return false
    const session = this.adopt(new OwnedFd(accepted.fd))
    // Readers take nobody else's place.
    const same = [...this.#sessions].filter(({ rights }) => rights === session.rights)
    if (same.length > MOST_SESSIONS) session.close()
    return true
  }
}

function peerOf(fd: OwnedFd): { rights: Rights; peer: string } {
  const { uid, pid } = peerCredentials(fd.fd)
  return {
    rights: uid === 0 || uid === process.getuid?.() ? 'operator' : 'reader',
    peer: `uid ${uid} (pid ${pid})`,
  }
}
