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

/** Refusals repeat at each dial of the same process; this many different ones are remembered. */
const MAX_LOGGED = 1000

/** Says whether something is new. Forgets the oldest when it has seen too much. */
export class LogOnce {
  readonly #seen = new Set<string>()

  isNew(key: string): boolean {
    if (this.#seen.has(key)) return false
    if (this.#seen.size >= MAX_LOGGED) this.#seen.delete(this.#seen.values().next().value as string)
    this.#seen.add(key)
    return true
  }
}
