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
