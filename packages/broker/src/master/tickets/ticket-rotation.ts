import { randomBytes } from 'node:crypto'
import { TICKET_KEY_LENGTH } from '@baton/backend-sdk/protocol'
import type { Logger } from 'pino'
import type { Config } from '../../config/config.ts'
import type { TicketKeys } from '../../ipc/ticket-keys.ts'

/** One that encrypts new tickets, and the one before it, whose tickets still resume. */
const VALID_KEYS = 2

/** The age of keys is looked at once an hour at least: timers stand still while the machine sleeps. */
const MAX_TIMER_MS = 3_600_000

/** Keys of one service. */
interface Rotation {
  /** In base64, the newest first. */
  readonly keys: readonly string[]
  /** CLOCK_MONOTONIC in milliseconds: the same clock for the next program, and for the next master. */
  readonly since: number
}

/** For the next program, or the next master. */
export type TicketRotationState = Readonly<Record<string, Rotation>>

/**
 * The keys for TLS session tickets of every service, so that sessions resume in all of its processes. They belong to the master: workers get
 * a copy, so a reload, and the death of a worker, leave them as they are. Each key is random, and forgotten when it is no longer valid.
 */
export class TicketRotation {
  readonly #services: () => Config['services']
  readonly #changed: () => void
  readonly #logger: Pick<Logger, 'info'>
  readonly #now: () => number
  readonly #rotations: Map<string, Rotation>
  #timer: NodeJS.Timeout | undefined

  /**
   * @param services of the active configuration
   * @param changed the keys are to be sent to every worker, and kept for the next master
   * @param state of an earlier program, or of a master that was killed
   * @param logger is told that there is a new key, and never which
   */
  constructor(
    services: () => Config['services'],
    changed: () => void,
    state?: TicketRotationState,
    logger: Pick<Logger, 'info'> = { info() {} },
    now = () => Number(process.hrtime.bigint() / 1_000_000n),
  ) {
    this.#services = services
    this.#changed = changed
    this.#logger = logger
    this.#now = now
    this.#rotations = new Map(Object.entries(state ?? {}))
    // A key may have become due meanwhile: workers that are there already are told in a moment, when this master knows them.
    if (state === undefined) this.#rotate()
    else this.#arm(0)
  }

  get state(): TicketRotationState {
    return Object.fromEntries(this.#rotations)
  }

  get keys(): TicketKeys {
    return Object.fromEntries([...this.#rotations].map(([service, { keys }]) => [service, keys]))
  }

  /** The configuration has changed, or a key is due. */
  update(): void {
    if (this.#rotate()) this.#changed()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }

  /** @returns whether a key has changed */
  #rotate(): boolean {
    const services = this.#services()
    const now = this.#now()
    let changed = false
    let next = MAX_TIMER_MS
    for (const name of this.#rotations.keys()) {
      if ((services.get(name)?.ticketRotation ?? null) !== null) continue
      this.#rotations.delete(name)
      changed = true
    }
    for (const [name, { ticketRotation: every }] of services) {
      if (every === null) continue
      let rotation = this.#rotations.get(name)
      if (rotation === undefined || now - rotation.since >= every) {
        // After a time without a master, the one before may be older than two periods.
        const before = rotation !== undefined && now - rotation.since < 2 * every ? rotation.keys : []
        const keys = [randomBytes(TICKET_KEY_LENGTH).toString('base64'), ...before].slice(0, VALID_KEYS)
        // Not at the start, where it is no event.
        if (rotation !== undefined) this.#logger.info({ service: name }, 'new key for TLS session tickets')
        rotation = { keys, since: now }
        this.#rotations.set(name, rotation)
        changed = true
      }
      next = Math.min(next, rotation.since + every - now)
    }
    this.#arm(next)
    return changed
  }

  #arm(delay: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.update(), delay)
    this.#timer.unref()
  }
}
