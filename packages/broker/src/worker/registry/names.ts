import { isSameProcess, type PeerProcess, processExists } from '../../supervise/proc.ts'

/** Ids of backends that have gone are remembered up to this many, the newest. */
const MAX_REMEMBERED = 4096

/**
 * Which process each backend's id belongs to: the one that first registered under it, whatever another one says in its HELLO. An id is
 * no secret.
 */
export class Bindings {
  readonly #processes = new Map<string, PeerProcess>()

  bind(id: string, process: PeerProcess): void {
    this.#processes.delete(id)
    this.#processes.set(id, process)
    if (this.#processes.size > MAX_REMEMBERED)
      this.#processes.delete(this.#processes.keys().next().value as string)
  }

  /** Whether `process` may register under `id`: it did before, or no process did. */
  allows(id: string, process: PeerProcess): boolean {
    const bound = this.#processes.get(id)
    return bound === undefined || isSameProcess(bound, process)
  }

  /** The process that the id belongs to has ended. */
  isFree(id: string): boolean {
    const bound = this.#processes.get(id)
    return bound === undefined || (bound.pid > 0 && !processExists(bound.pid))
  }
}

/** Small, reused names for backends (`web-1`, `web-2`): metric series stay few however often a service is deployed. */
export class Slots {
  readonly #used = new Set<string>()

  /** The one that it had (`before`), if that is free, or the lowest that is. */
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
