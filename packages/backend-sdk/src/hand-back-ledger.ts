/**
 * The connections that one session has handed back, without any I/O.
 *
 *     handed back -- TAKEN ------------------> the broker's -- SETTLED --> over
 *                 -- GIVEN_BACK -------------> this process's again
 *                 -- control ends without TAKEN -> this process's again
 *
 * Each value that goes in comes out of exactly one of `taken`, `givenBack` and `end`; the caller then owns it.
 */
export class HandBackLedger<T> {
  readonly #window: number
  /** By sequence: no TAKEN, no GIVEN_BACK yet. */
  readonly #open = new Map<number, T>()
  /** Taken, and not settled. */
  readonly #taken = new Set<number>()
  #lastSequence = 0

  /** @param window greatest number of hand-backs that are neither settled nor given back */
  constructor(window: number) {
    this.#window = window
  }

  /** Hand-backs that may be added now. */
  get room(): number {
    return Math.max(0, this.#window - this.unsettled)
  }

  /** Hand-backs that are neither settled nor given back. */
  get unsettled(): number {
    return this.#open.size + this.#taken.size
  }

  /** Hand-backs that the broker has not answered: this process keeps a duplicate of each. */
  get unanswered(): number {
    return this.#open.size
  }

  /** The sequence of the oldest of these. */
  get oldestUnanswered(): number | undefined {
    const [oldest] = this.#open.keys()
    return oldest
  }

  /** @returns its sequence */
  add(value: T): number {
    this.#lastSequence += 1
    this.#open.set(this.#lastSequence, value)
    return this.#lastSequence
  }

  /** TAKEN: the values that were open under these sequences. */
  taken(sequences: readonly number[]): T[] {
    return sequences.flatMap((sequence) => {
      const found = this.#open.has(sequence)
      if (found) this.#taken.add(sequence)
      return found ? this.#remove(sequence) : []
    })
  }

  /** GIVEN_BACK: the value under this sequence; undefined when it is not open. */
  givenBack(sequence: number): T | undefined {
    return this.#open.has(sequence) ? this.#remove(sequence) : undefined
  }

  settled(sequence: number): void {
    this.#taken.delete(sequence)
  }

  /** Control has ended: what holds no TAKEN, in the order of handing back. The ledger is empty afterwards. */
  end(): T[] {
    const rest = [...this.#open.values()]
    this.#open.clear()
    this.#taken.clear()
    return rest
  }

  #remove(sequence: number): T {
    const value = this.#open.get(sequence) as T
    this.#open.delete(sequence)
    return value
  }
}
