import { NativeError } from '@baton/native-sendmsg'
import { type BrokerError, describeError } from '../../errors.ts'
import { BROKER_VERSION } from '../../version.ts'
import type { ReloadParts } from './prepare.ts'
import type { ReloadResult } from '../workers/counters.ts'
import { checkSchedules } from '../../config/schedule.ts'
import { longestDrainDeadline } from '../../config/service-rules.ts'
import { readSettings, type Settings } from '../active-config.ts'
import type { Operator } from '../operator/operator.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'
import type { ReloadRequest, Reloads } from './reloads.ts'
import type { OperatorSession } from '../../ipc/operator-session.ts'
import type { Requester, MasterState } from './state.ts'

/**
 * The second half of a reload, after exec (the first is `ReloadPreparation`): activates the next configuration with a new worker, and
 * answers the requests.
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
   * Resolves when the requests are answered. If the reload fails, the worker continues as before.
   *
   * @param decided called earlier, when it is known which configuration is active; backends may still be moving
   */
  async finish(
    { askers, waiting, executions, file, candidate, claimed }: MasterState,
    decided: () => void,
  ): Promise<void> {
    const { log, notifier, operationLock, counters, workerPool } = this.#parts
    const { logger } = log
    operationLock.begin('reload')
    if (claimed === undefined)
      logger.info({ version: BROKER_VERSION, reloads: executions }, 'program replaced, reload continues')
    else
      logger.info(
        { version: BROKER_VERSION, workerPid: claimed },
        'took over the worker of a master that was killed',
      )
    const requests = askers.map((asker) => this.#restore(asker))
    for (const asker of waiting) this.#reloads.wait(this.#restore(asker))
    let result: ReloadResult = 'failure'
    let status = 'serving; reloaded'
    try {
      const next = readSettings(file, candidate)
      await checkSchedules(file, next.config.services)
      const settled = await this.#apply(next)
      decided()
      const left = await settled()
      result = left === undefined ? 'success' : 'incomplete'
      if (left === undefined) logger.info('reloaded')
      else {
        status = `serving; reloaded, but ${left.message}`
        logger.error({ code: left.code, reason: left.message }, 'reloaded, but not all backends have moved')
        workerPool.reportChange({
          kind: 'reload',
          text: `the new configuration is active, but ${left.message}`,
        })
      }
    } catch (error) {
      const reason = describeError(error)
      // Continue what the previous program had begun.
      this.#applyToFleet()
      decided()
      status = `serving; reload failed: ${reason}`
      logger.error({ reason }, 'reload failed; the worker continues as before')
      workerPool.reportChange({
        kind: 'reload',
        text: `the reload failed, and the worker continues as before: ${reason}`,
      })
    }
    // Not used: it must not wait for a reload to another version.
    this.#parts.spare.end()
    if (claimed === undefined) counters.reloaded(result, Date.now() / 1000)
    operationLock.end('reload')
    notifier.ready(status)
    const outcome = { success: result === 'success', log: log.take() }
    for (const request of requests) this.#reloads.answer(request, outcome)
  }

  #restore(requester: Requester): ReloadRequest {
    return { requester, session: this.#receiveSession(requester) }
  }

  /** The session was queued in the kernel during exec. It starts with default modes. */
  #receiveSession(requester: Requester): OperatorSession | undefined {
    if (requester.kind !== 'session') return undefined
    try {
      return this.#operator.adopt(this.#parts.sessionHandover.receiveSession())
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#parts.log.logger.error({ err: error }, "lost the requester's session in the reload")
      return undefined
    }
  }

  /**
   * @returns resolves when the backends have moved, or with an error that names those that have not
   * @throws the reason of the failure; then nothing has changed
   */
  async #apply(next: Settings): Promise<() => Promise<BrokerError | undefined>> {
    const { log, activeConfig, workerPool, shifts, tickets, files } = this.#parts
    files.ensure()
    const drainDeadline = longestDrainDeadline(activeConfig.config)
    const change = activeConfig.sockets.change(next.config)
    let replaced: Awaited<ReturnType<WorkerPool['replace']>>
    try {
      replaced = await workerPool.replace({ settings: next, sockets: change.sockets })
    } catch (error) {
      change.rollBack()
      throw error
    }
    activeConfig.replace(next, change.sockets)
    shifts.keepOnly(next.config.services)
    tickets.update()
    // Only the old worker has the backends of a removed service, so it must drain them before it releases them.
    this.#applyToFleet()
    replaced.finish(change.removed, drainDeadline)
    try {
      change.commit()
    } catch (error) {
      // The reload has succeeded anyway: the new worker serves.
      log.logger.error({ err: error }, 'could not clean up after the reload')
    }
    workerPool.sendEstate()
    return replaced.backendsMoved
  }

  #applyToFleet(): void {
    const { log, activeConfig, fleet } = this.#parts
    try {
      fleet.apply(activeConfig.fleetConfig)
    } catch (error) {
      // A working directory was removed after the check.
      log.logger.error({ err: error }, 'cannot update managed backends; they stay as they were')
    }
  }
}
