export interface TokenBucketOptions {
  /** How much may be taken at once. */
  readonly burst: number
  /** How much comes back each second. */
  readonly perSecond: number
  /** How far below zero an account may go: each refusal costs as much as a grant. Default 0: refusals cost nothing. */
  readonly debt?: number
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
  readonly #options: Required<TokenBucketOptions>
  /** In the order of their last use. */
  readonly #accounts = new Map<string, Account>()

  constructor({ burst, perSecond, debt = 0 }: TokenBucketOptions) {
    this.#options = { burst, perSecond, debt }
  }

  get size(): number {
    return this.#accounts.size
  }

  /** @param now milliseconds of a clock that never goes back */
  take(key: string, now: number): RetryAfter {
    const { burst, perSecond, debt } = this.#options
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
    if (debt > 0) account.level = Math.max(account.level - 1, -debt)
    return Math.ceil(((1 - account.level) / perSecond) * 1000)
  }

  /** Whether the debt is as deep as it gets, so that there is nothing new to say. Takes nothing. */
  isExhausted(key: string, now: number): boolean {
    const account = this.#accounts.get(key)
    return account !== undefined && this.#levelOf(account, now) < 1 - this.#options.debt
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
