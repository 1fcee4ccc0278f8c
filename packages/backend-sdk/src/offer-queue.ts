import type { Offer } from './protocol/index.ts'

/** The array is compacted when its empty places reach this number, or the number of offers if that is greater. */
const MAX_EMPTY = 256

/**
 * Offers, oldest first. Descriptors arrive in the same order, so it is nearly always the first that is removed.
 *
 * Not a Map: it allocates a new table for every few dozen entries that come and go, and an old table keeps its entries alive.
 */
export class OfferQueue {
  #places: (Offer | undefined)[] = []
  #first = 0
  #size = 0

  get size(): number {
    return this.#size
  }

  push(offer: Offer): void {
    this.#places.push(offer)
    this.#size += 1
  }

  /** Removes and returns the oldest offer that `matches`. */
  takeFirst(matches: (offer: Offer) => boolean): Offer | undefined {
    for (let at = this.#first; at < this.#places.length; at++) {
      const offer = this.#places[at]
      if (offer === undefined || !matches(offer)) continue
      this.#remove(at)
      return offer
    }
    return undefined
  }

  clear(): void {
    this.#places = []
    this.#first = 0
    this.#size = 0
  }

  #remove(at: number): void {
    this.#places[at] = undefined
    this.#size -= 1
    if (this.#size === 0) return this.clear()
    while (this.#places[this.#first] === undefined) this.#first += 1
    // Empty places also collect behind an offer that stays, and every search passes them.
    if (this.#places.length - this.#size < Math.max(MAX_EMPTY, this.#size)) return
    this.#places = this.#places.filter((offer) => offer !== undefined)
    this.#first = 0
  }
}
