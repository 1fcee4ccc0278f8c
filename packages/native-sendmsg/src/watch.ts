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

/** One listener may serve many descriptors: it is told which one is ready. */
export type ReadinessListener = (events: number, fd: BorrowedFd) => void

/** A descriptor to watch, see `Poller.add`. */
export interface WatchRequest {
  readonly fd: BorrowedFd
  readonly events: number
  readonly listener: ReadinessListener
}

/** The poller's side of a watch. */
export interface Watcher {
  modify(watch: Watch, events: number): void
  remove(watch: Watch): void
}

/**
 * One watched descriptor, borrowed: its owner must remove the watch before closing the descriptor or giving
 * it away. Created by `Poller.add`.
 *
 * It is also the poller's only record of the descriptor, and small, since there may be many thousands.
 */
export class Watch {
  readonly fd: BorrowedFd
  /** Distinguishes events of this watch from those of an earlier one for the same number. */
  readonly generation: number
  readonly listener: ReadinessListener
  /** Undefined once it is removed. */
  #watcher: Watcher | undefined
  #events: number

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

  /** The events requested last. */
  get events(): number {
    return this.#events
  }

  /** Changes the requested events; re-arms an EPOLLONESHOT watch. BATON_ERR_FD_CLOSED after `remove`. */
  modify(events: number): void {
    if (this.#watcher === undefined) {
      throw new BatonNativeError('BATON_ERR_FD_CLOSED', `the watch of fd ${this.fd} was removed`)
    }
    this.#watcher.modify(this, events)
    this.#events = events
  }

  /**
   * EPOLL_CTL_DEL. The listener is no longer called, not even for events already fetched. A second call
   * does nothing. NativeError (EBADF, ENOENT) if the descriptor was closed first: the kernel then keeps
   * reporting the open file for as long as any process holds it, and the entry cannot be removed.
   */
  remove(): void {
    const watcher = this.#watcher
    if (this.release()) watcher?.remove(this)
  }

  /** For the poller, which removes it itself. False: it is removed already. */
  release(): boolean {
    const isWatched = this.#watcher !== undefined
    this.#watcher = undefined
    return isWatched
  }
}
