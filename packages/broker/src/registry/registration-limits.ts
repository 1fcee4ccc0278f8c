import type { PeerCredentials } from '@baton/native-sendmsg'
import { Allowance, type Grant } from './allowance.ts'
import type { Refusal } from './admission.ts'

/**
 * Dials of the control socket by one process. 64 at once is more than the backends that a process has; 8 a second is
 * more than ten of them need that are refused (the SDK dials each 1 to 2 s), costs the worker under 2 % of a processor if
 * each one registers, and cannot fill the 128 places of connections that have not sent HELLO: 64 + 8/s x 5 s. The first
 * 8 dials over the limit are told so; the next are closed unread.
 */
const DIALS = { burst: 64, perSecond: 8, debt: 8 }

/** The kernel names pid 0 for every process of another PID namespace (a pod), so those of one user share an allowance. */
const UNNAMED_DIALS = { burst: 8 * DIALS.burst, perSecond: 8 * DIALS.perSecond, debt: 8 * DIALS.debt }

/**
 * Registrations that replace a living one of the same process without a RECONNECT. A backend has no reason for any, unless it
 * has given the old one up and the broker has not read the end of it yet: a few are good. One a minute costs nothing.
 */
const REPLACEMENTS = { burst: 4, perSecond: 1 / 60 }

/** By then the broker has read the end of a registration that was given up, and there is nothing to replace. */
const REPLACEMENT_RETRY_MS = 1000

/** How often a process may register: what a backend that dials too often may cost a worker. */
export class RegistrationLimits {
  readonly #dials = new Allowance(DIALS)
  readonly #unnamedDials = new Allowance(UNNAMED_DIALS)
  readonly #replacements = new Allowance(REPLACEMENTS)

  /** A process has connected. */
  dialled({ pid, uid }: PeerCredentials, now: number): Grant {
    return pid === 0 ? this.#unnamedDials.take(String(uid), now) : this.#dials.take(`${uid}/${pid}`, now)
  }

  /**
   * A process registers under an id whose registration lives, and that nothing has asked to do so.
   *
   * @param id ULID
   */
  replaces(id: string, slot: string, now: number): Refusal | undefined {
    if (this.#replacements.take(id, now).kind === 'granted') return undefined
    const message = `this process is registered as ${slot} (${id}), and that registration lives; dial again when it ends, or at its RECONNECT`
    return { code: 'AlreadyRegistered', message, retry: true, retryAfter: REPLACEMENT_RETRY_MS }
  }
}

/** What a process is told that has dialled too often. */
export function tooManyDials({ pid }: PeerCredentials, retryAfter: number): Refusal {
  const message = `process ${pid} dials more often than ${DIALS.perSecond} times a second`
  return { code: 'TooManyRegistrations', message, retry: true, retryAfter }
}
