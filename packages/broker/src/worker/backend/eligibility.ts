import type { Timer } from '@baton/backend-sdk/protocol'
import type { Logger } from 'pino'
import { consequenceOf, type Failure } from '../connection/failure.ts'
import { FailureLimit, type FailureLimitOptions } from './failure-limit.ts'
import type { Os } from '../os.ts'
import { Heartbeat } from './heartbeat.ts'

/** What health checks say of a backend. `starting`: registered, and no check has succeeded yet. */
export type Health = 'starting' | 'healthy' | 'unhealthy'

export type LinkState = 'ready' | 'starting' | 'draining' | 'unresponsive' | 'unhealthy' | 'paused'

export interface EligibilityOptions {
  /** Milliseconds. */
  readonly heartbeatInterval: number
  readonly failureLimit: FailureLimitOptions
}

export interface EligibilityHost {
  /** A heartbeat is due. One that is not sent counts as unanswered all the same. */
  probe(id: number): void
  /** A pause is over. */
  resumed(): void
}

/**
 * Whether a backend may be chosen, and why not: it drains, its event loop does not answer, health checks say no, or it has failed too
 * often of late. Owner of the timers about that.
 */
export class Eligibility {
  /** What health checks say, set by who makes them. Without checks nobody doubts it. */
  health: Health = 'healthy'
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

  /** For good. */
  drain(): void {
    this.#draining = true
  }

  /** An attempt has succeeded: the failures before it are forgotten. */
  succeeded(): void {
    this.#failures.succeeded()
  }

  /** An attempt has failed. Too many in a short time suppress further ones for a while. */
  failed({ code }: Failure): void {
    if (!consequenceOf(code).countsAgainstBackend) return
    const now = this.#os.now()
    this.#failures.failed(now)
    const pause = this.#failures.retryAfter(now)
    if (pause === 0 || this.#resume !== undefined) return
    this.#logger.warn({ failure: code, pause }, 'too many failures; no attempts for a while')
    this.#resume = this.#os.setTimeout(() => {
      this.#resume = undefined
      this.#host.resumed()
    }, pause)
  }

  /** It has let an ACK deadline pass, and is not chosen until it answers a probe: the id of the one that is to be sent now. */
  missed(now: number): number {
    this.#heartbeat.missed()
    return this.#heartbeat.probe(now)
  }

  /** True when this answer to a probe ends an unresponsive time. */
  answered(id: number): boolean {
    return this.#heartbeat.answered(id)
  }

  close(): void {
    this.#os.clear(this.#beat)
    this.#os.clear(this.#resume)
  }
}
