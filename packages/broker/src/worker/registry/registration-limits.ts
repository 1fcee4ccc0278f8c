import type { PeerCredentials } from '@baton/native-sendmsg'
import { TokenBuckets } from './token-buckets.ts'
import type { Refusal } from './admission.ts'

/**
 * HELLOs of one process. 64 at once is more than the backends that a process has; 8 a second is more than ten of them need that
 * are refused (the SDK dials each 1 to 2 s), and costs the worker some percent of a processor at most. The first 8 over the
 * limit are told so; then connections of that process are closed late and unread.
 */
const DIALS = { burst: 64, perSecond: 8, debt: 8 }

/** The kernel names pid 0 for every process of another PID namespace (a pod), so those of one user share an allowance. */
const UNNAMED_DIALS = { burst: 8 * DIALS.burst, perSecond: 8 * DIALS.perSecond, debt: 8 * DIALS.debt }

/**
 * Registrations that replace a living one of the same process without a RECONNECT. A backend has no reason for any, unless it
 * has given the old one up and the broker has not read the end of it yet: a few are good. One a minute costs nothing.
 */
const REPLACEMENTS = { burst: 4, perSecond: 1 / 60 }

/**
 * Registrations of one process that live at a time: far more than the backends that a process has, and a thousand of the worker's
 * descriptors. A backend that leaves its id out, and dials once too often, would otherwise double them at each reload.
 */
const MAX_LIVING = 256

/** By then the broker has read the end of a registration that was given up, and there is nothing to replace. */
const REPLACEMENT_RETRY_MS = 1000

/** How often a process may register: what a backend that dials too often may cost a worker. */
export class RegistrationLimits {
  readonly #dials = new TokenBuckets(DIALS)
  readonly #unnamedDials = new TokenBuckets(UNNAMED_DIALS)
  readonly #replacements = new TokenBuckets(REPLACEMENTS)

  /** Whether a process that connects has dialled so often that it is not worth an answer. */
  isExhausted(peer: PeerCredentials, now: number): boolean {
    const [allowance, key] = this.#accountOf(peer)
    return allowance.isExhausted(key, now)
  }

  /** A process has sent HELLO. */
  dialled(peer: PeerCredentials, now: number): Refusal | undefined {
    const [allowance, key] = this.#accountOf(peer)
    const retryAfter = allowance.take(key, now)
    if (retryAfter === undefined) return undefined
    const message = `process ${peer.pid} dials more often than ${DIALS.perSecond} times a second`
    return { code: 'TooManyRegistrations', message, retry: true, retryAfter }
  }

  /**
   * A process registers under an id whose registration lives, and that nothing has asked to do so.
   *
   * @param id ULID
   */
  replaces(id: string, slot: string, now: number): Refusal | undefined {
    if (this.#replacements.take(id, now) === undefined) return undefined
    const message = `this process is registered as ${slot} (${id}), and that registration lives; dial again when it ends, or at its RECONNECT`
    return { code: 'AlreadyRegistered', message, retry: true, retryAfter: REPLACEMENT_RETRY_MS }
  }

  /** @param living registrations of this process, none of them under the id of its HELLO */
  adds({ pid }: PeerCredentials, living: number): Refusal | undefined {
    if (pid === 0 || living < MAX_LIVING) return undefined
    const message = `process ${pid} has ${living} registrations that live`
    return { code: 'TooManyRegistrations', message, retry: true, retryAfter: REPLACEMENT_RETRY_MS }
  }

  #accountOf({ pid, uid }: PeerCredentials): [TokenBuckets, string] {
    return pid === 0 ? [this.#unnamedDials, String(uid)] : [this.#dials, `${uid}/${pid}`]
  }
}
