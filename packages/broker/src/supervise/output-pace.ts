/** Time for the output of all processes in one turn of the event loop, in ms. Beyond it, pipes rest. */
const TURN_BUDGET_MS = 10

/** Limits of a rest, in ms. It lasts as long as the work before it. */
const MIN_REST_MS = 1
const MAX_REST_MS = 50

/**
 * Keeps apps that print at full speed from blocking the event loop: libuv reads up to 32 times from a socket before it serves another one,
 * and a pipe that is never empty (`yes`) would leave no time for a worker's death or a SIGTERM. Output gets at most half of the time;
 * resting pipes are resumed one at a time, in the order in which they stopped.
 */
class OutputPace {
  /** Time spent in this turn of the event loop, in ms. */
  #spent = 0
  #rest = MIN_REST_MS
  readonly #resting: (() => void)[] = []
  #scheduled = false

  /**
   * Counts `ms` for a chunk that was handled.
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
