export interface TokenBucketOptions {
  /** Tokens in a full bucket. */
  readonly burst: number
  /** Tokens added per second. */
  readonly perSecond: number
  /** Maximum buckets that are remembered. Default: 4096. */
  readonly maxAccounts?: number
}

/** Milliseconds until a token is available; undefined if one was taken. */
export type RetryAfter = number | undefined

/** Full buckets are forgotten, since a new one is full, too. Beyond this many, the least recently used is forgotten. */
const MAX_ACCOUNTS = 4096

interface Account {
  level: number
  /** When `level` was computed, in milliseconds. */
  at: number
}

/** Token buckets, one per key. The caller supplies the time. */
export class TokenBuckets<Key = string> {
  readonly #options: TokenBucketOptions
  /** Least recently used first. */
  readonly #accounts = new Map<Key, Account>()

  constructor(options: TokenBucketOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#accounts.size
  }

  /** A refusal takes nothing. @param now milliseconds of a monotonic clock */
  take(key: Key, now: number): RetryAfter {
    const { burst, perSecond } = this.#options
    const account = this.#accounts.get(key) ?? { level: burst, at: now }
    account.level = this.#levelOf(account, now)
    account.at = now
    this.#accounts.delete(key)
    this.#forget(now)
    this.#accounts.set(key, account)
    if (account.level >= 1) {
      account.level -= 1
      return undefined
    }
    return Math.ceil(((1 - account.level) / perSecond) * 1000)
  }

  /** Whether `take` would refuse. */
  isEmpty(key: Key, now: number): boolean {
    const account = this.#accounts.get(key)
    return account !== undefined && this.#levelOf(account, now) < 1
  }

  #levelOf({ level, at }: Account, now: number): number {
    const { burst, perSecond } = this.#options
    return Math.min(burst, level + ((now - at) / 1000) * perSecond)
  }

  /** Forgets up to two per call, so that no call takes long; a call adds at most one. */
  #forget(now: number): void {
    let forgotten = 0
    for (const [key, account] of this.#accounts) {
      const full = this.#levelOf(account, now) >= this.#options.burst
      if (!full && this.#accounts.size <= (this.#options.maxAccounts ?? MAX_ACCOUNTS)) return
      this.#accounts.delete(key)
      if (++forgotten === 2) return
    }
  }
}
