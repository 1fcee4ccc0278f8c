import type { PeerCredentials } from '@baton/native-sendmsg'
import { TokenBuckets, type TokenBucketOptions } from './token-buckets.ts'
import type { Refusal } from './admission.ts'

/**
 * HELLOs of one process. A burst of 64 exceeds the backends of most processes; the rest of a larger process register at 8 a
 * second, which costs the worker a few percent of a processor at most.
 */
const DIALS = { burst: 64, perSecond: 8 }

/**
 * HELLOs over the limit that are answered: 8 at once, then one a second. Once a process has used up both limits, its connections
 * are closed late and unread. Refusals have their own bucket: if they used up the tokens of dials, a process with a hundred waiting
 * backends would spend all of them, and none would ever register.
 */
const REFUSALS = { burst: 8, perSecond: 1 }

/** The kernel reports pid 0 for all processes of another pid namespace (a pod), so those of one user share limits this much higher. */
const UNNAMED_FACTOR = 8

/**
 * Registrations that replace an open one of the same process without a RECONNECT. A backend needs this only if it has given up the
 * old one and the broker has not read its end yet, so a few are allowed. One a minute costs nothing.
 */
const REPLACEMENTS = { burst: 4, perSecond: 1 / 60 }

/**
 * Maximum open registrations of one process: far more than a process has backends, and over a thousand of the worker's descriptors.
 * Without this limit, a backend that omits its id and dials once too often would double them at each reload.
 */
const MAX_OPEN = 256

/** By then the broker has read the end of a registration that was given up, so nothing needs to be replaced. */
const REPLACEMENT_RETRY_MS = 1000

/** Limits how often a process may register, and so what a backend that dials too often can cost a worker. */
export class RegistrationLimits {
  readonly #named = { dials: new TokenBuckets(DIALS), refusals: new TokenBuckets(REFUSALS) }
  readonly #unnamed = { dials: new TokenBuckets(times(DIALS)), refusals: new TokenBuckets(times(REFUSALS)) }
  readonly #replacements = new TokenBuckets(REPLACEMENTS)

  /** Whether a process that connects has used up both its dials and its refusals. */
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
   * A process registers under an id that is still registered, without having been asked to.
   *
   * @param id ULID
   */
  replaces(id: string, slot: string, now: number): Refusal | undefined {
    if (this.#replacements.take(id, now) === undefined) return undefined
    const message = `this process is already registered as ${slot} (${id}); dial again when that registration ends or receives RECONNECT`
    return { code: 'AlreadyRegistered', message, retry: true, retryAfter: REPLACEMENT_RETRY_MS }
  }

  /** @param open registrations that this process has, none of them under the id in its HELLO */
  adds({ pid }: PeerCredentials, open: number): Refusal | undefined {
    if (open < (pid === 0 ? MAX_OPEN * UNNAMED_FACTOR : MAX_OPEN)) return undefined
    const message = `process ${pid} already has ${open} registrations`
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
