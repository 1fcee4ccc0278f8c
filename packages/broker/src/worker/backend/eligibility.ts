import type { Timer } from '@baton/backend-sdk/protocol'
import type { Logger } from 'pino'
import { consequenceOf, type Failure } from '../connection/failure.ts'
import { type Attempt, FailureLimit, type FailureLimitOptions } from './failure-limit.ts'
import type { Os } from '../os.ts'
import { Heartbeat } from './heartbeat.ts'

/** Result of health checks. `starting`: no check has succeeded yet. */
export type Health = 'starting' | 'healthy' | 'unhealthy'

export type LinkState = 'ready' | 'starting' | 'draining' | 'unresponsive' | 'unhealthy' | 'paused'

export interface EligibilityOptions {
  /** Milliseconds. */
  readonly heartbeatInterval: number
  readonly failureLimit: FailureLimitOptions
}

export interface EligibilityHost {
  /** A heartbeat with this id is due. If it cannot be sent, it counts as unanswered. */
  probe(id: number): void
  /** A pause has ended. */
  resumed(): void
}

/**
 * Whether a backend may be chosen, and if not, why: it is draining, its event loop does not answer, health checks fail, or too many
 * handoffs have failed recently. Owns the timers for this.
 */
export class Eligibility {
  /** Latest result of health checks, set by `HealthChecks`. 'healthy' if the service has none. */
  health: Health = 'healthy'
  /** Connections that it has got so far, failures that count against it, and health checks. */
  readonly tally = { adopted: 0, failures: 0, checks: 0, failedChecks: 0 }
  readonly #host: EligibilityHost
  readonly #os: Os
  /** Logs with the backend's name. */
  readonly #logger: Pick<Logger, 'warn'>
  readonly #failures: FailureLimit
  readonly #heartbeat: Heartbeat
  readonly #beat: Timer
  #resume: Timer | undefined
  #draining = false

  constructor(options: EligibilityOptions, host: EligibilityHost, logger: Pick<Logger, 'warn'>, os: Os) {
    const { heartbeatInterval, failureLimit } = options
    this.#host = host
    this.#os = os
    this.#logger = logger
    this.#failures = new FailureLimit(failureLimit)
    this.#heartbeat = new Heartbeat(os.now())
    this.#beat = os.setInterval(() => {
      const id = this.#heartbeat.next(os.now(), heartbeatInterval)
      if (id !== undefined) host.probe(id)
    }, heartbeatInterval)
  }

  get state(): LinkState {
    if (this.#draining) return 'draining'
    if (this.#heartbeat.unresponsive) return 'unresponsive'
    if (this.health !== 'healthy') return this.health
    if (this.#failures.retryAfter(this.#os.now()) > 0) return 'paused'
    return 'ready'
  }

  get draining(): boolean {
    return this.#draining
  }

  /** Permanent. */
  drain(): void {
    this.#draining = true
  }

  /** An attempt has succeeded: forgets earlier failures. */
  succeeded(attempt: Attempt): void {
    this.#failures.succeeded(attempt)
    if (this.#resume === undefined || this.#failures.retryAfter(this.#os.now()) > 0) return
    // The next pause has a timer, and a line in the log, of its own.
    this.#os.clear(this.#resume)
    this.#resume = undefined
  }

  /** An attempt has failed. Too many in a short time pause the backend. */
  failed({ code }: Failure, attempt: Attempt): void {
    if (!consequenceOf(code).countsAgainstBackend) return
    this.tally.failures += 1
    const now = this.#os.now()
    this.#failures.failed(now, attempt)
    const pause = this.#failures.retryAfter(now)
    if (pause === 0 || this.#resume !== undefined) return
    this.#logger.warn({ failure: code, pause }, 'too many failures; backend paused')
    this.#resume = this.#os.setTimeout(() => {
      this.#resume = undefined
      this.#host.resumed()
    }, pause)
  }

  /** The backend has missed an ACK deadline, and is not chosen until it answers a probe. Returns the id of the probe to send now. */
  missed(now: number): number {
    this.#heartbeat.missed()
    return this.#heartbeat.probe(now)
  }

  /** True if this answer to a probe makes the backend responsive again. */
  answered(id: number): boolean {
    return this.#heartbeat.answered(id)
  }

  close(): void {
    this.#os.clear(this.#beat)
    this.#os.clear(this.#resume)
  }
}
