/** Maximum keys remembered. */
const MAX_REMEMBERED = 1000

/** Whether a key is new, so that refusals repeated at each dial are logged once. Forgets the oldest key when full. */
export class LogOnce {
  readonly #seen = new Set<string>()

  isNew(key: string): boolean {
    if (this.#seen.has(key)) return false
    if (this.#seen.size >= MAX_REMEMBERED) this.#seen.delete(this.#seen.values().next().value as string)
    this.#seen.add(key)
    return true
  }
}
