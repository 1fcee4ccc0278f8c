import { NativeError } from '@baton/native-sendmsg'
import { type BrokerError, describeError } from '../../errors.ts'
import { BROKER_VERSION } from '../../version.ts'
import type { ReloadParts } from './prepare.ts'
import type { ReloadResult } from '../workers/counters.ts'
import { assign, readSettings, type Settings } from '../active-config.ts'
import type { Operator } from '../operator/operator.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'
import type { ReloadRequest, Reloads } from './reloads.ts'
import type { OperatorSession } from '../operator/operator-session.ts'
import type { Requester, MasterState } from './state.ts'

/**
 * The second half of a reload, in the program that has replaced the one that was asked (`ReloadPreparation`): puts the new configuration in force
 * with a new worker, and answers.
 */
export class ReloadResumption {
  readonly #parts: ReloadParts
  readonly #operator: Pick<Operator, 'adopt'>
  readonly #reloads: Pick<Reloads, 'wait' | 'answer'>

  constructor(
    parts: ReloadParts,
    operator: Pick<Operator, 'adopt'>,
    reloads: Pick<Reloads, 'wait' | 'answer'>,
  ) {
    this.#parts = parts
    this.#operator = operator
    this.#reloads = reloads
  }

  /**
   * Resolves when it is answered. When it fails, the worker goes on as before.
   *
   * @param decided called before that: the configuration to serve with is settled, and backends may still be moving
   */
  async finish(
    { askers, waiting, executions, file, candidate }: MasterState,
    decided: () => void,
  ): Promise<void> {
    const { log, notifier, operationLock, counters, tell } = this.#parts
    const { logger } = log
    operationLock.begin('reload')
    logger.info({ version: BROKER_VERSION, reloads: executions }, 'program replaced, reload goes on')
    const requests = askers.map((asker) => this.#restore(asker))
    for (const asker of waiting) this.#reloads.wait(this.#restore(asker))
    let result: ReloadResult = 'failure'
    let status = 'serving; reloaded'
    try {
      const settled = await this.#apply(readSettings(file, candidate))
      decided()
      const left = await settled()
      result = left === undefined ? 'success' : 'incomplete'
      if (left === undefined) logger.info('reloaded')
      else {
        status = `serving; reloaded, but ${left.message}`
        logger.error({ code: left.code, reason: left.message }, 'reloaded, but not all backends have moved')
        tell({ kind: 'reload', text: `the reload is in force, but ${left.message}` })
      }
    } catch (error) {
      const reason = describeError(error)
      // What the program before this one had begun goes on.
      this.#applyToFleet()
      decided()
      status = `serving; reload failed: ${reason}`
      logger.error({ reason }, 'reload failed; the worker goes on as before')
      tell({ kind: 'reload', text: `the reload failed, and the worker goes on as before: ${reason}` })
    }
    counters.reloaded(result, Date.now() / 1000)
    operationLock.end('reload')
    notifier.ready(status)
    const outcome = { success: result === 'success', log: log.take() }
    for (const request of requests) this.#reloads.answer(request, outcome)
  }

  #restore(asker: Requester): ReloadRequest {
    return { requester: asker, session: this.#takeSession(asker) }
  }

  /** It has waited in the kernel while there was no program to have it. It is a new session: of its modes nothing is left. */
  #takeSession(asker: Requester): OperatorSession | undefined {
    if (asker.kind !== 'session') return undefined
    try {
      return this.#operator.adopt(this.#parts.sessionHandover.receiveSession())
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#parts.log.logger.error({ err: error }, 'the session that asked was lost in the reload')
      return undefined
    }
  }

  /**
   * @returns resolves when the backends have moved, or with what is to be said of those that have not
   * @throws what makes it fail, and then nothing has changed
   */
  async #apply(next: Settings): Promise<() => Promise<BrokerError | undefined>> {
    const { log, activeConfig, workerPool, files } = this.#parts
    files.ensure()
    const { drainDeadline } = activeConfig.config
    const change = activeConfig.sockets.change(next.config)
    let replaced: Awaited<ReturnType<WorkerPool['replace']>>
    try {
      replaced = await workerPool.replace(assign(next, change.sockets, log.format))
    } catch (error) {
      change.rollBack()
      throw error
    }
    activeConfig.replace(next, change.sockets)
    // Backends of a service that is gone are with the old worker alone: it is told to drain them before it lets them go.
    this.#applyToFleet()
    replaced.finish(change.removed, drainDeadline)
    try {
      change.commit()
    } catch (error) {
      // It is done all the same: the new worker serves.
      log.logger.error({ err: error }, 'what the reload made superfluous could not be cleared away')
    }
    return replaced.backendsMoved
  }

  #applyToFleet(): void {
    const { log, activeConfig, fleet } = this.#parts
    try {
      fleet.apply(activeConfig.fleetConfig)
    } catch (error) {
      // A folder has gone since it was looked at.
      log.logger.error({ err: error }, 'managed backends stay as they were')
    }
  }
}
