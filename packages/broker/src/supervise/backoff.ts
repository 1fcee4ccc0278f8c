/** A process that lived this long had started, so its exit does not count as a failed start, in ms. */
const LONG_LIFE_MS = 10_000

/** The first delay that is not 0, in ms; later ones double. */
const FIRST_DELAY_MS = 100

/** Exits within the window that make a crash loop. With the delays of managed backends, 8 exits at start take 13 s. */
const CRASHES = 8
const WINDOW_MS = 60_000

/** Interval between starts in a crash loop, in ms: what the process lacks may become available. */
const CRASHED_DELAY_MS = 60_000

/** Earlier exits, as far as they affect the next start. Plain data: that of managed backends crosses a re-execution of the master. */
export interface RestartHistory {
  /** Delay of the next restart, in ms. */
  readonly delay: number
  /** Times of the last exits after short lives: CLOCK_MONOTONIC, in ms. */
  readonly crashes: readonly number[]
  readonly crashed: boolean
}

export interface RestartPolicy {
  readonly first: RestartHistory
  /** In ms. */
  readonly maxDelay: number
  /** Whether short lives in quick succession lead to a start a minute. */
  readonly crashLoop: boolean
}

export const NO_HISTORY: RestartHistory = { delay: FIRST_DELAY_MS, crashes: [], crashed: false }

/** The first restart follows after 100 ms: most exits are isolated. */
export const BACKEND_RESTARTS: RestartPolicy = { first: NO_HISTORY, maxDelay: 10_000, crashLoop: true }

/** The first restart is immediate, and attempts never become rare: without a worker no client is served. */
export const WORKER_RESTARTS: RestartPolicy = {
  first: { ...NO_HISTORY, delay: 0 },
  maxDelay: 5000,
  crashLoop: false,
}

export interface Restart {
  readonly history: RestartHistory
  /** From now, in ms. */
  readonly delay: number
}

/**
 * When to restart a process that has exited. Pure.
 *
 * Delays double from 100 ms to the policy's maximum; a life of 10 s resets them. Eight shorter lives within a minute are a crash loop: from
 * then on the process is started once a minute, until it lives for 10 s.
 */
export function restartAfter(
  history: RestartHistory,
  { now, lived }: { readonly now: number; readonly lived: number },
  { first, maxDelay, crashLoop }: RestartPolicy = BACKEND_RESTARTS,
): Restart {
  const { delay, crashes, crashed } = lived >= LONG_LIFE_MS ? first : history
  const next = Math.min(maxDelay, Math.max(FIRST_DELAY_MS, delay * 2))
  if (!crashLoop || lived >= LONG_LIFE_MS) return { history: { ...first, delay: next }, delay }
  const recent = [...crashes, now].filter((at) => now - at < WINDOW_MS).slice(-CRASHES)
  const loops = crashed || recent.length === CRASHES
  return {
    history: { delay: next, crashes: recent, crashed: loops },
    delay: loops ? CRASHED_DELAY_MS : delay,
  }
}
