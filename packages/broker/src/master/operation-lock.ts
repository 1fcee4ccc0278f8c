export type Operation = 'start' | 'reload' | 'deploy' | 'scale' | 'replacement' | 'stop'

/**
 * The operation that a master is executing, which excludes others: a deploy is refused with the name of the current operation, a
 * reload waits (`Reloads`), and a stop replaces any other. The replacement of a single process, which the broker begins by itself, gives way.
 */
export class OperationLock {
  #activity: Operation | undefined = 'start'
  #changed: (activity: Operation | undefined) => void = () => {}
  readonly #waiting = new Set<() => void>()
  #giveWay: (() => void) | undefined

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

  /** Before an operation of an operator: ends a replacement, which is tried again later. */
  claim(): void {
    this.#giveWay?.()
  }

  /** @param giveWay ends the operation at once, for another one; absent: it cannot */
  begin(activity: Operation, giveWay?: () => void): void {
    this.claim()
    this.#giveWay = giveWay
    this.#activity = activity
    this.#changed(activity)
  }

  /** Does nothing if a stop has begun meanwhile. */
  end(activity: Operation): void {
    if (this.#activity !== activity) return
    this.#activity = undefined
    this.#giveWay = undefined
    this.#changed(undefined)
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}
