import { type Account, MAX_NUMBERS, sizeOf } from '../../ipc/copies.ts'

/** Adds what it counts now to the list: one number for a listener, `SERVICE_NUMBERS` for a service. */
export type AccountSource = (numbers: number[]) => void

/** The counts by which each connection has exactly one outcome (I4, M9), written out whenever one of them has changed. */
export class Accounts {
  readonly #write: (numbers: Float64Array) => void
  readonly #layout: Account[] = []
  readonly #sources: AccountSource[] = []
  #size = 0
  #last: Float64Array = new Float64Array(0)

  constructor(write: (numbers: Float64Array) => void) {
    this.#write = write
  }

  get layout(): readonly Account[] {
    return this.#layout
  }

  /** @returns false if there is no room for it */
  add(account: Account, source: AccountSource): boolean {
    const size = sizeOf(account)
    if (this.#size + size > MAX_NUMBERS) return false
    this.#size += size
    this.#layout.push(account)
    this.#sources.push(source)
    return true
  }

  /** All of them are to be written to another file. */
  begin(): void {
    this.#last = new Float64Array(0)
  }

  write(): void {
    const numbers: number[] = []
    for (const source of this.#sources) source(numbers)
    if (numbers.length === this.#last.length && numbers.every((each, index) => each === this.#last[index]))
      return
    this.#last = Float64Array.from(numbers)
    this.#write(this.#last)
  }
}
