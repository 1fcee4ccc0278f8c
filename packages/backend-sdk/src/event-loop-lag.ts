/** Interval of the samples while the process works, in ms; each of them wakes an idle process. */
const PRECISION_MS = 20

/** How often it is checked whether the process works, in ms. */
const CHECK_MS = 1000

/** Processor time between two checks, in microseconds, from which on a process works: 5 %, several times what the samples cost. */
const WORKS_US = 50_000

/**
 * How late timers run in this process, sampled only while there is work: an app without clients may sleep. Its own timers, because the monitor of
 * `node:perf_hooks` forgets what it has when it is switched on again. Does not keep the process alive.
 */
export class EventLoopLag {
  #worst = 0
  #before = process.cpuUsage()
  readonly #check: NodeJS.Timeout
  #samples: NodeJS.Timeout | undefined

  constructor() {
    // It notices a stall after a rest, too.
    this.#check = this.#every(CHECK_MS, () => {
      const { user, system } = process.cpuUsage(this.#before)
      this.#before = process.cpuUsage()
      if (user + system >= WORKS_US) this.#samples ??= this.#every(PRECISION_MS)
      else this.#rest()
    })
  }

  /** The greatest delay since the last call, in ms. */
  take(): number {
    const worst = this.#worst
    this.#worst = 0
    return Math.round(worst * 10) / 10
  }

  stop(): void {
    clearInterval(this.#check)
    this.#rest()
  }

  #every(interval: number, also?: () => void): NodeJS.Timeout {
    let due = performance.now() + interval
    return setInterval(() => {
      const now = performance.now()
      this.#worst = Math.max(this.#worst, now - due)
      due = now + interval
      also?.()
    }, interval).unref()
  }

  #rest(): void {
    clearInterval(this.#samples)
    this.#samples = undefined
  }
}
