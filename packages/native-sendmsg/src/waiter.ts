import type { Arena } from './arena.ts'

/**
 * Waits for an epoll set, for a `Poller`. After `arm` it calls the poller once, with the number of events that it has put
 * into the poller's memory (or -errno); until then it is not armed again.
 */
export interface Waiter {
  arm(): void
  /** Makes an outstanding wait end, without events if there are none. Never blocks. */
  wake(): void
  /** The process ends, and nothing of this waiter may be left in its way. */
  exit(): void
  /** Nothing is watched: it must not keep the process alive. Only when it is not armed. */
  rest(): void
  /** Only when it is not armed. */
  close(): void
}

/** What a waiter waits for. */
export interface Waiting {
  readonly epoll: number
  /** Room for `capacity` events. */
  readonly events: Arena
  readonly capacity: number
  readonly onEvents: (count: number) => void
}
