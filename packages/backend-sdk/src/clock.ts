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
  /** After 2^31 - 1 ms at the latest: a sum of durations may be more. */
  setTimeout(callback: () => void, milliseconds: number): Timer
  setInterval(callback: () => void, milliseconds: number): Timer
  /** No effect on a timer that has already fired. */
  clear(timer: Timer | undefined): void
}

/** The longest delay of Node's timers, a signed 32-bit number of milliseconds: 24 days. A longer one would fire after 1 ms. */
export const MAX_TIMER_MS = 2 ** 31 - 1

/** CLOCK_MONOTONIC minus `process.hrtime`: 0 in Node. */
let offset = 0n
/** Far more than passes between two readings of one clock. */
const SAME_CLOCK = 1_000_000_000n

/**
 * In Bun and Deno `process.hrtime` counts from the start of the process, so that no deadline of a broker would ever pass. To be called
 * before the first one.
 *
 * @param monotonic CLOCK_MONOTONIC, now
 */
export function alignClock(monotonic: bigint): void {
  // A pause between the two readings would pass for a difference.
  if (process.versions['bun'] === undefined && process.versions['deno'] === undefined) return
  const difference = monotonic - process.hrtime.bigint()
  offset = difference > SAME_CLOCK || difference < -SAME_CLOCK ? difference : 0n
}

export const systemClock: Clock = {
  now: () => performance.now(),
  hrtime: () => process.hrtime.bigint() + offset,
  setTimeout: (callback, milliseconds) => setTimeout(callback, Math.min(MAX_TIMER_MS, milliseconds)),
  setInterval: (callback, milliseconds) => setInterval(callback, milliseconds),
  clear: (timer) => clearTimeout(timer as NodeJS.Timeout | undefined),
}
