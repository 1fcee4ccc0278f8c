/** Interval of the samples while there are clients, in ms; each of them wakes an idle process. */
const PRECISION_MS = 20

/** The same while there are none. */
const REST_MS = 1000

/**
 * The greatest event-loop delay of this process since the last `take()`: how late its own timer ran. It is sampled often only while there is a client
 * that a delay would keep waiting. Does not keep the process alive.
 */
export class EventLoopLag {
  /** In ms. */
  #worst = 0
  #interval = 0
  #due = 0
  #timer: NodeJS.Timeout | undefined
  /** A client has come since the last `take()`. */
  #wasUsed = false

  constructor() {
    this.#every(REST_MS)
  }

  /** A client has come. To be called before it is served. */
  clientCame(): void {
    this.#wasUsed = true
    if (this.#interval === REST_MS) this.#every(PRECISION_MS)
  }

  /** Returns milliseconds, and resets. @param hasClients false: it rests, if none has come meanwhile */
  take(hasClients: boolean): number {
    // The timer is late, and this was called before.
    this.#note()
    const worst = this.#worst
    this.#worst = 0
    if (!hasClients && !this.#wasUsed && this.#interval === PRECISION_MS) this.#every(REST_MS)
    this.#wasUsed = false
    return Math.round(worst * 10) / 10
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#interval = 0
  }

  #every(interval: number): void {
    clearInterval(this.#timer)
    this.#interval = interval
    this.#due = performance.now() + interval
    this.#timer = setInterval(() => {
      this.#note()
      this.#due = performance.now() + interval
    }, interval)
    this.#timer.unref()
  }

  /** Notes how late the timer is now; that counts once. */
  #note(): void {
    const now = performance.now()
    if (now <= this.#due) return
    this.#worst = Math.max(this.#worst, now - this.#due)
    this.#due = now
  }
}
