import { formatDuration } from '../../config/duration.ts'
import { formatShare } from '../../config/share.ts'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { Generation } from '../fleet/definition.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { ManagedService } from '../fleet/managed-service.ts'
import type { FleetClock } from '../fleet/os.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import { reportedState, type BackendReport } from '../fleet/backend-report.ts'
import { Canary } from './canary.ts'
import type { CanaryRequest, DeployProgress, DeployResult } from './messages.ts'
import { describeExit, newTrial, observe, settledAt, START_TIMEOUT_MS, type Trial, whyLate } from './trial.ts'

export interface DeployPlan {
  readonly fleet: Fleet
  readonly service: ManagedService
  /** The deployed generation, and the one that `abort` returns to. */
  readonly versions: { readonly new: Generation; readonly old: Generation }
  /** Numbers of the instances, in order of replacement. */
  readonly instances: readonly number[]
  /** How many to replace at a time. */
  readonly atOnce: number
  /** How long a new process must stay ready before it takes over, in ms. */
  readonly minHealthy: number
  /** How long it may take to become ready, in ms. `minHealthy` is added. Default: 60 s. */
  readonly startLimit?: number
  /** In ms. */
  readonly drainDeadline: number
  /** Whether backends that Baton did not start may be registered besides the instances. */
  readonly external?: boolean
  /** Tries the instances of the first step with a share of the new connections. */
  readonly canary?: CanaryPlan | undefined
}

export interface CanaryPlan extends CanaryRequest {
  /** Its version, as its backends report it. */
  readonly version: string
  /** Gives its version this share of the new connections; undefined: versions no longer matter. */
  readonly shift: (share: number | undefined) => void
}

/** How long the old backends may stay in the reports, in ms: reports come once a second, or from a new worker. */
const SETTLE_TIMEOUT_MS = 10_000

/** How many of the remaining backends are named. */
const MAX_NAMED = 5

type Phase =
  /** New processes are on trial next to the old ones, which are untouched. */
  | { readonly kind: 'starting'; readonly trials: Map<number, Trial> }
  /** They have been ready, and get a share of the new connections, until this time. */
  | {
      readonly kind: 'canary'
      readonly trials: ReadonlyMap<number, Trial>
      readonly canary: Canary
      readonly until: number
    }
  /** The new processes have taken over; the old ones, by id, drain and exit. */
  | { readonly kind: 'retiring'; readonly former: Map<string, number> }
  /** All instances are replaced; backends that belong to none of them are still registered. */
  | { readonly kind: 'settling' }
  | { readonly kind: 'over' }

/**
 * One rolling deploy of one service. Starts and retires its processes; what becomes of them arrives as events.
 *
 * It replaces `atOnce` instances per step:
 *
 *     starting --all ready for minHealthy--> retiring --all old ones gone--> next step, or settling
 *     starting --the same, in the first step of a canary--> canary --time over, no worse--> retiring
 *     canary --exit, worse than the old version--> over (as for starting)
 *     settling --no other backend is registered--> over; --timeout--> over, as a failure
 *     starting --exit, unhealthy, timeout--> over (the new processes of this step stop, the old ones continue)
 *     any --a process that has taken over exits or becomes unhealthy--> over
 *     any --abort--> starting, with the old version for every instance that was replaced
 */
export class Deploy {
  readonly #plan: DeployPlan
  readonly #clock: Pick<FleetClock, 'now' | 'setTimeout' | 'clear'>
  readonly #progress: (progress: DeployProgress) => void
  readonly #finished: (result: DeployResult) => void
  readonly #limit: number
  #version: 'new' | 'old' = 'new'
  /** Instances still to be replaced by this version, and those that are, by the id of the new process. */
  #remaining: number[]
  #replaced = new Map<string, number>()
  #phase: Phase = { kind: 'over' }
  #timer: Timer | undefined
  /** Until it is over. */
  #canary: CanaryPlan | undefined

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
    this.#remaining = [...plan.instances]
    this.#canary = plan.canary
  }

  /** Call once. */
  begin(): void {
    // While they are on trial, nothing depends on them.
    this.#canary?.shift(0)
    this.#next()
  }

  /** All registered backends, of every service. @param fresh see `FleetObserver` */
  reported(reports: readonly BackendReport[], fresh: boolean): void {
    if (this.#phase.kind === 'over') return
    for (const [id, instance] of this.#replaced) {
      if (reportedState(reports, id) === 'unhealthy')
        return this.#fail(instance, 'became unhealthy after taking over')
    }
    if (this.#phase.kind === 'settling' && this.#leftovers().length === 0) return this.#finish()
    if (this.#phase.kind === 'canary') {
      const problem = this.#phase.canary.reported(reports, this.#clock.now(), fresh)
      return problem === undefined ? this.#reviewCanary() : this.#failCanary(problem)
    }
    if (this.#phase.kind !== 'starting') return
    const { trials } = this.#phase
    for (const [instance, before] of trials) {
      const after = observe(before, reportedState(reports, before.id), this.#clock.now(), fresh)
      trials.set(instance, after)
      if (after.state === 'unhealthy') return this.#fail(instance, 'failed its health check')
      this.#reportReadiness(instance, before, after)
    }
    this.#review()
  }

  /** Any process of the service has exited. `output`: its last lines. */
  exited(id: string, exit: ProcessExit, output: readonly string[]): void {
    const replaced = this.#replaced.get(id)
    if (replaced !== undefined) return this.#fail(replaced, `${describeExit(exit)} after taking over`, output)
    if (this.#phase.kind === 'starting' || this.#phase.kind === 'canary') {
      for (const [instance, trial] of this.#phase.trials) {
        if (trial.id === id) return this.#fail(instance, describeExit(exit), output)
      }
    } else if (this.#phase.kind === 'retiring') {
      const instance = this.#phase.former.get(id)
      if (instance === undefined) return
      this.#phase.former.delete(id)
      this.#report('stopped', instance, 'the old process has exited')
      if (this.#phase.former.size === 0) this.#next()
    }
  }

  /** Reverts to the old version in the same way. Does nothing if already reverting, or when the deploy is over. */
  abort(): void {
    if (this.#phase.kind === 'over' || this.#version === 'old') return
    this.#discard()
    this.#version = 'old'
    this.#remaining = [...this.#replaced.values()].toReversed()
    this.#replaced = new Map()
    this.#report('aborted', undefined, `reverting ${this.#remaining.length} to the old version`)
    this.#next()
  }

  /** Ends the deploy as it is, because the service is stopping. */
  cancel(reason: string): void {
    if (this.#phase.kind !== 'over') this.#finishFailed(reason, [])
  }

  #next(): void {
    const step = this.#remaining.splice(0, this.#plan.atOnce)
    if (step.length === 0) return this.#settle()
    const trials = new Map<number, Trial>()
    this.#phase = { kind: 'starting', trials }
    const { service, versions } = this.#plan
    for (const instance of step) {
      const { id, pid } = service.startSuccessor(instance, versions[this.#version])
      trials.set(instance, newTrial(id, this.#clock.now()))
      this.#report(
        'started',
        instance,
        `${this.#version} version started (pid ${pid ?? 'none'}, backend ${id})`,
      )
    }
    this.#review()
  }

  /** Takes over when every trial has passed, fails when one has timed out, and otherwise schedules the next review. */
  #review(): void {
    this.#clock.clear(this.#timer)
    if (this.#phase.kind !== 'starting') return
    const { minHealthy } = this.#plan
    const now = this.#clock.now()
    const trials = [...this.#phase.trials]
    const settled = Math.max(...trials.map(([, trial]) => settledAt(trial, minHealthy, now)))
    if (settled <= now) return this.#canary === undefined ? this.#takeOver() : this.#beginCanary(this.#canary)
    for (const [instance, trial] of trials) {
      if (settledAt(trial, minHealthy, now) > now && trial.startedAt + this.#limit <= now) {
        return this.#fail(instance, whyLate(trial, this.#limit, now))
      }
    }
    const late = Math.min(...trials.map(([, { startedAt }]) => startedAt + this.#limit))
    const next = Math.min(settled, late > now ? late : settled)
    this.#timer = this.#clock.setTimeout(() => this.#review(), next - now)
  }

  #beginCanary({ share, time, version, shift }: CanaryPlan): void {
    if (this.#phase.kind !== 'starting') return
    const { trials } = this.#phase
    const ids = [...trials.values()].map(({ id }) => id)
    const canary = new Canary(this.#plan.service.name, ids, version)
    this.#phase = { kind: 'canary', trials, canary, until: this.#clock.now() + time }
    shift(share)
    const text = `version ${version} gets ${formatShare(share)} of the new connections for ${formatDuration(time)}`
    this.#report('canary', undefined, text)
    // Where the comparison begins.
    this.reported(this.#plan.fleet.reports, true)
  }

  /** The canary is no worse so far. At the end of its time it must be ready. */
  #reviewCanary(): void {
    this.#clock.clear(this.#timer)
    if (this.#phase.kind !== 'canary') return
    const { canary, until } = this.#phase
    const left = until - this.#clock.now()
    if (left > 0) {
      this.#timer = this.#clock.setTimeout(() => this.#reviewCanary(), left)
      return
    }
    // Otherwise with the next report.
    if (!canary.isReadyAt(this.#clock.now())) return
    this.#report('canary', undefined, `no worse than the old version: ${canary.summary}`)
    this.#endCanary()
    this.#takeOver()
  }

  #failCanary(problem: string): void {
    const { version } = this.#canary ?? {}
    const text = `the canary (version ${version}) ${problem}`
    this.#report('failed', undefined, text)
    this.#finishFailed(text, [])
  }

  #endCanary(): void {
    const canary = this.#canary
    this.#canary = undefined
    canary?.shift(undefined)
  }

  #takeOver(): void {
    if (this.#phase.kind !== 'starting' && this.#phase.kind !== 'canary') return
    const former = new Map<string, number>()
    for (const [instance, { id }] of this.#phase.trials) {
      this.#replaced.set(id, instance)
      const replaced = this.#plan.service.promote(instance)?.id
      if (replaced === undefined) continue
      former.set(replaced, instance)
      this.#report('draining', instance, `has taken over; draining ${replaced}`)
    }
    this.#phase = { kind: 'retiring', former }
    if (former.size === 0) this.#next()
  }

  #fail(instance: number, problem: string, output: readonly string[] = []): void {
    const reason = `${this.#name(instance)} ${problem}`
    this.#report('failed', instance, problem)
    this.#finishFailed(reason, output)
  }

  #finishFailed(reason: string, output: readonly string[]): void {
    this.#discard()
    this.#phase = { kind: 'over' }
    const aborted = this.#version === 'old'
    const returned = !aborted && this.#replaced.size === 0
    this.#finished({ success: false, reason, output, aborted, returned })
  }

  /** Finishes once every registered backend of the service belongs to one of its instances. */
  #settle(): void {
    if (this.#leftovers().length === 0) return this.#finish()
    this.#phase = { kind: 'settling' }
    const drained = () => this.#finishWithLeftovers(this.#leftovers())
    this.#timer = this.#clock.setTimeout(() => {
      if (this.#leftovers().some(({ state }) => state !== 'draining')) return drained()
      // The broker drains backends that a managed process has left behind.
      this.#timer = this.#clock.setTimeout(drained, this.#plan.drainDeadline)
    }, SETTLE_TIMEOUT_MS)
  }

  /** Backends of the service that this deploy did not replace. */
  #leftovers(): BackendReport[] {
    const { fleet, service, external = false } = this.#plan
    const places = new Set(service.numbers.flatMap((number) => service.instance(number)?.process?.id ?? []))
    return fleet.reports.filter((report) => {
      if (report.service !== service.name) return false
      if (external && typeof report.owner !== 'string') return false
      return !places.has(report.owner ?? report.id)
    })
  }

  #finishWithLeftovers(leftovers: readonly BackendReport[]): void {
    if (leftovers.length === 0) return this.#finish()
    this.#phase = { kind: 'over' }
    const named = leftovers
      .slice(0, MAX_NAMED)
      .map(({ slot, pid, id }) => `${slot} (pid ${pid}, backend ${id})`)
    if (leftovers.length > MAX_NAMED) named.push(`${leftovers.length - MAX_NAMED} more`)
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
    this.#endCanary()
    this.#phase = { kind: 'over' }
    const replaced = this.#replaced.size
    if (this.#version === 'old') {
      this.#report('done', undefined, 'every instance runs the old version again')
      this.#finished({ success: false, reason: 'aborted', output: [], aborted: true, returned: true })
    } else {
      this.#report('done', undefined, `${replaced} replaced`)
      this.#finished({ success: true, replaced })
    }
  }

  /** Stops the new processes of this step that have not taken over. */
  #discard(): void {
    this.#clock.clear(this.#timer)
    if (this.#phase.kind === 'starting' || this.#phase.kind === 'canary')
      for (const instance of this.#phase.trials.keys()) this.#plan.service.discard(instance)
    // Not before its backends are draining.
    this.#endCanary()
  }

  #reportReadiness(instance: number, before: Trial, after: Trial): void {
    if (before.readySince === undefined && after.readySince !== undefined) {
      const wait = this.#plan.minHealthy
      this.#report('ready', instance, `ready${wait > 0 ? `; watching it for ${formatDuration(wait)}` : ''}`)
    } else if (before.readySince !== undefined && after.readySince === undefined) {
      this.#report('started', instance, `no longer ready (${after.state ?? 'not registered'})`)
    }
  }

  #report(step: DeployProgress['step'], instance: number | undefined, text: string): void {
    this.#progress({ step, instance: this.#name(instance), text })
  }

  #name(instance: number | undefined): string {
    return instance === undefined ? this.#plan.service.name : `${this.#plan.service.name}.${instance}`
  }
}
