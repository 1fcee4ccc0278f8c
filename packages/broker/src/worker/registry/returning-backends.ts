import type { KnownBackends } from '../../ipc/messages.ts'

/** Backends that were registered with a worker that has ended, and register with this one: what answers for them, or takes time that they need, waits. */
export class ReturningBackends {
  readonly #missing: Set<string>
  readonly #isRegistered: (backend: string) => boolean
  readonly #waiting = new Set<() => void>()

  /** @param known those of that worker, by their ids, which they keep. One that drains may be gone for good */
  constructor(known: KnownBackends, isRegistered: (backend: string) => boolean) {
    this.#missing = new Set(Object.keys(known).filter((id) => known[id]?.draining !== true))
    this.#isRegistered = isRegistered
  }

  /** To be called when a backend has registered. */
  changed(): void {
    if (this.#missing.size === 0) return
    for (const backend of this.#missing) if (this.#isRegistered(backend)) this.#missing.delete(backend)
    if (this.#missing.size > 0) return
    for (const resume of this.#waiting) resume()
  }

  /** Resolves once each of them has registered, and after this many milliseconds in any case. */
  async within(milliseconds: number): Promise<void> {
    this.changed()
    if (this.#missing.size === 0) return
    await new Promise<void>((resolve) => {
      const resume = (): void => {
        clearTimeout(timer)
        this.#waiting.delete(resume)
        resolve()
      }
      const timer = setTimeout(resume, milliseconds)
      this.#waiting.add(resume)
    })
  }
}
