/** An entry and its place in the list; -1 while it is in none. */
export interface Placed {
  index: number
}

/**
 * A list of entries that live as long as a connection, of which thousands come and go per second: on removal the last entry moves into the gap. A Set or a
 * Map allocates a new table for every few dozen of them. An old table that V8 has promoted keeps its entries alive, which doubled the
 * surviving garbage.
 */
export class DenseList<T extends Placed> {
  readonly #entries: T[] = []

  get size(): number {
    return this.#entries.length
  }

  /** Those of now: entries that are removed meanwhile leave the list, and not this copy. */
  all(): T[] {
    return this.#entries.slice()
  }

  add(entry: T): void {
    entry.index = this.#entries.length
    this.#entries.push(entry)
  }

  /** Returns whether it was in the list. */
  remove(entry: T): boolean {
    const { index } = entry
    if (index === -1) return false
    entry.index = -1
    const last = this.#entries.pop()
    if (last !== undefined && last !== entry) {
      last.index = index
      this.#entries[index] = last
    }
    return true
  }
}
