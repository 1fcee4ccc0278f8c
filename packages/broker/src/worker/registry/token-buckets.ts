export interface TokenBucketOptions {
  /** How much may be taken at once. */
  readonly burst: number
  /** How much comes back each second. */
  readonly perSecond: number
}

/** Milliseconds until the next one is granted; undefined when this one is. */
export type RetryAfter = number | undefined

/** Accounts that are full again say nothing and are forgotten. If this many are not, the oldest is forgotten. */
const MAX_ACCOUNTS = 4096

interface Account {
  level: number
  /** When `level` was right, in milliseconds. */
  at: number
}

/** Token buckets, one for each key. Pure: the caller says what time it is. */
export class TokenBuckets {
  readonly #options: TokenBucketOptions
  /** In the order of their last use. */
  readonly #accounts = new Map<string, Account>()

  constructor(options: TokenBucketOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#accounts.size
  }

  /** A refusal costs nothing. @param now milliseconds of a clock that never goes back */
  take(key: string, now: number): RetryAfter {
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

  /** Whether `take` would refuse. Takes nothing. */
  isEmpty(key: string, now: number): boolean {
    const account = this.#accounts.get(key)
    return account !== undefined && this.#levelOf(account, now) < 1
  }

  #levelOf({ level, at }: Account, now: number): number {
    const { burst, perSecond } = this.#options
    return Math.min(burst, level + ((now - at) / 1000) * perSecond)
  }

  /** A few at each use, so that no call is long: more leave than come. */
  #forget(now: number): void {
    let looked = 0
    for (const [key, account] of this.#accounts) {
      const full = this.#levelOf(account, now) >= this.#options.burst
      if (!full && this.#accounts.size <= MAX_ACCOUNTS) return
      this.#accounts.delete(key)
      if (++looked === 2) return
    }
  }
}
