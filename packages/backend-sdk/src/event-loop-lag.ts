import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'

/** Sampling interval in ms. An idle event loop shows this much delay. */
const RESOLUTION = 20

/** The greatest event-loop delay of this process since the last `take()`. Does not keep the process alive. */
export class EventLoopLag {
  readonly #histogram: IntervalHistogram = monitorEventLoopDelay({ resolution: RESOLUTION })

  constructor() {
    this.#histogram.enable()
  }

  /** Returns milliseconds, and resets. */
  take(): number {
    const worst = this.#histogram.max / 1e6 - RESOLUTION
    this.#histogram.reset()
    return Math.max(0, Math.round(worst * 10) / 10)
  }

  stop(): void {
    this.#histogram.disable()
  }
}
