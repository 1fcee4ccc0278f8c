/** The clients' records: requests in flight, who answered which, and failures. */
export class Ledger {
  #answeredBy = new Uint16Array(1 << 16)
  #lastId = 0
  #kinds = new Map()
  #report

  /** @param report is called with each failure immediately */
  constructor(report) {
    this.#report = report
  }

  /** Established connections. */
  connected = 0

  request(kind) {
    this.#of(kind).requests += 1
    this.#lastId += 1
    if (this.#lastId === this.#answeredBy.length) {
      const longer = new Uint16Array(this.#answeredBy.length * 2)
      longer.set(this.#answeredBy)
      this.#answeredBy = longer
    }
    return this.#lastId
  }

  /** @param took milliseconds from sending, or from connect if that came first */
  answered(kind, id, instance, took) {
    const counts = this.#of(kind)
    counts.answered += 1
    counts.slowest = Math.max(counts.slowest, took)
    this.#answeredBy[id] = instance
  }

  failed(failure) {
    if (failure.id !== 0) this.#of(failure.kind).failed += 1
    this.#report(failure)
  }

  answers() {
    return Buffer.from(this.#answeredBy.buffer, 0, (this.#lastId + 1) * 2)
  }

  summary() {
    return { connected: this.connected, kinds: Object.fromEntries(this.#kinds) }
  }

  #of(kind) {
    let counts = this.#kinds.get(kind)
    if (counts === undefined)
      this.#kinds.set(kind, (counts = { requests: 0, answered: 0, failed: 0, slowest: 0 }))
    return counts
  }
}
