import type { Offer } from './protocol/index.ts'

/** So many places that offers have left are kept, or as many as there are offers, before the rest moves up. */
const MAX_EMPTY = 256

/**
 * Offers in the order in which they were made, which is also the order in which their descriptors come: nearly always the
 * first is the one that leaves. (A Map makes a new table for every few dozen that come and go, and an old table keeps alive
 * what was in it.)
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

  /** Takes the oldest that `matches`. */
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
    // Also those behind an offer that stays: each search goes through them.
    if (this.#places.length - this.#size < Math.max(MAX_EMPTY, this.#size)) return
    this.#places = this.#places.filter((offer) => offer !== undefined)
    this.#first = 0
  }
}
