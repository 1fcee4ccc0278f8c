/** A running timer; `Clock.clear` cancels it. */
export interface Timer {
  /** Lets the process exit while the timer runs. */
  unref(): unknown
}

/**
 * Time and timers of the state machines. Code that decides about connections uses only this, never the system's clock, so
 * that the simulation can replace it.
 */
export interface Clock {
  /** Milliseconds, monotonic. */
  now(): number
  /** CLOCK_MONOTONIC in nanoseconds, shared by all processes of a host: token deadlines are in it. */
  hrtime(): bigint
  setTimeout(callback: () => void, milliseconds: number): Timer
  setInterval(callback: () => void, milliseconds: number): Timer
  /** No effect on a timer that has already fired. */
  clear(timer: Timer | undefined): void
}

export const systemClock: Clock = {
  now: () => performance.now(),
  hrtime: () => process.hrtime.bigint(),
  setTimeout: (callback, milliseconds) => setTimeout(callback, milliseconds),
  setInterval: (callback, milliseconds) => setInterval(callback, milliseconds),
  clear: (timer) => clearTimeout(timer as NodeJS.Timeout | undefined),
}
