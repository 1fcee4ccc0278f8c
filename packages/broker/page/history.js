/** @import { PastServices, ServiceRates, Sample, ServiceStatus } from './shapes.d.ts' */

/** The time span of the charts. */
export const WINDOW_MS = 900_000
/** Samples that are older than this are thinned out. */
const DENSE_MS = 120_000
/** Time between two samples that are older, as between the points of the broker's history. */
const SPARSE_MS = 4500

/**
 * One sample of a service for its charts. Unknown values are null, and leave a gap.
 *
 * @typedef {object} Moment
 * @property {number} at Unix time in ms, by the broker's clock
 * @property {number | null} handoffs
 * @property {number | null} p50
 * @property {number | null} p90
 * @property {number | null} p99
 * @property {number | null} held
 * @property {number | null} fallbacks
 * @property {number | null} rejects
 */

/** The last 15 minutes of every service. Older samples are dropped, so memory stays bounded. */
export class History {
  /** @type {Map<string, Moment[]>} */
  #moments = new Map()
  /** @type {Sample | undefined} */
  #last

  /**
   * @param {Sample} sample
   * @returns {Sample} the same; if it has no rates, with those that can be computed from this status and the previous one
   */
  add(sample) {
    const whole = sample.services === null ? { ...sample, services: difference(this.#last, sample) } : sample
    this.#last = whole
    const at = Date.parse(whole.at)
    const names = new Set(whole.status.services.map(({ name }) => name))
    for (const name of this.#moments.keys()) if (!names.has(name)) this.#moments.delete(name)
    for (const service of whole.status.services) {
      const moments = this.#moments.get(service.name) ?? []
      moments.push(momentOf(at, service, whole.services?.[service.name]))
      this.#moments.set(service.name, thinned(moments, at))
    }
    return whole
  }

  /**
   * Adds the samples that the broker has taken before this page was opened.
   *
   * @param {PastServices} services
   */
  begin(services) {
    for (const [name, moments] of this.#moments) {
      const first = moments[0]?.at ?? Infinity
      const before = (services[name] ?? []).filter(({ at }) => at < first)
      this.#moments.set(name, [...before, ...moments])
    }
  }

  /**
   * @param {string} service
   * @returns {readonly Moment[]} oldest first
   */
  of(service) {
    return this.#moments.get(service) ?? []
  }
}

/**
 * @param {readonly Moment[]} moments
 * @param {number} now
 */
function thinned(moments, now) {
  let kept = -Infinity
  return moments.filter(({ at }) => {
    if (at <= now - WINDOW_MS - 5000) return false
    if (at < now - DENSE_MS && at - kept < SPARSE_MS) return false
    kept = at
    return true
  })
}

/**
 * @param {number} at
 * @param {ServiceStatus} service
 * @param {ServiceRates | undefined} figures
 * @returns {Moment}
 */
function momentOf(at, service, figures) {
  return {
    at,
    handoffs: figures?.handoffsPerSecond ?? null,
    p50: figures?.latencyMs?.p50 ?? null,
    p90: figures?.latencyMs?.p90 ?? null,
    p99: figures?.latencyMs?.p99 ?? null,
    held: service.held,
    fallbacks: figures ? sum(figures.fallbacksPerSecond) : null,
    rejects: figures ? sum(figures.rejectsPerSecond) : null,
  }
}

/** @param {Readonly<Record<string, number>>} rates */
export function sum(rates) {
  return Object.values(rates).reduce((total, rate) => total + rate, 0)
}

/**
 * @param {Sample | undefined} before
 * @param {Sample} now
 * @returns {Record<string, ServiceRates> | null}
 */
function difference(before, now) {
  // The counters in the status are those of one worker.
  if (before === undefined || before.status.broker.id !== now.status.broker.id) return null
  const seconds = (Date.parse(now.at) - Date.parse(before.at)) / 1000
  if (seconds <= 0) return null
  /** @type {Record<string, ServiceRates>} */
  const services = {}
  for (const { name, outcomes, handedBack } of now.status.services) {
    const earlier = before.status.services.find((service) => service.name === name)
    if (earlier === undefined) continue
    services[name] = {
      handoffsPerSecond: (outcomes.handed_off - earlier.outcomes.handed_off) / seconds,
      acceptedPerSecond: (acceptedBy(now, name) - acceptedBy(before, name)) / seconds,
      latencyMs: null,
      fallbacksPerSecond: {},
      rejectsPerSecond: { 'any reason': (outcomes.rejected - earlier.outcomes.rejected) / seconds },
      handBacksPerSecond: (handedBack - earlier.handedBack) / seconds,
      notTakenPerSecond: {},
      notTaken: {},
      fallbacks: {},
      rejects: { 'any reason': outcomes.rejected },
    }
  }
  return services
}

/**
 * @param {Sample} sample
 * @param {string} name
 */
function acceptedBy({ status }, name) {
  return status.listeners
    .filter(({ service }) => service === name)
    .reduce((total, { accepted }) => total + accepted, 0)
}
