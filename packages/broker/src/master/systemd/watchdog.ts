/** Workers report once a second. One that has not for this long, in ms, is stuck. */
const SILENCE_TIMEOUT_MS = 3000

/**
 * Decides when to notify the watchdog: only while the serving worker reports, because a master alone is not a working broker.
 * All times are in ms on one monotonic clock.
 */
export class Pulse {
  #reportedAt: number
  #owed = false

  /** @param now counts as the first report: a worker that has just started has not sent one */
  constructor(now: number) {
    this.#reportedAt = now
  }

  /** The interval has passed. Returns whether to notify the watchdog. */
  due(now: number): boolean {
    this.#owed = now - this.#reportedAt > SILENCE_TIMEOUT_MS
    return !this.#owed
  }

  /** The worker has reported. Returns whether to send the notification that was withheld. */
  beat(now: number): boolean {
    const owed = this.#owed
    this.#reportedAt = now
    this.#owed = false
    return owed
  }
}
