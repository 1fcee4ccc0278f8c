/** 32-bit words per entry: one that says whether the entry is used, and four of the token. */
const STRIDE = 5
const MIN_CAPACITY = 64

/**
 * Remembers spent tokens for at least a given time, in typed arrays outside the JavaScript heap: keeping thousands of short-lived
 * strings per second was the most expensive allocation on the adoption path.
 *
 * Two tables rotate, and the older one is dropped as a whole. Tokens are random, so their first bytes serve as the hash.
 */
export class SpentTokens {
  readonly #keep: bigint
  #young = new Table(MIN_CAPACITY)
  #old = new Table(MIN_CAPACITY)
  #turn: bigint | undefined

  /** @param keep how long to remember a token, in nanoseconds: at least this long, and usually at most twice as long */
  constructor(keep: bigint) {
    this.#keep = keep
  }

  has(token: Buffer): boolean {
    return this.#young.has(token) || this.#old.has(token)
  }

  add(token: Buffer, now: bigint): void {
    this.forget(now)
    this.#young.add(token)
  }

  forget(now: bigint): void {
    this.#turn ??= now + this.#keep
    if (now < this.#turn) return
    this.#turn = now + this.#keep
    this.#old = this.#young
    this.#young = new Table(this.#old.size * 2)
  }
}

/** An open-addressed set of 16-byte tokens, at most half full. */
class Table {
  size = 0
  #words: Int32Array
  #mask: number

  constructor(atLeast: number) {
    const capacity = 2 ** Math.ceil(Math.log2(Math.max(MIN_CAPACITY, atLeast)))
    this.#words = new Int32Array(capacity * STRIDE)
    this.#mask = capacity - 1
  }

  has(token: Buffer): boolean {
    return this.#words[this.#find(...wordsOf(token))] === 1
  }

  add(token: Buffer): void {
    if ((this.size + 1) * 2 > this.#mask + 1) this.#grow()
    this.#put(...wordsOf(token))
  }

  #put(a: number, b: number, c: number, d: number): void {
    const at = this.#find(a, b, c, d)
    if (this.#words[at] === 1) return
    this.#words[at] = 1
    this.#words[at + 1] = a
    this.#words[at + 2] = b
    this.#words[at + 3] = c
    this.#words[at + 4] = d
    this.size += 1
  }

  /** Index of the token's entry, or of the free entry where it belongs. */
  #find(a: number, b: number, c: number, d: number): number {
    const words = this.#words
    for (let index = a & this.#mask; ; index = (index + 1) & this.#mask) {
      const at = index * STRIDE
      if (words[at] === 0) return at
      if (words[at + 1] === a && words[at + 2] === b && words[at + 3] === c && words[at + 4] === d) return at
    }
  }

  #grow(): void {
    const before = this.#words
    const larger = new Table((this.#mask + 1) * 2)
    for (let at = 0; at < before.length; at += STRIDE) {
      if (before[at] === 1) {
        larger.#put(
          before[at + 1] as number,
          before[at + 2] as number,
          before[at + 3] as number,
          before[at + 4] as number,
        )
      }
    }
    this.#words = larger.#words
    this.#mask = larger.#mask
  }
}

function wordsOf(token: Buffer): [number, number, number, number] {
  return [token.readInt32LE(0), token.readInt32LE(4), token.readInt32LE(8), token.readInt32LE(12)]
}
