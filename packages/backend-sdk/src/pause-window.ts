/** Half of all moves may take longer than this, in ms: from letting go until the next process has the connection. */
const TARGET_MS = 5

const LEAST = 2
const MOST = 16

/**
 * How many connections with state may be on their way at once, without any I/O.
 *
 * A connection is silent from the moment this process lets go of it until the next one has it, and with N on their way it waits for N - 1
 * others. On a quiet machine 16 take a few milliseconds. On a busy one they would take 50, and the work is done no sooner: so the number
 * follows the times that were seen, as the window of TCP Vegas follows the round trip.
 */
export class PauseWindow {
  #size = LEAST

  get size(): number {
    return Math.floor(this.#size)
  }

  /** The next process has one. @param milliseconds since this process let go of it */
  settled(milliseconds: number): void {
    const step = 1 / this.#size
    this.#size = Math.min(MOST, Math.max(LEAST, this.#size + (milliseconds <= TARGET_MS ? step : -step)))
  }
}
