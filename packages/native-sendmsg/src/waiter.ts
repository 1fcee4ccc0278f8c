import type { Arena } from './arena.ts'

/**
 * Waits for an epoll set on behalf of a `Poller`. After `arm`, it calls `onEvents` once, with the number of events written to
 * the poller's memory, or -errno. It must not be armed again before that.
 */
export interface Waiter {
  arm(): void
  /** Ends an outstanding wait, possibly without events. Never blocks. */
  wake(): void
  /** The process is exiting; nothing here may delay it. */
  exit(): void
  /** Nothing is watched, so the waiter must not keep the process alive. Only while it is not armed. */
  rest(): void
  /** Only while it is not armed. */
  close(): void
}

/** The epoll set to wait for. */
export interface Waiting {
  readonly epoll: number
  /** Memory for `capacity` events. */
  readonly events: Arena
  readonly capacity: number
  readonly onEvents: (count: number) => void
}
