import { formatDuration } from '../../config/duration.ts'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { FleetClock } from '../fleet/os.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import { reportedState, type BackendReport } from '../fleet/backend-report.ts'
import { type Trial, observe, settledAt, whyLate } from './trial.ts'
import type { DeployProgress, DeployResult } from './progress.ts'

export interface DeployPlan {
  readonly service: string
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

/** What a deploy does to the world. Everything that comes of it comes back as an event. */
export interface DeployHost {
  readonly clock: Pick<FleetClock, 'now' | 'setTimeout' | 'clear'>
  /** Starts a process beside the one that has the place. `old`: what the service ran before. */
  start(instance: number, version: 'new' | 'old'): { readonly id: string; readonly pid: number | undefined }
  /**
   * The new process gets the place; the former one is drained, then stopped.
   *
   * @returns id of the former one, whose exit will be told; undefined when nothing ran there
   */
  promote(instance: number): string | undefined
  /** Stops the process that was started last for this place. */
  discard(instance: number): void
  /** Ids of the processes that have the places now. */
  places(): ReadonlySet<string>
  /** What the broker listed last. */
  reports(): readonly BackendReport[]
  progress(progress: DeployProgress): void
  finished(result: DeployResult): void
}

const START_TIMEOUT_MS = 60_000

/** Time for the last of the former backends to be listed no longer, in milliseconds: reports come once a second, or from a new worker. */
const SETTLE_TIMEOUT_MS = 10_000

/** How many of those that are left are named. */
const MAX_NAMED = 5

type Phase =
  /** New processes run beside the old ones and are watched; no old one was touched. */
  | { readonly kind: 'starting'; readonly trials: Map<number, Trial> }
  /** The new ones have their places; the old ones, by id, drain and end. */
  | { readonly kind: 'retiring'; readonly former: Map<string, number> }
  /** All places are taken over; backends that belong to none of them are still listed. */
  | { readonly kind: 'settling' }
  | { readonly kind: 'over' }

/**
 * One rolling deploy of one service. No I/O: events come in, effects go out through the host.
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
  readonly #host: DeployHost
  readonly #limit: number
  #version: 'new' | 'old' = 'new'
  /** Places that this version has yet to get, and those that it has, by the id of its process. */
  #ahead: number[]
  #taken = new Map<string, number>()
  #phase: Phase = { kind: 'over' }
  #timer: Timer | undefined

  constructor(plan: DeployPlan, host: DeployHost) {
    this.#plan = plan
    this.#host = host
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
      const after = observe(before, reportedState(reports, before.id), this.#host.clock.now())
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
    for (const instance of step) {
      const { id, pid } = this.#host.start(instance, this.#version)
      const startedAt = this.#host.clock.now()
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
    this.#host.clock.clear(this.#timer)
    if (this.#phase.kind !== 'starting') return
    const { minHealthy } = this.#plan
    const now = this.#host.clock.now()
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
    this.#timer = this.#host.clock.setTimeout(() => this.#review(), look - now)
  }

  #takeOver(): void {
    if (this.#phase.kind !== 'starting') return
    const former = new Map<string, number>()
    for (const [instance, { id }] of this.#phase.trials) {
      this.#taken.set(id, instance)
      const replaced = this.#host.promote(instance)
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
    this.#host.finished({ success: false, reason, output, aborted, returned })
  }

  /** Done only when no backend of the service is left that belongs to none of the places. */
  #settle(): void {
    if (this.#others().length === 0) return this.#finish()
    this.#phase = { kind: 'settling' }
    const { clock } = this.#host
    const drained = () => this.#finishBeside(this.#others())
    this.#timer = clock.setTimeout(() => {
      if (this.#others().some(({ state }) => state !== 'draining')) return drained()
      // The broker drains what a managed process has left behind.
      this.#timer = clock.setTimeout(drained, this.#plan.drainDeadline)
    }, SETTLE_TIMEOUT_MS)
  }

  /** Backends of the service that this deploy did not replace. */
  #others(): BackendReport[] {
    const { service, external = false } = this.#plan
    const places = this.#host.places()
    return this.#host.reports().filter((report) => {
      if (report.service !== service) return false
      if (external && typeof report.owner !== 'string') return false
      return !places.has(report.owner ?? report.id)
    })
  }

  #finishBeside(others: readonly BackendReport[]): void {
    if (others.length === 0) return this.#finish()
    this.#phase = { kind: 'over' }
    const named = others.slice(0, MAX_NAMED).map(({ slot, pid, id }) => `${slot} (pid ${pid}, backend ${id})`)
    if (others.length > MAX_NAMED) named.push(`${others.length - MAX_NAMED} more`)
    const reason = `${this.#plan.service} still has backends that this deploy did not replace: ${named.join(', ')}`
    this.#report('failed', undefined, reason)
    const aborted = this.#version === 'old'
    this.#host.finished({
      success: false,
      reason,
      output: [],
      aborted,
      returned: aborted,
      ...(!aborted && { complete: true }),
    })
  }

  #finish(): void {
    this.#host.clock.clear(this.#timer)
    this.#phase = { kind: 'over' }
    const replaced = this.#taken.size
    if (this.#version === 'old') {
      this.#report('done', undefined, 'everything is the old version again')
      this.#host.finished({ success: false, reason: 'aborted', output: [], aborted: true, returned: true })
    } else {
      this.#report('done', undefined, `${replaced} replaced`)
      this.#host.finished({ success: true, replaced })
    }
  }

  /** The new processes of the present step that have no place yet. */
  #discard(): void {
    this.#host.clock.clear(this.#timer)
    if (this.#phase.kind !== 'starting') return
    for (const instance of this.#phase.trials.keys()) this.#host.discard(instance)
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
    this.#host.progress({ step, instance: this.#name(instance), text })
  }

  #name(instance: number | undefined): string {
    return instance === undefined ? this.#plan.service : `${this.#plan.service}.${instance}`
  }
}

function describeExit({ code, signal, error }: ProcessExit): string {
  if (error !== undefined) return `could not be started: ${error}`
  if (code !== null) return `ended with exit code ${code}`
  return `was ended by ${signal ?? 'a signal without a name'}`
}
