/** Ends at a tick, a whole number. Linked to the others of its tick: a `Set` for each would take twice the memory. */
export interface Ending {
  /** Infinity for never. Must not change. */
  readonly tick: number
  next: this | undefined
  previous: this | undefined
}

/** Entries by the tick at which they end. Adding and removing take the same time, however many there are. */
export class Deadlines<T extends Ending> {
  /** The last one that was added for each tick. */
  readonly #last = new Map<number, T>()

  get isEmpty(): boolean {
    return this.#last.size === 0
  }

  add(entry: T): void {
    if (!Number.isFinite(entry.tick)) return
    const last = this.#last.get(entry.tick)
    entry.previous = last
    if (last !== undefined) last.next = entry
    this.#last.set(entry.tick, entry)
  }

  /** To be called once for each entry. */
  remove(entry: T): void {
    const { tick, next, previous } = entry
    if (previous !== undefined) previous.next = next
    if (next !== undefined) next.previous = previous
    else if (previous !== undefined) this.#last.set(tick, previous)
    else this.#last.delete(tick)
    entry.next = undefined
    entry.previous = undefined
  }

  /** All whose time is over at `tick`, in the order in which they were added to each tick. They stay until they are removed. */
  due(tick: number): T[] {
    const due: T[] = []
    for (const [end, last] of this.#last) {
      if (end > tick) continue
      const from = due.length
      for (let entry: T | undefined = last; entry !== undefined; entry = entry.previous) due.push(entry)
      // Not push(...): there may be more than a call takes arguments.
      for (const entry of due.splice(from).toReversed()) due.push(entry)
    }
    return due
  }
}
