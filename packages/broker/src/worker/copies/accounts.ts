import { type Account, MAX_NUMBERS, sizeOf } from '../../ipc/copies.ts'

/** Adds what it counts now to the list: one number for a listener, `SERVICE_NUMBERS` for a service. */
export type AccountSource = (numbers: number[]) => void

/** Of a service or a doorway: connections that came from another process of the broker, and those that went to another worker. */
export interface Moves {
  readonly movedIn: number
  readonly movedOut: number
}

/** Room for an account's moves, and for their number. */
const MOVES = 2
const COUNT = 1

/** The counts by which each connection has exactly one outcome (I4, M9), written out whenever one of them has changed. */
export class Accounts {
  readonly #write: (numbers: Float64Array) => void
  readonly #layout: Account[] = []
  readonly #sources: AccountSource[] = []
  readonly #moves: (() => Moves)[] = []
  #size = COUNT
  #last: Float64Array = new Float64Array(0)

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
    return true
  }

  /** All of them are to be written to another file. */
  begin(): void {
    this.#last = new Float64Array(0)
  }

  write(): void {
    const numbers: number[] = []
    for (const source of this.#sources) source(numbers)
    numbers.push(MOVES * this.#moves.length)
    for (const moves of this.#moves) {
      const { movedIn, movedOut } = moves()
      numbers.push(movedIn, movedOut)
    }
    if (numbers.length === this.#last.length && numbers.every((each, index) => each === this.#last[index]))
      return
    this.#last = Float64Array.from(numbers)
    this.#write(this.#last)
  }
}
