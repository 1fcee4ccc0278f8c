const FIRST = 100
const LONGEST = 5000
/** A worker that lived for so long, in milliseconds, had a good start: the next is replaced at once again. */
const GOOD = 10_000

/** How long to wait before a worker that died is replaced: not at all the first time, then doubling. */
export class RestartBackoff {
  #delay = 0

  /** @param lived milliseconds @returns milliseconds */
  next(lived: number): number {
    if (lived >= GOOD) this.#delay = 0
    const delay = this.#delay
    this.#delay = Math.min(LONGEST, delay === 0 ? FIRST : delay * 2)
    return delay
  }
}
