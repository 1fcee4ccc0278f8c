export type Operation = 'start' | 'reload' | 'deploy' | 'stop'

/**
 * What goes on in a master that excludes other changes. A deploy that comes second is refused by name, a reload waits (`Reloads`),
 * and a stop takes any place.
 */
export class OperationLock {
  #activity: Operation | undefined = 'start'
  #changed: (activity: Operation | undefined) => void = () => {}
  readonly #waiting = new Set<() => void>()

  get activity(): Operation | undefined {
    return this.#activity
  }

  /** Why nothing else may begin; undefined when it may. */
  get refusal(): string | undefined {
    return this.#activity === undefined ? undefined : `a ${this.#activity} is going on`
  }

  /** `changed` is called after each change, with what goes on now. */
  watch(changed: (activity: Operation | undefined) => void): void {
    this.#changed = changed
  }

  /** Resolves when something may begin; never once a stop has begun. */
  async idle(): Promise<void> {
    while (this.#activity !== undefined) await new Promise<void>((resolve) => this.#waiting.add(resolve))
  }

  begin(activity: Operation): void {
    this.#activity = activity
    this.#changed(activity)
  }

  /** A stop that has begun meanwhile goes on. */
  end(activity: Operation): void {
    if (this.#activity !== activity) return
    this.#activity = undefined
    this.#changed(undefined)
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}
