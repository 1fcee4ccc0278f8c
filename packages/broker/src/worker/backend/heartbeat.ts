/** Unanswered probes in a row after which the backend is no longer chosen. */
const MISSES = 3

/**
 * Whether a backend's event loop answers. No I/O: decides what to send, and what an answer means.
 *
 *     responsive -- 3 probes unanswered, or an ACK deadline missed --> unresponsive
 *     unresponsive -- a probe sent since then is answered -----------> responsive
 */
export class Heartbeat {
  #lastId = 0
  #answeredId = 0
  /** The last probe sent before the trouble: answers up to this one may have been under way already, and prove nothing. */
  #troubleId: number | undefined
  #lastSent: number

  constructor(now: number) {
    this.#lastSent = now
  }

  get unresponsive(): boolean {
    return this.#troubleId !== undefined
  }

  /** The id of the probe that is due; undefined if one was sent within half the interval. Times in milliseconds. */
  next(now: number, interval: number): number | undefined {
    if (now - this.#lastSent < interval / 2) return undefined
    if (this.#lastId - this.#answeredId >= MISSES) this.missed()
    return this.probe(now)
  }

  /** The id of a probe to send now. */
  probe(now: number): number {
    this.#lastSent = now
    this.#lastId += 1
    return this.#lastId
  }

  missed(): void {
    this.#troubleId ??= this.#lastId
  }

  /** True if this answer makes the backend responsive again. */
  answered(id: number): boolean {
    if (id > this.#lastId) return false
    this.#answeredId = Math.max(this.#answeredId, id)
    if (this.#troubleId === undefined || id <= this.#troubleId) return false
    this.#troubleId = undefined
    return true
  }
}
