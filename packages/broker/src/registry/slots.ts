/** Small, reused names for backends (`web-1`, `web-2`): metric series stay few however often a service is deployed. */
export class Slots {
  readonly #used = new Set<string>()

  /** The lowest that is free. */
  take(service: string): string {
    for (let number = 1; ; number++) {
      const slot = `${service}-${number}`
      if (this.#used.has(slot)) continue
      this.#used.add(slot)
      return slot
    }
  }

  release(slot: string): void {
    this.#used.delete(slot)
  }
}
