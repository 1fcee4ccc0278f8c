import { Counter, Gauge, Registry } from 'prom-client'
import { type Shift, WHOLE } from '../../api/shift.ts'
import { droppedLines } from '../../metrics/dropped-lines.ts'
import {
  REPLACEMENT_REASONS,
  REPLACEMENT_RESULTS,
  type ReplacementReason,
  type ReplacementResult,
} from '../../metrics/labels.ts'
import { Losses, type LossesState } from './losses.ts'
import { lasting, type MetricSnapshot, sum } from '../../metrics/snapshot.ts'

/** The counters that cross the master's exec. */
export interface CountersState {
  /** Counters of ended workers, partly added up. */
  readonly ended: readonly MetricSnapshot[]
  readonly succeeded: number
  readonly failed: number
  readonly deaths: number
  /** Absent in the state of an older program. */
  readonly incomplete?: number
  readonly hangs?: number
  readonly losses?: LossesState
  readonly restored?: number
  /** Replacements by `SERVICE REASON RESULT`. */
  readonly replaced?: Readonly<Record<string, number>>
  /** Seconds since 1970; 0 before the first. */
  readonly lastReload: number
}

/** `incomplete`: in force, but some backends have not moved to the new worker. */
export type ReloadResult = 'success' | 'failure' | 'incomplete'

const NONE: CountersState = {
  ended: [],
  succeeded: 0,
  failed: 0,
  deaths: 0,
  lastReload: 0,
  losses: { open: {}, moved: {} },
}

/** Maximum snapshots of ended workers that are kept separately. Beyond it, they are added up. */
const MAX_APART = 4

/**
 * The counters of ended workers, and those of the master itself. A worker that is scraped adds them to its own.
 */
export class Counters {
  readonly #registry = new Registry()
  readonly #reloads = new Counter({
    name: 'baton_reloads_total',
    help: 'Reloads by result.',
    labelNames: ['result'],
    registers: [this.#registry],
  })
  readonly #lastReload = new Gauge({
    name: 'baton_last_reload_timestamp_seconds',
    help: 'When the last reload came into force, in seconds since 1970; 0 before the first.',
    registers: [this.#registry],
  })
  readonly #deaths = new Counter({
    name: 'baton_worker_deaths_total',
    help: 'Workers that ended without having been asked to.',
    registers: [this.#registry],
  })
  readonly #hangs = new Counter({
    name: 'baton_worker_hangs_total',
    help: 'Workers that the master ended because they did not answer within workerTimeout.',
    registers: [this.#registry],
  })
  readonly #restored = new Counter({
    name: 'baton_files_restored_total',
    help: 'Files of the broker that were removed or replaced while it ran, and that it created again.',
    registers: [this.#registry],
  })
  readonly #shifts = new Gauge({
    name: 'baton_shift_share',
    help: 'Share of the new connections that go to this version, from 0 to 1, while a shift is in force.',
    labelNames: ['service', 'version'],
    registers: [this.#registry],
  })
  readonly #replacements = new Counter({
    name: 'baton_backend_replacements_total',
    help: 'Managed processes that Baton set out to replace by itself, by reason and result.',
    labelNames: ['service', 'reason', 'result'],
    registers: [this.#registry],
  })
  #ended: MetricSnapshot[]
  #counted: Omit<CountersState, 'ended' | 'losses'>
  /** Changes of it are kept with those of the counters. */
  readonly losses: Losses
  #adding = false
  /** Called after each change. */
  onChange = (): void => {}

  /**
   * @param dropped number of log lines that this process has dropped so far
   * @param services names of those that are known now: their series exist from the beginning
   */
  constructor(
    { ended, losses, ...counted }: CountersState = NONE,
    dropped?: () => number,
    services: Iterable<string> = [],
  ) {
    droppedLines(this.#registry, dropped)
    this.#ended = [...ended]
    this.losses = new Losses(losses ?? null)
    this.#counted = counted
    this.#reloads.inc({ result: 'success' }, counted.succeeded)
    this.#reloads.inc({ result: 'failure' }, counted.failed)
    this.#reloads.inc({ result: 'incomplete' }, counted.incomplete ?? 0)
    this.#deaths.inc(counted.deaths)
    this.#hangs.inc(counted.hangs ?? 0)
    this.#restored.inc(counted.restored ?? 0)
    this.#lastReload.set(counted.lastReload)
    for (const service of services) this.replaced(service)
    for (const [key, value] of Object.entries(counted.replaced ?? {})) {
      const [service = '', reason = '', result = ''] = key.split(' ')
      this.#replacements.inc({ service, reason, result }, value)
    }
  }

  get state(): CountersState {
    return { ...this.#counted, ended: this.#ended, losses: this.losses.state }
  }

  /** @param now seconds since 1970 */
  reloaded(result: ReloadResult, now: number): void {
    const { succeeded, failed, incomplete = 0, lastReload } = this.#counted
    this.#counted = {
      ...this.#counted,
      succeeded: succeeded + (result === 'success' ? 1 : 0),
      failed: failed + (result === 'failure' ? 1 : 0),
      incomplete: incomplete + (result === 'incomplete' ? 1 : 0),
      lastReload: result === 'failure' ? lastReload : now,
    }
    this.#reloads.inc({ result })
    this.#lastReload.set(this.#counted.lastReload)
    this.onChange()
  }

  workerDied(): void {
    this.#counted = { ...this.#counted, deaths: this.#counted.deaths + 1 }
    this.#deaths.inc()
    this.onChange()
  }

  workerHung(): void {
    this.#counted = { ...this.#counted, hangs: (this.#counted.hangs ?? 0) + 1 }
    this.#hangs.inc()
    this.onChange()
  }

  fileRestored(): void {
    this.#counted = { ...this.#counted, restored: (this.#counted.restored ?? 0) + 1 }
    this.#restored.inc()
    this.onChange()
  }

  /** A replacement has ended. Without `reason`: none has yet, and each series of the service begins at 0. */
  replaced(service: string, reason?: ReplacementReason, result?: ReplacementResult): void {
    if (reason === undefined || result === undefined) {
      for (const each of REPLACEMENT_REASONS)
        for (const end of REPLACEMENT_RESULTS)
          this.#replacements.inc({ service, reason: each, result: end }, 0)
      return
    }
    const key = `${service} ${reason} ${result}`
    const { replaced = {} } = this.#counted
    this.#counted = { ...this.#counted, replaced: { ...replaced, [key]: (replaced[key] ?? 0) + 1 } }
    this.#replacements.inc({ service, reason, result })
    this.onChange()
  }

  /** The shift of a service has changed. */
  shifted(service: string, before: Shift | undefined, now: Shift | undefined): void {
    if (before !== undefined) this.#shifts.remove({ service, version: before.to })
    if (now !== undefined) this.#shifts.set({ service, version: now.to }, now.share / WHOLE)
  }

  /** Keeps the counters of a worker that has ended. */
  keep(snapshot: MetricSnapshot): void {
    this.#ended.push(lasting(snapshot))
    if (this.#ended.length > MAX_APART && !this.#adding) void this.#addUp()
    this.onChange()
  }

  /** Everything counted so far, with the snapshots of living workers. */
  async snapshots(living: readonly MetricSnapshot[] = []): Promise<MetricSnapshot[]> {
    const counted = [...this.#ended, ...living]
    return [await this.#registry.getMetricsAsJSON(), ...counted]
  }

  /** Its parts are used until the sum is available. */
  async #addUp(): Promise<void> {
    this.#adding = true
    const parts = [...this.#ended]
    const total = await sum(parts)
    this.#ended.splice(0, parts.length, total)
    this.#adding = false
  }
}
