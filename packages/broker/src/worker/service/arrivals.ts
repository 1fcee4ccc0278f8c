const SECOND_MS = 1000

/** Counts what arrives, by the second. Times in ms, monotonic. */
export class Arrivals {
  #second = 0
  #current = 0
  #last = 0

  add(count: number, now: number): void {
    this.#turn(now)
    this.#current += count
  }

  /** In the last whole second. */
  lastSecond(now: number): number {
    this.#turn(now)
    return this.#last
  }

  #turn(now: number): void {
    const second = Math.floor(now / SECOND_MS)
    if (second === this.#second) return
    this.#last = second === this.#second + 1 ? this.#current : 0
    this.#current = 0
    this.#second = second
  }
}
