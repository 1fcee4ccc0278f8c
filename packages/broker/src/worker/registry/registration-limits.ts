import type { PeerCredentials } from '@baton/native-sendmsg'
import { TokenBuckets, type TokenBucketOptions } from './token-buckets.ts'
import type { Refusal } from './admission.ts'

/**
 * HELLOs of one process. 64 at once is more than the backends that most processes have, and those of one with more get in
 * 8 a second, at a cost to the worker of some percent of a processor at most.
 */
const DIALS = { burst: 64, perSecond: 8 }

/**
 * Of HELLOs over the limit, those that are answered, 8 at once and one a second; the connections of a process that has used up both are
 * closed late and unread. An account of its own: if refusals took from what dials get back, a process with a hundred backends that
 * wait would use up all of it, and none of them would ever register.
 */
const REFUSALS = { burst: 8, perSecond: 1 }

/** The kernel names pid 0 for every process of another PID namespace (a pod), so those of one user share what is this much more. */
const UNNAMED_FACTOR = 8

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
  readonly #named = { dials: new TokenBuckets(DIALS), refusals: new TokenBuckets(REFUSALS) }
  readonly #unnamed = { dials: new TokenBuckets(times(DIALS)), refusals: new TokenBuckets(times(REFUSALS)) }
  readonly #replacements = new TokenBuckets(REPLACEMENTS)

  /** Whether a process that connects has dialled so often that it is not worth an answer. */
  isExhausted(peer: PeerCredentials, now: number): boolean {
    const [{ dials, refusals }, key] = this.#accountOf(peer)
    return dials.isEmpty(key, now) && refusals.isEmpty(key, now)
  }

  /** A process has sent HELLO. */
  dialled(peer: PeerCredentials, now: number): Refusal | undefined {
    const [{ dials, refusals }, key] = this.#accountOf(peer)
    const retryAfter = dials.take(key, now)
    if (retryAfter === undefined) return undefined
    refusals.take(key, now)
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
    if (living < (pid === 0 ? MAX_LIVING * UNNAMED_FACTOR : MAX_LIVING)) return undefined
    const message = `process ${pid} has ${living} registrations that live`
    return { code: 'TooManyRegistrations', message, retry: true, retryAfter: REPLACEMENT_RETRY_MS }
  }

  #accountOf({ pid, uid }: PeerCredentials): [Accounts, string] {
    return pid === 0 ? [this.#unnamed, String(uid)] : [this.#named, `${uid}/${pid}`]
  }
}

interface Accounts {
  readonly dials: TokenBuckets
  readonly refusals: TokenBuckets
}

function times({ burst, perSecond }: TokenBucketOptions): TokenBucketOptions {
  return { burst: burst * UNNAMED_FACTOR, perSecond: perSecond * UNNAMED_FACTOR }
}
