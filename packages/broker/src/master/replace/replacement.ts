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
import type { ManagedService } from '../fleet/managed-service.ts'
import type { FleetClock } from '../fleet/os.ts'

/** `gone`: the old process has ended, and is being restarted. `displaced`: another operation came first. */
export type ReplacementOutcome =
  | { readonly kind: 'replaced'; readonly backend: string; readonly pid: number | undefined }
  | { readonly kind: 'failed'; readonly problem: string; readonly output: readonly string[] }
  | { readonly kind: 'displaced' }

/**
 * Replaces the process of one instance by another one of the same generation: starts it beside the old one, and promotes it once it has been
 * ready for `minHealthy`. The old one then drains by itself. One that fails is stopped, and the old one stays.
 */
export class Replacement {
  readonly #service: ManagedService
  readonly #number: number
  readonly #minHealthy: number
  readonly #clock: Pick<FleetClock, 'now' | 'setTimeout' | 'clear'>
  readonly #finished: (outcome: ReplacementOutcome) => void
  readonly #forget: () => void
  #trial: Trial
  #pid: number | undefined
  #timer: Timer | undefined
  #isOver = false

  /**
   * @param finished called once, never from within
   * @throws {BrokerError} BATON_ERR_DEPLOY_RUNNING
   */
  constructor(
    fleet: Fleet,
    service: ManagedService,
    { number, minHealthy }: { readonly number: number; readonly minHealthy: number },
    clock: Pick<FleetClock, 'now' | 'setTimeout' | 'clear'>,
    finished: (outcome: ReplacementOutcome) => void,
  ) {
    this.#service = service
    this.#number = number
    this.#minHealthy = minHealthy
    this.#clock = clock
    this.#finished = finished
    this.#forget = fleet.observe(service.name, {
      exited: ({ id, output }, exit) => {
        if (id === this.#trial.id) this.#fail(describeExit(exit), output)
      },
      reported: (reports, fresh) => this.#reported(reports, fresh),
      stopped: () => this.displace(),
    })
    const generation = service.instance(number)?.generation ?? service.stable
    const { id, pid } = service.startSuccessor(number, generation)
    this.#pid = pid
    this.#trial = newTrial(id, clock.now())
    this.#review()
  }

  /** Ends it as if it had not begun. Does nothing when it is over. */
  displace(): void {
    if (this.#isOver) return
    this.#service.discard(this.#number)
    this.#finish({ kind: 'displaced' })
  }

  #reported(reports: readonly BackendReport[], fresh: boolean): void {
    this.#trial = observe(this.#trial, reportedState(reports, this.#trial.id), this.#clock.now(), fresh)
    if (this.#trial.state === 'unhealthy') return this.#fail('failed its health check')
    this.#review()
  }

  #review(): void {
    if (this.#isOver) return
    this.#clock.clear(this.#timer)
    const now = this.#clock.now()
    const limit = START_TIMEOUT_MS + this.#minHealthy
    const settled = settledAt(this.#trial, this.#minHealthy, now)
    const late = this.#trial.startedAt + limit
    if (settled <= now) {
      this.#service.promote(this.#number)
      return this.#finish({ kind: 'replaced', backend: this.#trial.id, pid: this.#pid })
    }
    if (late <= now) return this.#fail(whyLate(this.#trial, limit, now))
    this.#timer = this.#clock.setTimeout(() => this.#review(), Math.min(settled, late) - now)
  }

  #fail(problem: string, output: readonly string[] = []): void {
    if (this.#isOver) return
    this.#service.discard(this.#number)
    this.#finish({ kind: 'failed', problem, output })
  }

  #finish(outcome: ReplacementOutcome): void {
    this.#isOver = true
    this.#clock.clear(this.#timer)
    this.#forget()
    this.#finished(outcome)
  }
}
