import type { Clock, Timer } from '@baton/backend-sdk/protocol'
import { errnoOf } from '../../config/error.ts'
import type { Logger } from 'pino'
import { systemOs } from '../os.ts'
import type { BackendLink } from '../backend/backend-link.ts'
import type { Health, LinkState } from '../backend/eligibility.ts'
import { Probe, type ProbeOptions, type Verdict } from './probe.ts'

export interface HealthRecord {
  readonly health: Health
  /** Failed checks in a row. */
  readonly failures: number
}

/**
 * Failures in a row after which a backend is no longer chosen. A single one can be a hiccup (a garbage-collection pause, a pool that
 * was empty for a moment), and excluding a good backend burdens the others. At the default interval, three take six seconds at most.
 */
export const FAILURES = 3

/** A backend that has just registered. */
export const UNCHECKED: HealthRecord = { health: 'starting', failures: 0 }

/**
 * The health of a backend after one more check. Pure.
 *
 *     starting, unhealthy -- a check succeeds ------> healthy
 *     starting, healthy   -- 3 in a row have failed -> unhealthy
 */
export function judge({ health, failures }: HealthRecord, result: 'passed' | 'failed'): HealthRecord {
  if (result === 'passed') return { health: 'healthy', failures: 0 }
  const inARow = failures + 1
  return { health: inARow >= FAILURES ? 'unhealthy' : health, failures: inARow }
}

export interface HealthCheckOptions extends ProbeOptions {
  /** Milliseconds between checks. */
  readonly interval: number
  /** Whether the backend was healthy at a previous worker, or before it registered again. */
  readonly healthy?: boolean
}

/** States in which a backend is checked. Draining, unresponsive and paused backends are skipped. */
const CHECKED: ReadonlySet<LinkState> = new Set(['ready', 'starting', 'unhealthy'])

/**
 * Checks the health of one backend at an interval, and sets it on its link. The first check is made immediately; until one has
 * succeeded the backend is `starting`. At most one check is in progress.
 */
export class HealthChecks {
  readonly #link: BackendLink
  readonly #options: HealthCheckOptions
  readonly #onChange: () => void
  readonly #logger: Logger
  readonly #clock: Clock
  #record = UNCHECKED
  #probe: Probe | undefined
  #timer: Timer | undefined

  /** @param onChange the health of the link has changed, or a check has failed */
  constructor(
    link: BackendLink,
    options: HealthCheckOptions,
    onChange: () => void,
    logger: Logger,
    clock: Clock = systemOs,
  ) {
    this.#link = link
    this.#options = options
    this.#onChange = onChange
    this.#logger = logger
    this.#clock = clock
    if (options.healthy === true) this.#record = judge(UNCHECKED, 'passed')
    link.eligibility.health = this.#record.health
  }

  start(): void {
    this.#timer = this.#clock.setInterval(() => this.#check(), this.#options.interval)
    this.#check()
  }

  stop(): void {
    this.#clock.clear(this.#timer)
    this.#probe?.cancel()
  }

  #check(): void {
    const last = this.#probe
    // A check may take longer than the interval.
    if (!CHECKED.has(this.#link.eligibility.state) || last?.over === false) return
    // The offer of the last check is still open. Another check would only queue behind it.
    if (last?.settled === false) return this.#judge({ result: 'failed', reason: 'no ACK' })
    try {
      this.#probe = new Probe(this.#link, this.#options, this.#clock, (verdict) => this.#judge(verdict))
    } catch (error) {
      const reason = errnoOf(error)
      if (reason === undefined) throw error
      this.#judge({ result: 'unknown', reason })
    }
  }

  #judge({ result, reason }: Verdict): void {
    if (result === 'unknown') return
    const { tally } = this.#link.eligibility
    tally.checks += 1
    if (result === 'failed') tally.failedChecks += 1
    const before = this.#record.health
    this.#record = judge(this.#record, result)
    const { health } = this.#record
    // A canary is judged by each of them.
    if (health === before) return result === 'failed' ? this.#onChange() : undefined
    this.#link.eligibility.health = health
    const { ulid: backend, slot, service } = this.#link.identity
    if (health === 'healthy') {
      this.#logger.info({ backend, slot, service, reason }, 'backend is healthy')
    } else {
      this.#logger.warn({ backend, slot, service, reason }, 'backend is unhealthy and not chosen')
    }
    this.#onChange()
  }
}
