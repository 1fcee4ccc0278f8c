import type { Counts, ServiceRates } from '../../api/events.ts'
import { percentiles } from './latency-histogram.ts'

/** Counters of one service since the start. */
export interface Counted {
  readonly name: string
  readonly accepted: number
  readonly handedOff: number
  /** By `action/reason`. */
  readonly fallbacks: Counts
  /** By reason. */
  readonly rejects: Counts
  /** Taken back from backends. */
  readonly handedBack: number
  /** By `result/reason`. */
  readonly notTaken: Counts
  /** From accept to ACK: a snapshot of the `LatencyHistogram`. */
  readonly latency: Uint32Array
}

interface Sample {
  /** Milliseconds. */
  readonly at: number
  readonly services: ReadonlyMap<string, Counted>
}

/** Samples over which latencies are computed, one per second. */
const WINDOW = 10

/** Computes rates per second from counters that never decrease. */
export class Rates {
  #samples: Sample[] = []

  /** Discards earlier samples. `at`: milliseconds, monotonic. */
  begin(at: number, services: Iterable<Counted>): void {
    this.#samples = [sample(at, services)]
  }

  add(at: number, services: Iterable<Counted>): void {
    this.#samples.push(sample(at, services))
    if (this.#samples.length > WINDOW + 1) this.#samples.shift()
  }

  /** Rates by service. Zero until there are two samples. */
  get current(): Record<string, ServiceRates> {
    const first = this.#samples[0]
    const last = this.#samples.at(-1)
    if (first === undefined || last === undefined) return {}
    const before = this.#samples.at(-2) ?? last
    const seconds = Math.max(1, last.at - before.at) / 1000
    return Object.fromEntries(
      [...last.services].map(([name, now]) => [
        name,
        ratesOf(now, before.services.get(name), first.services.get(name), seconds),
      ]),
    )
  }
}

function sample(at: number, services: Iterable<Counted>): Sample {
  return { at, services: new Map([...services].map((each) => [each.name, each])) }
}

function ratesOf(
  now: Counted,
  before: Counted | undefined,
  first: Counted | undefined,
  seconds: number,
): ServiceRates {
  const rate = (to: number, from = 0) => Math.round(((to - from) / seconds) * 10) / 10
  const rates = (to: Counts, from: Counts = {}) =>
    Object.fromEntries(
      Object.entries(to)
        .map(([key, count]) => [key, rate(count, from[key])] as const)
        .filter(([, perSecond]) => perSecond > 0),
    )
  return {
    handoffsPerSecond: rate(now.handedOff, before?.handedOff),
    acceptedPerSecond: rate(now.accepted, before?.accepted),
    latencyMs: percentiles(first?.latency, now.latency),
    fallbacksPerSecond: rates(now.fallbacks, before?.fallbacks),
    rejectsPerSecond: rates(now.rejects, before?.rejects),
    handBacksPerSecond: rate(now.handedBack, before?.handedBack),
    notTakenPerSecond: rates(now.notTaken, before?.notTaken),
    fallbacks: now.fallbacks,
    rejects: now.rejects,
    notTaken: now.notTaken,
  }
}
