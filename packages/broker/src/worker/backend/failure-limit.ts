export interface FailureLimitOptions {
  readonly failures: number
  /** Milliseconds, as `pause`. */
  readonly window: number
  readonly pause: number
}

/**
 * Pauses a backend that keeps failing: `failures` within `window` pause it for `pause`; one success resets the count. Times are
 * milliseconds of any monotonic clock.
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

  /** Milliseconds until the pause ends; 0 if there is none. */
  retryAfter(now: number): number {
    return Math.max(0, this.#pausedUntil - now)
  }
}
