export type Activity = 'start' | 'reload' | 'deploy' | 'stop'

/** What goes on in a master that excludes other changes. The one that comes second is refused by name; a stop takes any place. */
export class Occupation {
  #activity: Activity | undefined = 'start'

  get activity(): Activity | undefined {
    return this.#activity
  }

  /** Why nothing else may begin; undefined when it may. */
  get refusal(): string | undefined {
    return this.#activity === undefined ? undefined : `a ${this.#activity} is going on`
  }

  begin(activity: Activity): void {
    this.#activity = activity
  }

  /** A stop that has begun meanwhile goes on. */
  end(activity: Activity): void {
    if (this.#activity === activity) this.#activity = undefined
  }
}
