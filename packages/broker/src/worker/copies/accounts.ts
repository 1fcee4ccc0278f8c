import { type Account, MAX_NUMBERS, sizeOf, type WrittenAccounts } from '../../ipc/copies.ts'

/** Numbers in their order. */
export interface Numbers {
  push(number: number): void
}

/** Adds what it counts now: one number for a listener, `SERVICE_NUMBERS` for a service. */
export type AccountSource = (numbers: Numbers) => void

/** Of a service or a doorway: connections that came from another process of the broker, and those that went to another worker. */
export interface Moves {
  readonly movedIn: number
  readonly movedOut: number
}

/** Room for an account's moves, and for their number. */
const MOVES = 2
const COUNT = 1

/** As they were pushed last time, and whether any has changed since. In place, because this happens in each round of the event loop. */
class Changes implements Numbers {
  readonly #values: Float64Array
  #next = 0
  #haveChanged = true

  constructor(size: number) {
    this.#values = new Float64Array(size)
  }

  /** Borrowed. */
  get values(): Float64Array {
    return this.#values
  }

  begin(): void {
    this.#next = 0
  }

  push(number: number): void {
    const at = this.#next++
    if (this.#values[at] === number) return
    this.#values[at] = number
    this.#haveChanged = true
  }

  /** @returns all of them, if one has changed since the last call; borrowed */
  take(): Float64Array | undefined {
    if (!this.#haveChanged) return undefined
    this.#haveChanged = false
    return this.#values
  }
}

/** The counts by which each connection has exactly one outcome (I4, M9), written out whenever one of them has changed. */
export class Accounts {
  readonly #write: (numbers: Float64Array) => void
  readonly #layout: Account[] = []
  readonly #sources: AccountSource[] = []
  readonly #moves: (() => Moves)[] = []
  #size = COUNT
  #numbers = new Changes(COUNT)
  #areWritten = false

  /** @param write its argument is only valid during the call */
  constructor(write: (numbers: Float64Array) => void) {
    this.#write = write
  }

  get layout(): readonly Account[] {
    return this.#layout
  }

  /**
   * @param moves of all but listeners
   * @returns false if there is no room for it
   */
  add(account: Account, source: AccountSource, moves?: () => Moves): boolean {
    const size = sizeOf(account) + (moves === undefined ? 0 : MOVES)
    if (this.#size + size > MAX_NUMBERS) return false
    this.#size += size
    this.#layout.push(account)
    this.#sources.push(source)
    if (moves !== undefined) this.#moves.push(moves)
    this.begin()
    // Before another process has the layout: by the new one, what was written before would be misread.
    if (this.#areWritten) this.write()
    return true
  }

  /** As it was written last. */
  get written(): WrittenAccounts {
    return { layout: this.#layout, content: [...this.#numbers.values] }
  }

  /** All of them are to be written, though they may be the same: there are more of them, or it is another file. */
  begin(): void {
    this.#numbers = new Changes(this.#size)
  }

  write(): void {
    const numbers = this.#numbers
    numbers.begin()
    for (const source of this.#sources) source(numbers)
    numbers.push(MOVES * this.#moves.length)
    for (const moves of this.#moves) {
      const { movedIn, movedOut } = moves()
      numbers.push(movedIn)
      numbers.push(movedOut)
    }
    this.#areWritten = true
    const changed = numbers.take()
    if (changed !== undefined) this.#write(changed)
  }
}
