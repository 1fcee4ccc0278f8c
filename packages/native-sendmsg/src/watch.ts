import type { BorrowedFd } from './descriptors.ts'
import { BatonNativeError } from './errors.ts'

/** Events of epoll_ctl(2). EPOLLERR and EPOLLHUP are always reported. */
export const EPOLLIN = 0x001
export const EPOLLOUT = 0x004
export const EPOLLERR = 0x008
export const EPOLLHUP = 0x010
export const EPOLLRDHUP = 0x2000
export const EPOLLEXCLUSIVE = 2 ** 28
export const EPOLLONESHOT = 2 ** 30
export const EPOLLET = 2 ** 31

export type ReadinessListener = (events: number) => void

/** The poller's side of a watch. */
export interface Watcher {
  modify(watch: Watch, events: number): void
  remove(watch: Watch): void
}

/**
 * One watched descriptor, borrowed: whoever owns it removes the watch before the descriptor is closed,
 * passed on or given away. Made by `Poller.add`.
 *
 * It is also all that the poller knows of the descriptor: there may be ten thousand.
 */
export class Watch {
  readonly fd: BorrowedFd
  /** Tells events of this watch from those of an earlier one of the same number. */
  readonly generation: number
  readonly listener: ReadinessListener
  readonly #watcher: Watcher
  #events: number
  #removed = false

  constructor(
    watcher: Watcher,
    fd: BorrowedFd,
    generation: number,
    events: number,
    listener: ReadinessListener,
  ) {
    this.#watcher = watcher
    this.fd = fd
    this.generation = generation
    this.#events = events
    this.listener = listener
  }

  /** What was asked for last. */
  get events(): number {
    return this.#events
  }

  /**
   * Asks for other events from now on; arms an EPOLLONESHOT watch again. BATON_ERR_FD_CLOSED after
   * `remove`.
   */
  modify(events: number): void {
    if (this.#removed) {
      throw new BatonNativeError('BATON_ERR_FD_CLOSED', `the watch of fd ${this.fd} was removed`)
    }
    this.#watcher.modify(this, events)
    this.#events = events
  }

  /**
   * EPOLL_CTL_DEL; the listener is not called any more, not even for events that have been fetched already.
   * A second call does nothing. NativeError (EBADF, ENOENT) when the descriptor was closed first: then the
   * kernel goes on reporting the open file for as long as any process holds it, and nobody can stop it.
   */
  remove(): void {
    if (this.#removed) return
    this.#removed = true
    this.#watcher.remove(this)
  }
}
