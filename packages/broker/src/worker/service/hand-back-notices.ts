import type { Logger } from 'pino'
import type { Change } from '../../api/events.ts'
import type { NotTakenReason } from '../../metrics/labels.ts'
import type { HandBackCounts } from '../backend/hand-back-tally.ts'
import type { BackendIdentity } from '../backend/link-host.ts'

/** Milliseconds between two notices of the same backend and reason. */
const INTERVAL_MS = 60_000

/** Normal while a broker stops. */
const EXPECTED: readonly NotTakenReason[] = ['Stopping']

/** Reports hand-backs to the log and to the event streams, never with a line for each connection. */
export class HandBackNotices {
  readonly #service: string
  readonly #logger: Logger
  readonly #announce: (change: Change) => void
  readonly #now: () => number
  /** By backend, then by reason: when it was last told, and how many there were since. */
  readonly #told = new Map<string, Map<NotTakenReason, { at: number; since: number }>>()

  constructor(service: string, logger: Logger, announce: (change: Change) => void, now: () => number) {
    this.#service = service
    this.#logger = logger
    this.#announce = announce
    this.#now = now
  }

  /** A backend has drained, or has gone while it drained. */
  drained(giver: BackendIdentity, { handedBack, givenBack }: HandBackCounts): void {
    this.#logger.info(
      { ...this.#named(giver), handedBack, givenBack },
      'drained backend handed connections back',
    )
    const rest = givenBack === 0 ? '' : `; ${givenBack} were given back to it`
    this.#say('handed_back', giver, {
      count: handedBack,
      text: `${giver.slot} of service ${this.#service} has handed back ${connections(handedBack)} in its drain${rest}`,
    })
  }

  /** Connections stayed with their backend; or, with a ProtocolViolation, the backend is cut off. */
  notTaken(giver: BackendIdentity, reason: NotTakenReason, times: number): void {
    const count = this.#countToTell(giver, reason, times)
    if (count === undefined) return
    const level = EXPECTED.includes(reason) ? 'info' : 'warn'
    const named = this.#named(giver)
    const subject = `of service ${this.#service}`
    if (reason === 'ProtocolViolation') {
      this.#logger[level]({ ...named, reason, count }, 'hand-backs refused')
      const text = `${giver.slot} ${subject} broke the protocol when it handed back ${connections(count)}`
      return this.#say('hand_back_refused', giver, { reason, count, text })
    }
    this.#logger[level]({ ...named, reason, count }, 'hand-backs given back')
    const text = `${giver.slot} ${subject} keeps ${connections(count)} that it handed back: ${reason}`
    return this.#say('given_back', giver, { reason, count, text })
  }

  /** The backend has gone. */
  forget({ slot }: BackendIdentity): void {
    this.#told.delete(slot)
  }

  /** How many to tell of now; undefined while the last notice is too recent. */
  #countToTell({ slot }: BackendIdentity, reason: NotTakenReason, times: number): number | undefined {
    const reasons = this.#told.get(slot) ?? new Map<NotTakenReason, { at: number; since: number }>()
    this.#told.set(slot, reasons)
    const now = this.#now()
    const last = reasons.get(reason)
    if (last !== undefined && now - last.at < INTERVAL_MS) {
      last.since += times
      return undefined
    }
    reasons.set(reason, { at: now, since: 0 })
    return times + (last?.since ?? 0)
  }

  #named({ ulid: backend, slot }: BackendIdentity) {
    return { service: this.#service, backend, slot }
  }

  #say(
    kind: Change['kind'],
    { ulid: id, slot, version, pid }: BackendIdentity,
    rest: Pick<Change, 'reason' | 'count' | 'text'>,
  ): void {
    this.#announce({ kind, service: this.#service, backend: { id, slot, version, pid }, ...rest })
  }
}

function connections(count: number): string {
  return count === 1 ? '1 connection' : `${count} connections`
}
