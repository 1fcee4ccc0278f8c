export type Operation = 'start' | 'reload' | 'deploy' | 'stop'

/**
 * The operation that a master is executing, which excludes others: a deploy is refused with the name of the current operation, a
 * reload waits (`Reloads`), and a stop replaces any other.
 */
export class OperationLock {
  #activity: Operation | undefined = 'start'
  #changed: (activity: Operation | undefined) => void = () => {}
  readonly #waiting = new Set<() => void>()

  get activity(): Operation | undefined {
    return this.#activity
  }

  /** Why no operation may begin now; undefined if one may. */
  get refusal(): string | undefined {
    return this.#activity === undefined ? undefined : `a ${this.#activity} is already in progress`
  }

  /** Calls `changed` after each change, with the current operation. */
  watch(changed: (activity: Operation | undefined) => void): void {
    this.#changed = changed
  }

  /** Resolves when an operation may begin. Never resolves once a stop has begun. */
  async idle(): Promise<void> {
    while (this.#activity !== undefined) await new Promise<void>((resolve) => this.#waiting.add(resolve))
  }

  begin(activity: Operation): void {
    this.#activity = activity
    this.#changed(activity)
  }

  /** Does nothing if a stop has begun meanwhile. */
  end(activity: Operation): void {
    if (this.#activity !== activity) return
    this.#activity = undefined
    this.#changed(undefined)
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}
