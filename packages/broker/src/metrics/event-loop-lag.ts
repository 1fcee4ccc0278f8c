import { createHistogram } from 'node:perf_hooks'
import { setImmediate as turn } from 'node:timers/promises'
import { Gauge, type Registry } from 'prom-client'

/** Interval of the samples while the event loop works, in ms; each of them wakes an idle process. */
const PRECISION_MS = 10

/** How often it is checked whether the event loop works, in ms. */
const CHECK_MS = 1000

/**
 * Processor time between two checks, in microseconds, from which on a process works: 5 %, several times what the samples cost. Not the utilization
 * of the event loop, which on a busy machine counts the time that other processes take.
 */
const WORKS_US = 50_000

/** To prom-client: never sample, since this module does. The longest time that a timer takes, in ms. */
export const NEVER_MS = 2 ** 31 - 1

const PREFIX = 'nodejs_eventloop_lag'

/** How late the event loop ran its timers since the last scrape, in seconds. */
interface Lag {
  readonly min: number
  readonly max: number
  readonly mean: number
  readonly stddev: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
}

/**
 * Measures how late timers run, but only while there is work. Its own timers, because the monitor of `node:perf_hooks` forgets what it has when it is
 * switched on again. Does not keep the process alive.
 */
class Sampler {
  /** Nanoseconds. */
  readonly #lateness = createHistogram()
  #before = process.cpuUsage()
  #timer: NodeJS.Timeout | undefined

  constructor() {
    const check = () => {
      const { user, system } = process.cpuUsage(this.#before)
      this.#before = process.cpuUsage()
      if (user + system < WORKS_US) this.#rest()
      else this.#timer ??= this.#every(PRECISION_MS)
    }
    // It notices the first stall after a rest, too.
    this.#every(CHECK_MS, check)
  }

  take(): Lag {
    const { count, min, max, mean, stddev } = this.#lateness
    const seconds = (ns: number) => (count === 0 ? 0 : ns / 1e9)
    const lag = {
      min: seconds(min),
      max: seconds(max),
      mean: seconds(mean),
      stddev: seconds(stddev),
      p50: seconds(this.#lateness.percentile(50)),
      p90: seconds(this.#lateness.percentile(90)),
      p99: seconds(this.#lateness.percentile(99)),
    }
    this.#lateness.reset()
    return lag
  }

  #every(interval: number, also?: () => void): NodeJS.Timeout {
    let due = performance.now() + interval
    return setInterval(() => {
      const now = performance.now()
      // A histogram has no zero.
      this.#lateness.record(Math.max(1, Math.round((now - due) * 1e6)))
      due = now + interval
      also?.()
    }, interval).unref()
  }

  #rest(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

const HELP: Readonly<Record<keyof Lag, string>> = {
  min: 'The minimum recorded event loop delay.',
  max: 'The maximum recorded event loop delay.',
  mean: 'The mean of the recorded event loop delays.',
  stddev: 'The standard deviation of the recorded event loop delays.',
  p50: 'The 50th percentile of the recorded event loop delays.',
  p90: 'The 90th percentile of the recorded event loop delays.',
  p99: 'The 99th percentile of the recorded event loop delays.',
}

/** In place of prom-client's metrics of the same names, which wake an idle process a hundred times a second. */
export function eventLoopLag(registry: Registry): void {
  const sampler = new Sampler()
  const gauges = new Map<keyof Lag, Gauge>()
  const gauge = (name: string, help: string, collect?: () => Promise<void>) => {
    registry.removeSingleMetric(name)
    return new Gauge({ name, help, registers: [registry], ...(collect && { collect }) })
  }
  const now = gauge(`${PREFIX}_seconds`, 'Lag of event loop in seconds.', async () => {
    const lag = sampler.take()
    for (const [what, each] of gauges) each.set(lag[what])
    const start = performance.now()
    await turn()
    now.set((performance.now() - start) / 1e3)
  })
  for (const [what, help] of Object.entries(HELP) as [keyof Lag, string][])
    gauges.set(what, gauge(`${PREFIX}_${what}_seconds`, help))
}
