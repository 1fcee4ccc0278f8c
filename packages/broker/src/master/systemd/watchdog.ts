/** A worker speaks once a second. One that has missed so much, in milliseconds, is stuck. */
const SILENCE_TIMEOUT_MS = 3000

/**
 * Whether the broker lives, for a watchdog that has to be told so at intervals. It does while the worker that serves is heard: a
 * master that runs, and nobody who serves, is no broker. All times are milliseconds of one monotonic clock.
 */
export class Pulse {
  #heardAt: number
  #owed = false

  /** Who has only just begun to serve has not been heard yet. */
  constructor(now: number) {
    this.#heardAt = now
  }

  /** The interval is over; returns whether to say that the broker lives. */
  due(now: number): boolean {
    this.#owed = now - this.#heardAt > SILENCE_TIMEOUT_MS
    return !this.#owed
  }

  /** The worker has said something; returns whether to say now what could not be said when it was due. */
  beat(now: number): boolean {
    const owed = this.#owed
    this.#heardAt = now
    this.#owed = false
    return owed
  }
}
