/** Refusals repeat at each dial of the same process; this many different ones are remembered. */
const MAX_REMEMBERED = 1000

/** Says whether something is new. Forgets the oldest when it has seen too much. */
export class LogOnce {
  readonly #seen = new Set<string>()

  isNew(key: string): boolean {
    if (this.#seen.has(key)) return false
    if (this.#seen.size >= MAX_REMEMBERED) this.#seen.delete(this.#seen.values().next().value as string)
    this.#seen.add(key)
    return true
  }
}
