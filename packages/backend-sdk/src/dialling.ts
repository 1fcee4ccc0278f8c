import { setTimeout as sleep } from 'node:timers/promises'
import { Backoff } from './backoff.ts'
import { RegistrationRefused } from './errors.ts'
import { isOrphaned } from './orphan.ts'
import type { ResolvedOptions } from './options.ts'
import type { HelloFrame } from './protocol/index.ts'
import { closeRegistration, register, type Registration } from './registration.ts'

/** A session shorter than this (ms) counts as a failed dial for backoff: the broker may be dropping backends right after WELCOME. */
const MIN_SESSION_MS = 1000

/** Maximum wait after a refusal, in ms, even if its `retryAfter` is longer: the broker may have been replaced by then. */
const MAX_RETRY_AFTER_MS = 60_000

/** A broker that has died is expected back within this time, in ms: another worker, or a service manager, starts it again. */
const RETURN_MS = 2000

export interface DiallingHost {
  hello(): Omit<HelloFrame, 'reconnect'>
  /** Owns the registration. Resolves when another one is due. */
  serve(registration: Registration): Promise<void>
  /** A dial has failed. */
  failed(error: Error): void
  /** The master that started this process is gone: no other dial follows. */
  orphaned(): void
}

/**
 * Dials the control socket from `start` until the signal: at first, after the broker has died, and whenever a broker sends RECONNECT. A
 * backend that drains goes on, so that it can hand its connections to the next broker.
 *
 * Also knows whether there is a broker to be expected.
 */
export class Dialling {
  readonly #options: ResolvedOptions
  readonly #host: DiallingHost
  readonly #signal: AbortSignal
  #logged: string | undefined
  #ended = false
  /** The `performance.now()` at which the last registration ended; undefined while there is one, and before the first. */
  #lostAt: number | undefined
  /** Dials have failed since, the last of them with this code. */
  #failure: string | undefined

  constructor(options: ResolvedOptions, host: DiallingHost, signal: AbortSignal) {
    this.#options = options
    this.#host = host
    this.#signal = signal
  }

  start(): void {
    void this.#dial()
  }

  /** There is a registration. */
  registered(): void {
    this.#logged = undefined
    this.#lostAt = undefined
    this.#failure = undefined
  }

  /** The last registration has ended. */
  lost(): void {
    this.#lostAt = performance.now()
  }

  /**
   * Whether a broker that was lost may be back in a moment. A broker that stops removes its socket, and one that was killed leaves it: a
   * worker's death makes the dial wait for the next worker, a master's death makes it fail until there is another.
   */
  get expectsBroker(): boolean {
    if (this.#lostAt === undefined || this.#ended || this.#failure === 'ENOENT') return false
    return this.#failure === undefined || performance.now() - this.#lostAt < RETURN_MS
  }

  async #dial(): Promise<void> {
    const backoff = new Backoff()
    const signal = this.#signal
    while (!signal.aborted) {
      if (isOrphaned()) {
        this.#ended = true
        return this.#host.orphaned()
      }
      try {
        const registration = await register(this.#options.socket, this.#host.hello(), signal)
        if (signal.aborted) return closeRegistration(registration)
        const since = performance.now()
        await this.#host.serve(registration)
        if (performance.now() - since >= MIN_SESSION_MS) backoff.reset()
        else await sleep(backoff.next(), undefined, { signal }).catch(() => undefined)
      } catch (error) {
        if (signal.aborted) return
        this.#note(error as Error)
        this.#host.failed(error as Error)
        const notBefore =
          error instanceof RegistrationRefused ? Math.min(error.retryAfter, MAX_RETRY_AFTER_MS) : 0
        await sleep(notBefore + backoff.next(), undefined, { signal }).catch(() => undefined)
      }
    }
  }

  /** Logs a reason once, not at each dial. */
  #note(error: Error & { code?: string }): void {
    const { socket, logger, service } = this.#options
    this.#failure = error.code ?? ''
    const reason = `${error.code} ${error.message}`
    if (reason === this.#logged) return
    this.#logged = reason
    logger.warn({ socket, service, error }, this.#why(error))
  }

  #why(error: Error & { code?: string }): string {
    if (error instanceof RegistrationRefused) return 'the broker refused the registration'
    if (error.code === 'EACCES') return 'this user may not connect to the broker, dialling again'
    if (error.code !== 'ENOENT' && error.code !== 'ECONNREFUSED') return 'not registered, dialling again'
    if (!this.#options.socketIsDefault) return 'no broker yet, dialling again'
    return 'no broker yet, dialling again; if its runtimeDir is not the default, set BATON_SOCKET'
  }
}
