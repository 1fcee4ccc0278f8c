import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'

/** How often the delay is sampled, in milliseconds; also the delay that an idle loop shows. */
const RESOLUTION = 20

/** The worst delay of this process's event loop since it was last read. Holds no process alive. */
export class EventLoopLag {
  readonly #histogram: IntervalHistogram = monitorEventLoopDelay({ resolution: RESOLUTION })

  constructor() {
    this.#histogram.enable()
  }

  /** Milliseconds; starts anew. */
  take(): number {
    const worst = this.#histogram.max / 1e6 - RESOLUTION
    this.#histogram.reset()
    return Math.max(0, Math.round(worst * 10) / 10)
  }

  stop(): void {
    this.#histogram.disable()
  }
}
