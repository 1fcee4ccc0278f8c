import { formatDuration } from '../../config/duration.ts'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { Generation } from '../fleet/definition.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { ManagedService } from '../fleet/managed-service.ts'
import type { FleetClock } from '../fleet/os.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import { reportedState, type BackendReport } from '../fleet/backend-report.ts'
import type { DeployProgress, DeployResult } from './messages.ts'

export interface DeployPlan {
  readonly fleet: Fleet
  readonly service: ManagedService
  /** What is deployed, and what `abort` returns to. */
  readonly versions: { readonly new: Generation; readonly old: Generation }
  /** Which instances, in this order. */
  readonly instances: readonly number[]
  /** How many of them at a time. */
  readonly atOnce: number
  /** Milliseconds that a new one must have been ready for without a break. */
  readonly minHealthy: number
  /** Milliseconds that it may take to get there, `minHealthy` not counted. Default: 60 s. */
  readonly startLimit?: number
  /** Milliseconds that a drain may take. */
  readonly drainDeadline: number
  /** Backends that Baton did not start may be registered beside the instances. */
  readonly external?: boolean
}

const START_TIMEOUT_MS = 60_000

/** Time for the last of the former backends to be listed no longer, in milliseconds: reports come once a second, or from a new worker. */
const SETTLE_TIMEOUT_MS = 10_000

/** How many of those that are left are named. */
const MAX_NAMED = 5

/** What is known of a new process that has not taken its place yet. Times are CLOCK_MONOTONIC in milliseconds. */
interface Trial {
  readonly id: string
  readonly startedAt: number
  /** As the broker said last; undefined while it lists no such backend. */
  readonly state: string | undefined
  /** Since when it is ready without a break. */
  readonly readySince: number | undefined
}

type Phase =
  /** New processes run beside the old ones and are watched; no old one was touched. */
  | { readonly kind: 'starting'; readonly trials: Map<number, Trial> }
  /** The new ones have their places; the old ones, by id, drain and end. */
  | { readonly kind: 'retiring'; readonly former: Map<string, number> }
  /** All places are taken over; backends that belong to none of them are still listed. */
  | { readonly kind: 'settling' }
  | { readonly kind: 'over' }

/**
 * One rolling deploy of one service. Starts and retires its processes; what becomes of them arrives as events.
 *
 * Step by step, `atOnce` instances at a time:
 *
 *     starting --all ready for minHealthy--> retiring --all old ones gone--> next step, or settling
 *     settling --no other backend is listed--> over; --too late--> over, as a failure
 *     starting --exit, unhealthy, too late--> over (the new ones of this step stop, the old ones go on)
 *     any --a new one that has its place ends or gets unhealthy--> over
 *     any --abort--> starting, with the old version for every place that the new one has
 */
export class Deploy {
  readonly #plan: DeployPlan
  readonly #clock: Pick<FleetClock, 'now' | 'setTimeout' | 'clear'>
  readonly #progress: (progress: DeployProgress) => void
  readonly #finished: (result: DeployResult) => void
  readonly #limit: number
  #version: 'new' | 'old' = 'new'
  /** Places that this version has yet to get, and those that it has, by the id of its process. */
  #ahead: number[]
  #taken = new Map<string, number>()
  #phase: Phase = { kind: 'over' }
  #timer: Timer | undefined

  constructor(
    plan: DeployPlan,
    clock: Pick<FleetClock, 'now' | 'setTimeout' | 'clear'>,
    progress: (progress: DeployProgress) => void,
    finished: (result: DeployResult) => void,
  ) {
    this.#plan = plan
    this.#clock = clock
    this.#progress = progress
    this.#finished = finished
    this.#limit = (plan.startLimit ?? START_TIMEOUT_MS) + plan.minHealthy
    this.#ahead = [...plan.instances]
  }

  /** Call once. */
  begin(): void {
    this.#next()
  }

  /** Everything that the broker lists. */
  reported(reports: readonly BackendReport[]): void {
    if (this.#phase.kind === 'over') return
    for (const [id, instance] of this.#taken) {
      if (reportedState(reports, id) === 'unhealthy')
        return this.#fail(instance, 'got unhealthy after it had taken over')
    }
    if (this.#phase.kind === 'settling' && this.#others().length === 0) return this.#finish()
    if (this.#phase.kind !== 'starting') return
    const { trials } = this.#phase
    for (const [instance, before] of trials) {
      const after = observe(before, reportedState(reports, before.id), this.#clock.now())
      trials.set(instance, after)
      if (after.state === 'unhealthy') return this.#fail(instance, 'fails its health check')
      this.#reportReadiness(instance, before, after)
    }
    this.#review()
  }

  /** A process of the service has ended; any of them. `output`: its last lines. */
  exited(id: string, exit: ProcessExit, output: readonly string[]): void {
    const taken = this.#taken.get(id)
    if (taken !== undefined) return this.#fail(taken, `${describeExit(exit)} after it had taken over`, output)
    if (this.#phase.kind === 'starting') {
      for (const [instance, trial] of this.#phase.trials) {
        if (trial.id === id) return this.#fail(instance, describeExit(exit), output)
      }
    } else if (this.#phase.kind === 'retiring') {
      const instance = this.#phase.former.get(id)
      if (instance === undefined) return
      this.#phase.former.delete(id)
      this.#report('stopped', instance, 'the former process has ended')
      if (this.#phase.former.size === 0) this.#next()
    }
  }

  /** Returns to the old version, in the same manner. Does nothing while that goes on already, or when all is over. */
  abort(): void {
    if (this.#phase.kind === 'over' || this.#version === 'old') return
    this.#discard()
    this.#version = 'old'
    this.#ahead = [...this.#taken.values()].toReversed()
    this.#taken = new Map()
    this.#report('aborted', undefined, `returning ${this.#ahead.length} to the old version`)
    this.#next()
  }

  /** Ends it where it is, because the service itself ends. */
  cancel(reason: string): void {
    if (this.#phase.kind !== 'over') this.#finishFailed(reason, [])
  }

  #next(): void {
    const step = this.#ahead.splice(0, this.#plan.atOnce)
    if (step.length === 0) return this.#settle()
    const trials = new Map<number, Trial>()
    this.#phase = { kind: 'starting', trials }
    const { service, versions } = this.#plan
    for (const instance of step) {
      const { id, pid } = service.startSuccessor(instance, versions[this.#version])
      const startedAt = this.#clock.now()
      trials.set(instance, { id, startedAt, state: undefined, readySince: undefined })
      this.#report(
        'started',
        instance,
        `${this.#version} version started (pid ${pid ?? 'none'}, backend ${id})`,
      )
    }
    this.#review()
  }

  /** Goes on when every candidate has settled, fails when one is too late, and otherwise looks again in time. */
  #review(): void {
    this.#clock.clear(this.#timer)
    if (this.#phase.kind !== 'starting') return
    const { minHealthy } = this.#plan
    const now = this.#clock.now()
    const trials = [...this.#phase.trials]
    const settled = Math.max(...trials.map(([, trial]) => settledAt(trial, minHealthy)))
    if (settled <= now) return this.#takeOver()
    for (const [instance, trial] of trials) {
      if (settledAt(trial, minHealthy) > now && trial.startedAt + this.#limit <= now) {
        return this.#fail(instance, whyLate(trial, this.#limit))
      }
    }
    const late = Math.min(...trials.map(([, { startedAt }]) => startedAt + this.#limit))
    const look = Math.min(settled, late > now ? late : settled)
    this.#timer = this.#clock.setTimeout(() => this.#review(), look - now)
  }

  #takeOver(): void {
    if (this.#phase.kind !== 'starting') return
    const former = new Map<string, number>()
    for (const [instance, { id }] of this.#phase.trials) {
      this.#taken.set(id, instance)
      const replaced = this.#plan.service.promote(instance)?.id
      if (replaced === undefined) continue
      former.set(replaced, instance)
      this.#report('draining', instance, `has taken over; draining ${replaced}`)
    }
    this.#phase = { kind: 'retiring', former }
    if (former.size === 0) this.#next()
  }

  #fail(instance: number, what: string, output: readonly string[] = []): void {
    const reason = `${this.#name(instance)} ${what}`
    this.#report('failed', instance, what)
    this.#finishFailed(reason, output)
  }

  #finishFailed(reason: string, output: readonly string[]): void {
    this.#discard()
    this.#phase = { kind: 'over' }
    const aborted = this.#version === 'old'
    const returned = !aborted && this.#taken.size === 0
    this.#finished({ success: false, reason, output, aborted, returned })
  }

  /** Done only when no backend of the service is left that belongs to none of the places. */
  #settle(): void {
    if (this.#others().length === 0) return this.#finish()
    this.#phase = { kind: 'settling' }
    const drained = () => this.#finishBeside(this.#others())
    this.#timer = this.#clock.setTimeout(() => {
      if (this.#others().some(({ state }) => state !== 'draining')) return drained()
      // The broker drains what a managed process has left behind.
      this.#timer = this.#clock.setTimeout(drained, this.#plan.drainDeadline)
    }, SETTLE_TIMEOUT_MS)
  }

  /** Backends of the service that this deploy did not replace. */
  #others(): BackendReport[] {
    const { fleet, service, external = false } = this.#plan
    const places = new Set(service.numbers.flatMap((number) => service.instance(number)?.process?.id ?? []))
    return fleet.reports.filter((report) => {
      if (report.service !== service.name) return false
      if (external && typeof report.owner !== 'string') return false
      return !places.has(report.owner ?? report.id)
    })
  }

  #finishBeside(others: readonly BackendReport[]): void {
    if (others.length === 0) return this.#finish()
    this.#phase = { kind: 'over' }
    const named = others.slice(0, MAX_NAMED).map(({ slot, pid, id }) => `${slot} (pid ${pid}, backend ${id})`)
    if (others.length > MAX_NAMED) named.push(`${others.length - MAX_NAMED} more`)
    const reason = `${this.#plan.service.name} still has backends that this deploy did not replace: ${named.join(', ')}`
    this.#report('failed', undefined, reason)
    const aborted = this.#version === 'old'
    this.#finished({
      success: false,
      reason,
      output: [],
      aborted,
      returned: aborted,
      ...(!aborted && { complete: true }),
    })
  }

  #finish(): void {
    this.#clock.clear(this.#timer)
    this.#phase = { kind: 'over' }
    const replaced = this.#taken.size
    if (this.#version === 'old') {
      this.#report('done', undefined, 'everything is the old version again')
      this.#finished({ success: false, reason: 'aborted', output: [], aborted: true, returned: true })
    } else {
      this.#report('done', undefined, `${replaced} replaced`)
      this.#finished({ success: true, replaced })
    }
  }

  /** The new processes of the present step that have no place yet. */
  #discard(): void {
    this.#clock.clear(this.#timer)
    if (this.#phase.kind !== 'starting') return
    for (const instance of this.#phase.trials.keys()) this.#plan.service.discard(instance)
  }

  #reportReadiness(instance: number, before: Trial, after: Trial): void {
    if (before.readySince === undefined && after.readySince !== undefined) {
      const wait = this.#plan.minHealthy
      this.#report(
        'ready',
        instance,
        `ready${wait > 0 ? `, and is watched for ${formatDuration(wait)}` : ''}`,
      )
    } else if (before.readySince !== undefined && after.readySince === undefined) {
      this.#report('started', instance, `not ready any more (${after.state ?? 'gone from the broker'})`)
    }
  }

  #report(step: DeployProgress['step'], instance: number | undefined, text: string): void {
    this.#progress({ step, instance: this.#name(instance), text })
  }

  #name(instance: number | undefined): string {
    return instance === undefined ? this.#plan.service.name : `${this.#plan.service.name}.${instance}`
  }
}

function describeExit({ code, signal, error }: ProcessExit): string {
  if (error !== undefined) return `could not be started: ${error}`
  if (code !== null) return `ended with exit code ${code}`
  return `was ended by ${signal ?? 'a signal without a name'}`
}

/** Pure: what a report makes of a candidate. Any other state than ready takes it back to the beginning. */
function observe(trial: Trial, state: string | undefined, now: number): Trial {
  const readySince = state === 'ready' ? (trial.readySince ?? now) : undefined
  return { ...trial, state, readySince }
}

/** When it may take its place, if it stays ready until then. */
function settledAt({ readySince }: Trial, minHealthy: number): number {
  return readySince === undefined ? Number.POSITIVE_INFINITY : readySince + minHealthy
}

/** Why a candidate whose time is over did not make it. */
function whyLate({ state, readySince }: Trial, limit: number): string {
  const within = `within ${formatDuration(limit)}`
  if (readySince !== undefined) return `did not stay ready long enough ${within}`
  if (state === undefined) return `did not register with the broker ${within}`
  return `was not ready ${within}; the broker says it is ${state}`
}
