/** Short, reused names for backends (`web-1`, `web-2`), so that metric series stay few however often a service is deployed. */
export class Slots {
  readonly #used = new Set<string>()

  /** Returns the backend's previous slot (`before`) if it is free, otherwise the lowest free one. */
  take(service: string, before?: string): string {
    if (before?.startsWith(`${service}-`) === true && !this.#used.has(before)) {
      this.#used.add(before)
      return before
    }
    for (let number = 1; ; number++) {
      const slot = `${service}-${number}`
      if (this.#used.has(slot)) continue
      this.#used.add(slot)
      return slot
    }
  }

  giveBack(slot: string): void {
    this.#used.delete(slot)
  }
}
