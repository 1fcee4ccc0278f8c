/** A move that takes longer than this, in ms, is too slow: from letting go until the next process has the connection. */
const TARGET_MS = 5

const LEAST = 2
const FIRST = 8
const MOST = 16

/**
 * How many connections with state may be on their way at once, without any I/O.
 *
 * A connection is silent from the moment this process lets go of it until the next one has it, and with N on their way it waits for N - 1
 * others. On a quiet machine 16 take a few milliseconds. On a busy one they would take 50, and the work is done no sooner. So the number
 * follows the times that were seen, as TCP's window follows losses: one more after a whole window of quick moves, half after a slow one.
 */
export class PauseWindow {
  #size = FIRST
  /** Moves that were on their way at the last reduction: they say nothing about the present size. */
  #ignored = 0

  get size(): number {
    return Math.floor(this.#size)
  }

  /** The next process has one. @param milliseconds since this process let go of it */
  settled(milliseconds: number): void {
    if (milliseconds <= TARGET_MS) this.#size = Math.min(MOST, this.#size + 1 / this.#size)
    else if (this.#ignored === 0) {
      this.#ignored = this.size
      this.#size = Math.max(LEAST, this.#size / 2)
      return
    }
    if (this.#ignored > 0) this.#ignored -= 1
  }
}
