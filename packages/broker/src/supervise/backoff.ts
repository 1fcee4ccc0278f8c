/** Milliseconds. The first restart is soon: most exits are single ones. */
const FIRST_DELAY_MS = 100
const MAX_DELAY_MS = 10_000
/** Without a worker no client is served. */
const MAX_WORKER_DELAY_MS = 5000
/** A process that lived for so long had started; its exit counts for nothing. */
const LONG_LIFE_MS = 10_000
/** So many short lives within the window are a crash loop. With the delays above, 8 exits at start take 13 s. */
const CRASHES = 8
const WINDOW_MS = 60_000
/** How often one that is in a crash loop is tried, in case that what it lacks has come. */
const CRASHED_DELAY_MS = 60_000

/** What an instance's past says about its next start. Plain data: it outlives the process that decides. */
export interface RestartHistory {
  /** Delay of the next restart, in milliseconds. */
  readonly delay: number
  /** When the last short lives ended; CLOCK_MONOTONIC, milliseconds. */
  readonly crashes: readonly number[]
  readonly crashed: boolean
}

export const NO_HISTORY: RestartHistory = { delay: FIRST_DELAY_MS, crashes: [], crashed: false }

export interface Restart {
  readonly history: RestartHistory
  /** Milliseconds from now. */
  readonly delay: number
}

/**
 * When to start again what has ended. Pure.
 *
 * Delays double from 100 ms to 10 s; a life of 10 s takes them back to the beginning. Eight lives shorter than that
 * within a minute are a crash loop: from then on one try a minute, until one lives for 10 s.
 */
export function restartAfter(history: RestartHistory, exit: { now: number; lived: number }): Restart {
  if (exit.lived >= LONG_LIFE_MS) return { history: afterDelay(NO_HISTORY), delay: FIRST_DELAY_MS }
  const recent = [...history.crashes, exit.now].filter((at) => exit.now - at < WINDOW_MS)
  const crashes = recent.slice(-CRASHES)
  const crashed = history.crashed || crashes.length === CRASHES
  const next = { ...afterDelay(history), crashes, crashed }
  return { history: next, delay: crashed ? CRASHED_DELAY_MS : history.delay }
}

function afterDelay(history: RestartHistory): RestartHistory {
  return { ...history, delay: doubled(history.delay, MAX_DELAY_MS) }
}

/** How long to wait before a worker that died is replaced: not at all the first time, then doubling. */
export class RestartBackoff {
  #delay = 0

  /** @param lived milliseconds @returns milliseconds */
  next(lived: number): number {
    if (lived >= LONG_LIFE_MS) this.#delay = 0
    const delay = this.#delay
    this.#delay = doubled(delay, MAX_WORKER_DELAY_MS)
    return delay
  }
}

function doubled(delay: number, longest: number): number {
  return Math.min(longest, Math.max(FIRST_DELAY_MS, delay * 2))
}
