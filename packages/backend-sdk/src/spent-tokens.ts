/** Words of an entry: whether it is used, then the token. */
const STRIDE = 5
const MIN_CAPACITY = 64

/**
 * The tokens that were spent, for at least the time given, in constant memory for each and none of it on the heap of
 * JavaScript: thousands of strings a second that live for some seconds each were the dearest garbage of an adoption.
 *
 * Two tables take turns, and the older one is forgotten as a whole. Tokens are random, so the first bytes are the hash.
 */
export class SpentTokens {
  readonly #keep: bigint
  #young = new Table(MIN_CAPACITY)
  #old = new Table(MIN_CAPACITY)
  #turn: bigint | undefined

  /** @param keep nanoseconds for which a token is remembered at least, and twice that at most */
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

  /** Where it is, or the free place where it would be. */
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
