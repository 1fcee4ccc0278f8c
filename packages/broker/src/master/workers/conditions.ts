interface Waiter {
  readonly check: () => boolean
  readonly resolve: () => void
}

/** Waits for conditions that only messages and ends of workers can change: `check` is to be called after each. */
export class Conditions {
  readonly #waiting = new Set<Waiter>()

  /** Resolves when `check` returns true. @param limit in ms, after which it resolves in any case */
  until(check: () => boolean, limit?: number): Promise<void> {
    return this.untilOr(check, (over) => {
      const timer = limit === undefined ? undefined : setTimeout(over, limit)
      return () => clearTimeout(timer)
    })
  }

  /** @param limit starts a time limit, and returns how to cancel it */
  untilOr(check: () => boolean, limit: (over: () => void) => () => void): Promise<void> {
    if (check()) return Promise.resolve()
    return new Promise((resolve) => {
      const cancel = limit(() => waiter.resolve())
      const waiter = {
        check,
        resolve: () => {
          cancel()
          this.#waiting.delete(waiter)
          resolve()
        },
      }
      this.#waiting.add(waiter)
    })
  }

  check(): void {
    for (const waiter of this.#waiting) if (waiter.check()) waiter.resolve()
  }
}
