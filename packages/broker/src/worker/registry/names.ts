import { isSameProcess, type PeerProcess, processExists } from '../../supervise/proc.ts'

/** Maximum ids remembered; beyond that the oldest is forgotten. */
const MAX_REMEMBERED = 4096

/**
 * Which process each backend id belongs to: the one that first registered under it, whatever another process claims in its HELLO.
 * Ids are not secret.
 */
export class Bindings {
  readonly #processes = new Map<string, PeerProcess>()

  bind(id: string, process: PeerProcess): void {
    this.#processes.delete(id)
    this.#processes.set(id, process)
    if (this.#processes.size > MAX_REMEMBERED)
      this.#processes.delete(this.#processes.keys().next().value as string)
  }

  /** Whether `process` may register under `id`: it did so before, or no process did. */
  allows(id: string, process: PeerProcess): boolean {
    const bound = this.#processes.get(id)
    return bound === undefined || isSameProcess(bound, process)
  }

  /** Whether the process that the id belongs to has exited, or there is none. */
  isFree(id: string): boolean {
    const bound = this.#processes.get(id)
    return bound === undefined || (bound.pid > 0 && !processExists(bound.pid))
  }
}

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
