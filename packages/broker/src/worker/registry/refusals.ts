import { closeReachable, type OwnedFd } from '@baton/native-sendmsg'

/** How long a connection is kept open, in milliseconds. */
const DELAY_MS = 1000
/** Maximum connections kept open; further ones are closed immediately. */
const MAX_WAITING = 32

/**
 * Closes connections late and unread. A peer that dials again as soon as it is refused is slowed to one dial a second; after an
 * immediate close it would be back within a millisecond. Owns these connections.
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

  /** Closes all connections now. */
  end(): void {
    for (const fd of this.#waiting.keys()) this.#end(fd)
  }

  #end(fd: OwnedFd): void {
    clearTimeout(this.#waiting.get(fd))
    this.#waiting.delete(fd)
    closeReachable(fd, true)
  }
}

/** Maximum keys remembered. */
const MAX_LOGGED = 1000

/** Whether a key is new, so that refusals repeated at each dial are logged once. Forgets the oldest key when full. */
export class LogOnce {
  readonly #seen = new Set<string>()

  isNew(key: string): boolean {
    if (this.#seen.has(key)) return false
    if (this.#seen.size >= MAX_LOGGED) this.#seen.delete(this.#seen.values().next().value as string)
    this.#seen.add(key)
    return true
  }
}
