import type { Logger } from 'pino'
import { reply } from '../operator/commands.ts'
import { type Outcome, refusal } from '../../ipc/operator-protocol.ts'
import type { Occupation } from '../operation-lock.ts'
import type { Roster } from '../workers/worker-pool.ts'
import type { Session } from '../operator/operator-session.ts'
import type { Asker } from './state.ts'

/** One request for a reload. */
export interface ReloadRequest {
  readonly asker: Asker
  /** Of an asker of that kind, unless it was lost on the way. */
  readonly session: Session | undefined
}

export interface ReloadsParts {
  readonly occupation: Occupation
  readonly roster: Roster
  readonly logger: Logger
}

/** Who asks, for the log. */
export function requesterOf({ asker, session }: ReloadRequest): string {
  return asker.kind === 'worker' ? asker.by : (session?.peer ?? 'SIGHUP')
}

/**
 * Requests for reloads. One that comes while the broker starts, reloads or deploys waits for the end of that; all that wait then
 * share one reload, which reads the configuration file after the last of them.
 *
 * Owner of the requests that wait.
 */
export class Reloads {
  readonly #parts: ReloadsParts
  readonly #begin: (requests: readonly ReloadRequest[]) => void
  readonly #waiting: ReloadRequest[] = []

  /** `begin` is called with at least one request, and only while nothing else goes on. */
  constructor(parts: ReloadsParts, begin: (requests: readonly ReloadRequest[]) => void) {
    this.#parts = parts
    this.#begin = begin
    // In a turn of its own: what has just ended is answered first.
    parts.occupation.watch((activity) => {
      if (activity === undefined) setImmediate(() => this.#next())
      else if (activity === 'stop') this.#refuseAll()
    })
  }

  /** Those that wait, in order of arrival. */
  get waiting(): readonly ReloadRequest[] {
    return this.#waiting
  }

  /** @param wait otherwise it is refused while something else goes on */
  ask(request: ReloadRequest, wait: boolean): void {
    const { activity, refusal: why } = this.#parts.occupation
    if (why !== undefined && (activity === 'stop' || !wait)) return this.answer(request, refusal(why))
    // One more signal changes nothing.
    if (request.asker.kind === 'signal' && this.#waiting.some(({ asker }) => asker.kind === 'signal')) return
    this.wait(request)
    if (activity === undefined) return
    const by = requesterOf(request)
    this.#parts.logger.info({ by, behind: activity }, 'reload waits')
  }

  /** One that waited in the program before this. */
  wait(request: ReloadRequest): void {
    this.#waiting.push(request)
    this.#next()
  }

  /** As each asker can be told. */
  answer({ asker, session }: ReloadRequest, { success, log }: Outcome): void {
    const { roster, logger } = this.#parts
    if (asker.kind === 'signal') {
      if (!success) for (const reason of log) logger.error({ reason }, 'reload refused')
    } else if (asker.kind === 'session') {
      if (session !== undefined) reply(session, { success, log })
    } else {
      const worker = [...roster.workers].find(({ number }) => number === asker.worker)
      worker?.send({ type: 'reloaded', ask: asker.ask, success, log })
    }
  }

  #next(): void {
    if (this.#parts.occupation.activity !== undefined || this.#waiting.length === 0) return
    this.#begin(this.#waiting.splice(0))
  }

  #refuseAll(): void {
    for (const request of this.#waiting.splice(0)) this.answer(request, refusal('a stop is going on'))
  }
}
