import type { Clock, Timer } from '@baton/backend-sdk/protocol'
import {
  extended,
  type History,
  HISTORY_INTERVAL_MS,
  type HistoryPoint,
  type HistoryPoints,
} from '../../api/history.ts'
import type { Counts, ServiceRates } from '../../api/events.ts'
import { type Counted, Rates } from './rates.ts'

export interface HistorySource {
  /** Counts since the start, by service. */
  counted(): Counted[]
  /** Held clients of a service. */
  held(service: string): number
}

/** The last 15 minutes of each service, for the charts of the status page. Takes a sample every 5 seconds. Owns its timer. */
export class ServiceHistory {
  readonly #source: HistorySource
  readonly #clock: Clock
  readonly #added: (points: HistoryPoints) => void
  readonly #rates = new Rates()
  readonly #timer: Timer
  #all: History

  /**
   * @param before of earlier workers
   * @param added receives each new point
   */
  constructor(source: HistorySource, clock: Clock, before: History, added: (points: HistoryPoints) => void) {
    this.#source = source
    this.#clock = clock
    this.#all = before
    this.#added = added
    this.#rates.begin(clock.now(), source.counted())
    this.#timer = clock.setInterval(() => this.#add(), HISTORY_INTERVAL_MS)
  }

  get all(): History {
    return this.#all
  }

  close(): void {
    this.#clock.clear(this.#timer)
  }

  #add(): void {
    const counted = this.#source.counted()
    const now = this.#clock.now()
    this.#rates.add(now, counted)
    const at = Date.now()
    const points = Object.fromEntries(
      Object.entries(this.#rates.current).map(([name, rates]) => [
        name,
        pointOf(at, rates, this.#source.held(name)),
      ]),
    )
    this.#rates.begin(now, counted)
    this.#all = extended(this.#all, points)
    this.#added(points)
  }
}

function pointOf(at: number, rates: ServiceRates, held: number): HistoryPoint {
  const { handoffsPerSecond: handoffs, latencyMs, fallbacksPerSecond, rejectsPerSecond } = rates
  const { p50 = null, p90 = null, p99 = null } = latencyMs ?? {}
  return {
    at,
    handoffs,
    p50,
    p90,
    p99,
    held,
    fallbacks: sum(fallbacksPerSecond),
    rejects: sum(rejectsPerSecond),
  }
}

function sum(rates: Counts): number {
  return Object.values(rates).reduce((total, rate) => total + rate, 0)
}
