const FIRST_DELAY_MS = 50
const MAX_DELAY_MS = 2000

/**
 * Delays between dials of the control socket, in milliseconds: steps double from 50 ms to 2 s, and each delay is uniformly
 * random in the upper half of its step, so that the backends of a dead broker do not all dial at the same instant.
 */
export class Backoff {
  #step = FIRST_DELAY_MS
  readonly #random: () => number

  constructor(random: () => number = Math.random) {
    this.#random = random
  }

  next(): number {
    const step = this.#step
    this.#step = Math.min(step * 2, MAX_DELAY_MS)
    return step / 2 + (step / 2) * this.#random()
  }

  reset(): void {
    this.#step = FIRST_DELAY_MS
  }
}
