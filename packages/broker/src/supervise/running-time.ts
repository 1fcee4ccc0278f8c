/**
 * Time in which this process ran, in ms: a stop (SIGSTOP, a frozen cgroup, a machine without a free CPU) counts as one step at most. Input
 * that arrived meanwhile is read before the next step, so a time limit does not end what was in time.
 */
export class RunningTime {
  readonly #longestStep: number
  #last = performance.now()

  constructor(longestStep: number) {
    this.#longestStep = longestStep
  }

  /** Running time since the last step. */
  step(): number {
    const now = performance.now()
    const elapsed = Math.min(now - this.#last, this.#longestStep)
    this.#last = now
    return elapsed
  }
}

/** Interval at which it is measured, in ms. */
export const STEP_MS = 100

/**
 * Calls `over` after `milliseconds` of running time.
 *
 * @returns cancels the call
 */
export function afterRunning(milliseconds: number, over: () => void): () => void {
  const time = new RunningTime(2 * STEP_MS)
  let left = milliseconds
  const timer = setInterval(() => {
    left -= time.step()
    if (left > 0) return
    clearInterval(timer)
    over()
  }, STEP_MS)
  return () => clearInterval(timer)
}
