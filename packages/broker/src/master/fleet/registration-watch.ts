import type { Timer } from '@baton/backend-sdk/protocol'
import type { FleetClock } from './os.ts'

/** Running time after which a process that has not registered is reported, in ms. */
export const REGISTRATION_TIMEOUT_MS = 10_000

const STEP_MS = 1000

/**
 * Waits for a process to register, for a limited time. Owns its timer.
 *
 * Time is counted in steps. A step during which this program was stopped (SIGSTOP, a frozen cgroup) does not count: reports that workers
 * sent meanwhile are read before the next step.
 */
export class RegistrationWatch {
  readonly #clock: FleetClock
  readonly #registrable: () => boolean
  readonly #overdue: () => void
  #left: number | null
  #timer: Timer | undefined

  /**
   * @param left in ms; null if no registration is expected
   * @param registrable whether there is a worker to register with; time without one does not count
   * @param overdue called once, when the time is over
   */
  constructor(left: number | null, clock: FleetClock, registrable: () => boolean, overdue: () => void) {
    this.#left = left
    this.#clock = clock
    this.#registrable = registrable
    this.#overdue = overdue
    this.#arm()
  }

  /** Time left, in ms; null once it has registered, was reported, or is not expected to register. */
  get left(): number | null {
    return this.#left
  }

  /** It has registered, or is no longer expected to. */
  end(): void {
    this.#left = null
    this.#arm()
  }

  /** Stops the timer. `left` remains. */
  close(): void {
    this.#clock.clear(this.#timer)
  }

  #arm(): void {
    this.#clock.clear(this.#timer)
    if (this.#left === null) return
    const began = this.#clock.now()
    this.#timer = this.#clock.setTimeout(() => this.#step(this.#clock.now() - began), STEP_MS)
  }

  #step(elapsed: number): void {
    if (this.#left === null) return
    if (elapsed < 2 * STEP_MS && this.#registrable()) this.#left -= STEP_MS
    const over = this.#left <= 0
    if (over) this.#left = null
    this.#arm()
    if (over) this.#overdue()
  }
}
