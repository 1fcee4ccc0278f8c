/** Most time that the output of all processes takes in one turn of the event loop before their pipes rest, in ms. */
const TURN_BUDGET_MS = 10

/** Limits of a rest, in ms. It is as long as the work before it. */
const MIN_REST_MS = 1
const MAX_REST_MS = 50

/**
 * Shares the event loop with apps that print at full speed: libuv reads up to 32 times from a socket before it serves another one, and
 * a pipe that is never empty (`yes`) would leave no time for a worker's death or a SIGTERM. Output takes at most half of the time; pipes
 * that rest go on one at a time, in the order in which they stopped.
 */
class OutputPace {
  /** In this turn of the event loop, in ms. */
  #spent = 0
  #rest = MIN_REST_MS
  readonly #resting: (() => void)[] = []
  #scheduled = false

  /**
   * After a chunk was logged, which took `ms`.
   *
   * @returns whether the pipe may be read again in this turn
   */
  spend(ms: number): boolean {
    if (this.#spent === 0) setImmediate(() => (this.#spent = 0))
    this.#spent += Math.max(ms, Number.MIN_VALUE)
    return this.#spent < TURN_BUDGET_MS
  }

  /** Calls `resume` when it is this pipe's turn. */
  rest(resume: () => void): void {
    this.#rest = Math.min(MAX_REST_MS, Math.max(MIN_REST_MS, this.#spent))
    this.#resting.push(resume)
    this.#schedule()
  }

  #schedule(): void {
    if (this.#scheduled || this.#resting.length === 0) return
    this.#scheduled = true
    setTimeout(() => {
      this.#scheduled = false
      this.#resting.shift()?.()
      this.#schedule()
    }, this.#rest)
  }
}

export const outputPace = new OutputPace()
