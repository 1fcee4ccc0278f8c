import type { Timer } from '@baton/backend-sdk/protocol'
import type { FleetClock } from './os.ts'

/** Running time of a process, in ms, after which it is reported if it has not registered. */
export const REGISTRATION_LIMIT = 10_000

/** Length of a step, in ms. */
const STEP = 1000

export interface RegistrationWatchHost {
  readonly clock: FleetClock
  /** Whether there is a worker to register with. Time without one does not count. */
  registrable(): boolean
  /** The time is over. Called once. */
  overdue(): void
}

/**
 * Waits for a process to register, for a limited time. Owner of its timer.
 *
 * Time goes by in steps. One in which this program was stopped (SIGSTOP, a frozen cgroup) does not count: the report of the worker that
 * came meanwhile is read before the next one.
 */
export class RegistrationWatch {
  readonly #host: RegistrationWatchHost
  #left: number | null
  #timer: Timer | undefined

  /** @param left ms; null when nothing is waited for */
  constructor(left: number | null, host: RegistrationWatchHost) {
    this.#left = left
    this.#host = host
    this.#arm()
  }

  /** Time left, in ms; null when it has registered, or was reported. */
  get left(): number | null {
    return this.#left
  }

  /** It has registered, or is not expected to any more. */
  end(): void {
    this.#left = null
    this.#arm()
  }

  /** Forgets the timer. What is left stays. */
  close(): void {
    this.#host.clock.clear(this.#timer)
  }

  #arm(): void {
    const { clock } = this.#host
    clock.clear(this.#timer)
    if (this.#left === null) return
    const began = clock.now()
    this.#timer = clock.setTimeout(() => this.#step(clock.now() - began), STEP)
  }

  #step(elapsed: number): void {
    if (this.#left === null) return
    if (elapsed < 2 * STEP && this.#host.registrable()) this.#left -= STEP
    const over = this.#left <= 0
    if (over) this.#left = null
    this.#arm()
    if (over) this.#host.overdue()
  }
}
