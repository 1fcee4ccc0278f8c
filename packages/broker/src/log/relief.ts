/** Those that wait until an output is no longer congested. */
export class Relief {
  readonly #waiting = new Set<() => void>()

  /** Resolves with the next `come`, or after `limit` ms. */
  wait(limit: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        this.#waiting.delete(done)
        resolve()
      }
      const timer = setTimeout(done, limit)
      this.#waiting.add(done)
    })
  }

  come(): void {
    for (const done of this.#waiting) done()
  }
}
