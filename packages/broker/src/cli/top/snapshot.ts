import type { ServiceStatus, Status } from '../../api/status.ts'
import type { ServiceRates } from '../../api/events.ts'

/** The status of a broker at one moment, and the rates of its counters. */
export interface Snapshot {
  /** Milliseconds since the Unix epoch: the broker's clock if it comes from an event, else this one's. */
  readonly at: number
  /** Whether the rates are the broker's own, or the differences of two statuses. */
  readonly source: 'events' | 'polling'
  readonly status: Status
  /** By service name. */
  readonly rates: ReadonlyMap<string, Rates>
  /** Connections adopted per second, by backend id. */
  readonly adopted: ReadonlyMap<string, number>
}

/** Of one service, per second. Null if unknown: a rate needs two statuses, and reasons and latencies need the broker's events. */
export interface Rates {
  readonly accepted: number | null
  readonly handoffs: number | null
  /** Connections taken back from backends. */
  readonly handBacks: number | null
  readonly fallbacks: number | null
  readonly rejects: number | null
  readonly latencyMs: ServiceRates['latencyMs']
  /** Why connections fell back, were rejected, or stayed with a backend that handed them back: the reasons that have occurred so far. */
  readonly reasons: readonly Reason[]
}

export interface Reason {
  /** `next_backend/BackendGone`, `reject/hold_timeout`, or `given_back/TooMany`. */
  readonly what: string
  readonly perSecond: number
  readonly total: number
}

/** Makes snapshots from successive statuses, and keeps the previous one for rates. */
export class Snapshots {
  #before: Snapshot | undefined

  /** @param services the broker's own rates; undefined if only its status is known */
  next(at: number, status: Status, services: Readonly<Record<string, ServiceRates>> | undefined): Snapshot {
    // Counters start at zero in each worker.
    const before = this.#before?.status.broker.id === status.broker.id ? this.#before : undefined
    const seconds = before === undefined ? 0 : (at - before.at) / 1000
    const snapshot: Snapshot = {
      at,
      source: services === undefined ? 'polling' : 'events',
      status,
      rates: new Map(
        status.services.map((service) => {
          const own = services?.[service.name]
          return [
            service.name,
            own === undefined ? differences(service, status, before, seconds) : ratesOf(own),
          ]
        }),
      ),
      adopted: adoptions(status, before, seconds),
    }
    this.#before = snapshot
    return snapshot
  }
}

function ratesOf(own: ServiceRates): Rates {
  const fallbacks = reasons(own.fallbacksPerSecond, own.fallbacks)
  // Each rejection is also counted as a fallback, with a less specific reason.
  const steps = fallbacks.filter(({ what }) => !what.startsWith('reject/'))
  const rejects = reasons(own.rejectsPerSecond, own.rejects)
  // A broker of an older version does not know them.
  const notTaken = reasons(own.notTakenPerSecond ?? {}, own.notTaken ?? {})
  return {
    accepted: own.acceptedPerSecond,
    handoffs: own.handoffsPerSecond,
    handBacks: own.handBacksPerSecond ?? null,
    fallbacks: sum(steps),
    rejects: sum(rejects),
    latencyMs: own.latencyMs,
    reasons: [
      ...rejects.map((reason) => ({ ...reason, what: `reject/${reason.what}` })),
      ...notTaken,
      ...steps,
    ]
      .filter(({ total, perSecond }) => total > 0 || perSecond > 0)
      .toSorted((a, b) => b.perSecond - a.perSecond || b.total - a.total),
  }
}

function reasons(
  perSecond: Readonly<Record<string, number>>,
  totals: Readonly<Record<string, number>>,
): Reason[] {
  return [...new Set([...Object.keys(perSecond), ...Object.keys(totals)])].map((what) => ({
    what,
    perSecond: perSecond[what] ?? 0,
    total: totals[what] ?? 0,
  }))
}

function sum(all: readonly Reason[]): number {
  return all.reduce((total, { perSecond }) => total + perSecond, 0)
}

function differences(
  service: ServiceStatus,
  status: Status,
  before: Snapshot | undefined,
  seconds: number,
): Rates {
  const earlier = before?.status.services.find(({ name }) => name === service.name)
  const since = (count: (of: ServiceStatus, all: Status) => number): number | null =>
    before === undefined || earlier === undefined
      ? null
      : rateOf(count(service, status) - count(earlier, before.status), seconds)
  return {
    accepted: since(({ name }, { listeners }) =>
      listeners.reduce((total, listener) => total + (listener.service === name ? listener.accepted : 0), 0),
    ),
    handoffs: since(({ outcomes }) => outcomes.handed_off),
    handBacks: since(({ handedBack }) => handedBack),
    fallbacks: null,
    rejects: since(({ outcomes }) => outcomes.rejected),
    latencyMs: null,
    reasons: [],
  }
}

function adoptions(status: Status, before: Snapshot | undefined, seconds: number): Map<string, number> {
  const earlier = new Map(
    before?.status.services.flatMap(({ backends }) => backends.map(({ id, adopted }) => [id, adopted])),
  )
  return new Map(
    status.services.flatMap(({ backends }) =>
      backends.flatMap(({ id, adopted }) => {
        const rate = rateOf(adopted - (earlier.get(id) ?? Number.NaN), seconds)
        return rate === null ? [] : [[id, rate] as const]
      }),
    ),
  )
}

/** Null if a counter went back: a backend registered again, or a listener was removed. */
function rateOf(difference: number, seconds: number): number | null {
  return seconds > 0 && difference >= 0 ? difference / seconds : null
}
