export interface FailureLimitOptions {
  readonly failures: number
  /** Milliseconds, as `pause`. */
  readonly window: number
  readonly pause: number
}

/** Kind of attempt: passing the descriptor, or relaying. */
export type Attempt = 'handoff' | 'relay'

/**
 * Pauses a backend that keeps failing: `failures` within `window` pause it for `pause`; one success resets the count. A relay that succeeds says
 * nothing about descriptors, which may still be refused each time: it resets only failures of relays. Times are milliseconds of any monotonic clock.
 */
export class FailureLimit {
  readonly #options: FailureLimitOptions
  #recent: { readonly at: number; readonly attempt: Attempt }[] = []
  #pausedUntil = 0
  /** Failed handoffs are among those that led to the pause. */
  #pausedByHandoffs = false

  constructor(options: FailureLimitOptions) {
    this.#options = options
  }

  failed(now: number, attempt: Attempt = 'handoff'): void {
    const { failures, window, pause } = this.#options
    this.#recent = this.#recent.filter(({ at }) => now - at < window)
    this.#recent.push({ at: now, attempt })
    if (this.#recent.length < failures) return
    this.#pausedByHandoffs = this.#recent.some((each) => each.attempt === 'handoff')
    this.#recent = []
    this.#pausedUntil = now + pause
  }

  succeeded(attempt: Attempt = 'handoff'): void {
    if (this.#recent.length > 0)
      this.#recent = this.#recent.filter((each) => attempt === 'relay' && each.attempt === 'handoff')
    if (attempt === 'handoff' || !this.#pausedByHandoffs) this.#pausedUntil = 0
  }

  /** Milliseconds until the pause ends; 0 if there is none. */
  retryAfter(now: number): number {
    return Math.max(0, this.#pausedUntil - now)
  }
}
