import type { Timer } from '@baton/backend-sdk/protocol'
import {
  describeExit,
  newTrial,
  observe,
  settledAt,
  START_TIMEOUT_MS,
  type Trial,
  whyLate,
} from '../deploy/trial.ts'
import { type BackendReport, reportedState } from '../fleet/backend-report.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { ManagedProcess } from '../fleet/managed-process.ts'
import type { ManagedService } from '../fleet/managed-service.ts'
import type { FleetClock } from '../fleet/os.ts'

export interface ScalingOutcome {
  readonly started: readonly number[]
  readonly stopped: readonly number[]
  /** Undefined: success. Otherwise the service has as many instances as before. */
  readonly problem?: string
  /** Last lines of the process that failed. */
  readonly output: readonly string[]
}

export interface ScalingSettings {
  /** How long a new process must stay ready, in ms. */
  readonly minHealthy: number
  /** Number of instances in the configuration. */
  readonly configured: number
}

/**
 * One change of the number of instances of one service. New instances must become ready and stay so for `minHealthy`; if one does not, all of
 * them end, and the number is again what it was. Surplus instances, those with the highest numbers, are drained and stopped. Call `to` once.
 */
export class Scaling {
  readonly #fleet: Fleet
  readonly #service: ManagedService
  readonly #settings: ScalingSettings
  readonly #clock: Pick<FleetClock, 'now' | 'setTimeout' | 'clear'>
  readonly #progress: (line: string) => void
  readonly #trials = new Map<number, Trial>()
  /** Processes that are being ended, and their instances. */
  readonly #leaving = new Map<string, string>()
  #timer: Timer | undefined
  #finish: (problem?: string, output?: readonly string[]) => void = () => {}

  constructor(
    fleet: Fleet,
    service: ManagedService,
    settings: ScalingSettings,
    clock: Pick<FleetClock, 'now' | 'setTimeout' | 'clear'>,
    progress: (line: string) => void,
  ) {
    this.#fleet = fleet
    this.#service = service
    this.#settings = settings
    this.#clock = clock
    this.#progress = progress
  }

  /**
   * Never rejects.
   *
   * @throws {BrokerError} BATON_ERR_DEPLOY_RUNNING; then nothing has changed
   */
  to(instances: number): Promise<ScalingOutcome> {
    const { configured } = this.#settings
    const before = this.#service.numbers.length
    const forget = this.#fleet.observe(this.#service.name, {
      exited: (process, exit) => this.#exited(process, describeExit(exit)),
      reported: (reports, fresh) => this.#reported(reports, fresh),
      stopped: () => this.#finish('the broker is stopping'),
    })
    const { started, retired, stopped } = this.#service.scale(instances, configured)
    return new Promise((resolve) => {
      this.#finish = (problem, output = []) => {
        this.#finish = () => {}
        this.#clock.clear(this.#timer)
        forget()
        if (problem === undefined) return resolve({ started, stopped, output })
        if (started.length > 0) this.#service.scale(before, configured)
        resolve({ started: [], stopped: [], problem, output })
      }
      for (const number of started) this.#begin(number)
      for (const { id, identity } of retired) {
        this.#leaving.set(id, identity.instance)
        this.#progress(`draining ${identity.instance}: backend ${id}`)
      }
      this.#review()
    })
  }

  #begin(number: number): void {
    const process = this.#service.instance(number)?.process
    this.#trials.set(number, newTrial(process?.id ?? '', this.#clock.now()))
    this.#progress(`started ${this.#name(number)}: pid ${process?.pid ?? 'none'}, backend ${process?.id}`)
  }

  #reported(reports: readonly BackendReport[], fresh: boolean): void {
    for (const [number, before] of this.#trials) {
      const after = observe(before, reportedState(reports, before.id), this.#clock.now(), fresh)
      this.#trials.set(number, after)
      if (after.state === 'unhealthy') return this.#finish(`${this.#name(number)} failed its health check`)
      if (before.readySince === undefined && after.readySince !== undefined)
        this.#progress(`ready ${this.#name(number)}`)
    }
    this.#review()
  }

  #exited({ id, output }: ManagedProcess, how: string): void {
    for (const [number, trial] of this.#trials)
      if (trial.id === id) return this.#finish(`${this.#name(number)} ${how}`, output)
    const instance = this.#leaving.get(id)
    if (instance === undefined) return
    this.#leaving.delete(id)
    this.#progress(`stopped ${instance}`)
    this.#review()
  }

  /** Finishes when every new process has passed and every old one is gone, fails when a new one is late, and otherwise comes back. */
  #review(): void {
    this.#clock.clear(this.#timer)
    const { minHealthy } = this.#settings
    const limit = START_TIMEOUT_MS + minHealthy
    const now = this.#clock.now()
    const pending = [...this.#trials].filter(([, trial]) => settledAt(trial, minHealthy, now) > now)
    const late = pending.find(([, { startedAt }]) => startedAt + limit <= now)
    if (late !== undefined) return this.#finish(`${this.#name(late[0])} ${whyLate(late[1], limit, now)}`)
    if (pending.length === 0 && this.#leaving.size === 0) return this.#finish()
    if (pending.length === 0) return
    const times = pending.map(([, trial]) =>
      Math.min(settledAt(trial, minHealthy, now), trial.startedAt + limit),
    )
    this.#timer = this.#clock.setTimeout(() => this.#review(), Math.min(...times) - now)
  }

  #name(number: number): string {
    return `${this.#service.name}.${number}`
  }
}
