/** Part of its interval after which it is due: what wakes the process comes at times of its own. */
const EARLIEST = 0.9

/**
 * Something to be done at intervals, when the process is awake anyway: a timer of its own would wake it once more. It has one until the first call of
 * `awake`, from which on whoever calls that does so at shorter intervals.
 */
export class Occasion {
  readonly #interval: number
  readonly #run: () => void | Promise<void>
  #last = Number.POSITIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  /** @param interval in ms */
  constructor(interval: number, run: () => void | Promise<void>) {
    this.#interval = interval
    this.#run = run
  }

  /** The first time is an interval from now. */
  start(): void {
    this.#last = performance.now()
    this.#timer = setInterval(() => void this.#do(), this.#interval)
  }

  /**
   * The process is awake: does it if it is due.
   *
   * @returns what `run` returns; undefined if it is not due, before `start` and after `stop`
   */
  awake(): void | Promise<void> {
    clearInterval(this.#timer)
    if (performance.now() - this.#last >= EARLIEST * this.#interval) return this.#do()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#last = Number.POSITIVE_INFINITY
  }

  #do(): void | Promise<void> {
    this.#last = performance.now()
    return this.#run()
  }
}
