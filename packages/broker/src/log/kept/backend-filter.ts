import type { OutputLine } from './line.ts'

/**
 * Selects the lines of one backend, by its instance (`web.1`), its slot (`web-1`) or its ULID. A process has its slot from its registration on;
 * its earlier lines are found once a later one was seen.
 */
export class BackendFilter {
  readonly #name: string
  /** ULIDs of the processes that had the slot. */
  readonly #ids = new Set<string>()

  constructor(name: string) {
    this.#name = name
  }

  matches({ instance, backend, slot }: OutputLine): boolean {
    if (slot === this.#name) this.#ids.add(backend)
    return instance === this.#name || backend === this.#name.toUpperCase() || this.#ids.has(backend)
  }
}
