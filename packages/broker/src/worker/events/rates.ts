import { percentiles } from './latency-histogram.ts'
import type { Percentiles } from '../../api/events.ts'

/** What one service has counted since the start. */
export interface Counted {
  readonly name: string
  readonly accepted: number
  readonly handedOff: number
  /** By `action/reason`. */
  readonly fallbacks: Counts
  /** By reason. */
  readonly rejects: Counts
  /** Of accept to ACK, see `LatencyHistogram`. */
  readonly latency: Uint32Array
}

type Counts = Readonly<Record<string, number>>

/** What goes on in one service. */
export interface ServiceRates {
  readonly handoffsPerSecond: number
  readonly acceptedPerSecond: number
  /** From accept to ACK, of the last ten seconds; null when nobody was handed off. */
  readonly latencyMs: Percentiles | null
  readonly fallbacksPerSecond: Counts
  readonly rejectsPerSecond: Counts
  /** Since the start. */
  readonly fallbacks: Counts
  readonly rejects: Counts
}

interface Sample {
  /** Milliseconds. */
  readonly at: number
  readonly services: ReadonlyMap<string, Counted>
}

/** Samples that latencies are taken over: one each second. */
const WINDOW = 10

/** What changes in a second, out of counts that only grow. It keeps samples for as long as somebody wants rates. */
export class Rates {
  #samples: Sample[] = []

  /** What was counted before is history. */
  begin(at: number, services: Iterable<Counted>): void {
    this.#samples = [sample(at, services)]
  }

  add(at: number, services: Iterable<Counted>): void {
    this.#samples.push(sample(at, services))
    if (this.#samples.length > WINDOW + 1) this.#samples.shift()
  }

  /** By service. Zero until there are two samples. */
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
    fallbacks: now.fallbacks,
    rejects: now.rejects,
  }
}
