import { isDeepStrictEqual } from 'node:util'
import type { Logger } from 'pino'
import type { Change } from '../../api/events.ts'
import type { Shift, Shifts as ShiftsState } from '../../api/shift.ts'
import { formatShare } from '../../config/share.ts'
import type { Config } from '../../config/config.ts'
import { describeError, unknownService } from '../../errors.ts'
import { type CommandResult, refusal } from '../../ipc/operator-protocol.ts'
import type { Counters } from '../workers/counters.ts'

/** A request of an operator. */
export interface ShiftRequest {
  readonly service: string
  /** Undefined: new connections are no longer shifted. */
  readonly shift: Pick<Shift, 'to' | 'share'> | undefined
  /** The requester, for logs and events. */
  readonly by: string
}

export interface ShiftsParts {
  /** Of the active configuration. */
  readonly services: () => Config['services']
  readonly logger: Logger
  readonly counters: Pick<Counters, 'shifted'>
  /** To be sent to every worker, and kept for the next master. */
  readonly changed: () => void
  readonly announce: (change: Change) => void
}

/**
 * Every shift in force. They belong to the master: workers get a copy, so a reload, and the death of a worker, leave them in force. Those of a canary
 * end with its deploy, which does not outlive this master.
 */
export class Shifts {
  readonly #parts: ShiftsParts
  readonly #shifts: Map<string, Shift>

  /** @param state of an earlier program, or of a master that was killed */
  constructor(parts: ShiftsParts, state: ShiftsState = {}) {
    this.#parts = parts
    this.#shifts = new Map(Object.entries(state).filter(([, { canary }]) => canary !== true))
    for (const [service, shift] of this.#shifts) parts.counters.shifted(service, undefined, shift)
  }

  get state(): ShiftsState {
    return Object.fromEntries(this.#shifts)
  }

  of(service: string): Shift | undefined {
    return this.#shifts.get(service)
  }

  /** Runs an operator's command. */
  request({ service, shift, by }: ShiftRequest): CommandResult {
    const services = this.#parts.services()
    if (!services.has(service)) return refusal(describeError(unknownService(service, services.keys())))
    const before = this.#shifts.get(service)
    if (before?.canary === true)
      return refusal(`a canary of ${service} is in progress; "baton deploy ${service} --abort" ends it`)
    if (shift === undefined && before === undefined)
      return { success: true, log: [`${service}: no connections are shifted`] }
    this.set(service, shift && { to: shift.to, share: shift.share }, by)
    return { success: true, log: [`${service}: ${describe(shift)}`] }
  }

  /** @param shift undefined to end it */
  set(service: string, shift: Shift | undefined, by: string): void {
    const before = this.#shifts.get(service)
    if (isDeepStrictEqual(before, shift)) return
    if (shift === undefined) this.#shifts.delete(service)
    else this.#shifts.set(service, shift)
    const { logger, counters, changed, announce } = this.#parts
    counters.shifted(service, before, shift)
    const share = shift && formatShare(shift.share)
    logger.info({ service, to: shift?.to, share, canary: shift?.canary, by }, 'shift')
    changed()
    const to = shift === undefined ? {} : { to: shift.to }
    announce({
      kind: 'shift',
      service,
      ...to,
      by,
      text: `${by} shifts service ${service}: ${describe(shift)}`,
    })
  }

  /** A reload has removed the other services. */
  keepOnly(services: Config['services']): void {
    for (const service of this.#shifts.keys())
      if (!services.has(service)) this.set(service, undefined, 'the reload')
  }
}

function describe(shift: Pick<Shift, 'to' | 'share'> | undefined): string {
  if (shift === undefined) return 'new connections are no longer shifted'
  return `${formatShare(shift.share)} of new connections go to version ${shift.to}`
}
