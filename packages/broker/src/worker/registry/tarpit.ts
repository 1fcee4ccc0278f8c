import { closeReachable, type OwnedFd } from '@baton/native-sendmsg'

/** How long a connection is kept waiting, in milliseconds. */
const DELAY_MS = 1000
/** Maximum connections that are kept waiting; further ones are closed at once. */
const MAX_WAITING = 32

/**
 * Closes connections late and unread. A peer that dials again as soon as it is turned away is slowed to one dial a second,
 * where closing at once would have it back within a millisecond. Owner of these connections.
 */
export class Tarpit {
  readonly #waiting = new Map<OwnedFd, NodeJS.Timeout>()

  /** Owns `fd`. */
  close(fd: OwnedFd): void {
    if (this.#waiting.size >= MAX_WAITING) return closeReachable(fd, true)
    this.#waiting.set(
      fd,
      setTimeout(() => this.#end(fd), DELAY_MS),
    )
  }

  /** Closes all of them now. */
  end(): void {
    for (const fd of this.#waiting.keys()) this.#end(fd)
  }

  #end(fd: OwnedFd): void {
    clearTimeout(this.#waiting.get(fd))
    this.#waiting.delete(fd)
    closeReachable(fd, true)
  }
}
