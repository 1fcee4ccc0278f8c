export interface FailureLimitOptions {
  readonly failures: number
  /** Milliseconds, as `pause`. */
  readonly window: number
  readonly pause: number
}

/**
 * Stops attempts to a backend that fails again and again: `failures` within `window` pause it for `pause`; one success
 * forgets them all. Times are milliseconds of any monotonic clock.
 */
export class FailureLimit {
  readonly #options: FailureLimitOptions
  #recent: number[] = []
  #pausedUntil = 0

  constructor(options: FailureLimitOptions) {
    this.#options = options
  }

  failed(now: number): void {
    const { failures, window, pause } = this.#options
    this.#recent = this.#recent.filter((at) => now - at < window)
    this.#recent.push(now)
    if (this.#recent.length < failures) return
    this.#recent = []
    this.#pausedUntil = now + pause
  }

  succeeded(): void {
    if (this.#recent.length > 0) this.#recent = []
    this.#pausedUntil = 0
  }

  /** Milliseconds until attempts may be made again; 0 when they may be made now. */
  retryAfter(now: number): number {
    return Math.max(0, this.#pausedUntil - now)
  }
}
