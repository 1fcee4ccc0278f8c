/** A timer that was set; `Clock.clear` forgets it. */
export interface Timer {
  /** The process may end without it. */
  unref(): unknown
}

/**
 * The time that state machines live by, and their timers. A simulation gives them another one than the system's; that is
 * why nothing that decides about a connection asks the system itself.
 */
export interface Clock {
  /** Milliseconds, monotonic. */
  now(): number
  /** CLOCK_MONOTONIC in nanoseconds, which all processes of a host share: the time of token deadlines. */
  hrtime(): bigint
  setTimeout(callback: () => void, milliseconds: number): Timer
  setInterval(callback: () => void, milliseconds: number): Timer
  /** Harmless for a timer that is over. */
  clear(timer: Timer | undefined): void
}

export const systemClock: Clock = {
  now: () => performance.now(),
  hrtime: () => process.hrtime.bigint(),
  setTimeout: (callback, milliseconds) => setTimeout(callback, milliseconds),
  setInterval: (callback, milliseconds) => setInterval(callback, milliseconds),
  clear: (timer) => clearTimeout(timer as NodeJS.Timeout | undefined),
}
