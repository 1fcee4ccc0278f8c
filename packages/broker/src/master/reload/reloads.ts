import type { Logger } from 'pino'
import { reply } from '../operator/commands.ts'
import { type CommandResult, refusal } from '../../ipc/operator-protocol.ts'
import type { OperationLock } from '../operation-lock.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'
import type { OperatorSession } from '../../ipc/operator-session.ts'
import type { Requester } from './state.ts'

/** One request for a reload. */
export interface ReloadRequest {
  readonly requester: Requester
  /** For a requester of kind `session`, unless the session was lost in a reload. */
  readonly session: OperatorSession | undefined
}

/** The requester, for logs. */
export function requesterOf({ requester, session }: ReloadRequest): string {
  return requester.kind === 'worker' ? requester.by : (session?.peer ?? 'SIGHUP')
}

/**
 * Requests for reloads. One that arrives during a start, a reload or a deploy waits until that is over. All waiting requests then
 * share one reload, which reads the configuration file after the last of them.
 *
 * Owner of the waiting requests.
 */
export class Reloads {
  readonly #operationLock: OperationLock
  readonly #workerPool: WorkerPool
  readonly #logger: Logger
  readonly #begin: (requests: readonly ReloadRequest[]) => void
  readonly #waiting: ReloadRequest[] = []

  /** Calls `begin` with at least one request, and only while no operation is in progress. */
  constructor(
    operationLock: OperationLock,
    workerPool: WorkerPool,
    logger: Logger,
    begin: (requests: readonly ReloadRequest[]) => void,
  ) {
    this.#operationLock = operationLock
    this.#workerPool = workerPool
    this.#logger = logger
    this.#begin = begin
    // In a later turn, so that the operation that has just ended is answered first.
    operationLock.watch((activity) => {
      if (activity === undefined) setImmediate(() => this.#next())
      else if (activity === 'stop') this.#refuseAll()
    })
  }

  /** Waiting requests, in order of arrival. */
  get waiting(): readonly ReloadRequest[] {
    return this.#waiting
  }

  /** @param wait false: refuse it during another operation */
  submit(request: ReloadRequest, wait: boolean): void {
    this.#operationLock.claim()
    const { activity, refusal: why } = this.#operationLock
    if (why !== undefined && (activity === 'stop' || !wait)) return this.answer(request, refusal(why))
    // One waiting signal is enough.
    if (
      request.requester.kind === 'signal' &&
      this.#waiting.some(({ requester }) => requester.kind === 'signal')
    )
      return
    this.wait(request)
    if (activity === undefined) return
    const by = requesterOf(request)
    this.#logger.info({ by, behind: activity }, 'reload waits')
  }

  /** Queues a request, also one that waited in the previous program. */
  wait(request: ReloadRequest): void {
    this.#waiting.push(request)
    this.#next()
  }

  /** Sends the answer in the way that the requester can receive it. */
  answer({ requester, session }: ReloadRequest, { success, log }: CommandResult): void {
    if (requester.kind === 'signal') {
      if (!success) for (const reason of log) this.#logger.error({ reason }, 'reload refused')
    } else if (requester.kind === 'session') {
      if (session !== undefined) reply(session, { success, log })
    } else {
      const worker = [...this.#workerPool.workers].find(({ number }) => number === requester.worker)
      worker?.send({ type: 'reloaded', ask: requester.ask, success, log })
    }
  }

  #next(): void {
    if (this.#operationLock.activity !== undefined || this.#waiting.length === 0) return
    this.#begin(this.#waiting.splice(0))
  }

  #refuseAll(): void {
    for (const request of this.#waiting.splice(0)) this.answer(request, refusal('the broker is stopping'))
  }
}
