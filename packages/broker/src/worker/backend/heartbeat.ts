/** So many probes in a row without an answer, and the backend is not chosen any more. */
const MISSES = 3

/**
 * Whether a backend's event loop answers. Pure: says what to send and what an answer means.
 *
 *     responsive -- 3 probes unanswered, or an ACK deadline missed --> unresponsive
 *     unresponsive -- a probe sent since then is answered -----------> responsive
 */
export class Heartbeat {
  #lastId = 0
  #answeredId = 0
  /** Answers to probes up to this one were on their way before the trouble began, and prove nothing. */
  #troubleId: number | undefined
  #lastSent: number

  constructor(now: number) {
    this.#lastSent = now
  }

  get unresponsive(): boolean {
    return this.#troubleId !== undefined
  }

  /** A probe is due: its id. Undefined when one was sent within the interval. Times in milliseconds. */
  next(now: number, interval: number): number | undefined {
    if (now - this.#lastSent < interval / 2) return undefined
    if (this.#lastId - this.#answeredId >= MISSES) this.missed()
    return this.probe(now)
  }

  /** The id of a probe that is sent at once. */
  probe(now: number): number {
    this.#lastSent = now
    this.#lastId += 1
    return this.#lastId
  }

  missed(): void {
    this.#troubleId ??= this.#lastId
  }

  /** True when this answer ends an unresponsive time. */
  answered(id: number): boolean {
    if (id > this.#lastId) return false
    this.#answeredId = Math.max(this.#answeredId, id)
    if (this.#troubleId === undefined || id <= this.#troubleId) return false
    this.#troubleId = undefined
    return true
  }
}
