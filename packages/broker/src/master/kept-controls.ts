import { type Control, type Controls, isControlled } from '../ipc/controls.ts'

/** Orders of operators, as workers report them: kept for the next worker, program or master. */
export class KeptControls {
  readonly #controls: Map<string, Control>
  readonly #hasService: (name: string) => boolean

  /** @param hasService whether the active configuration has it: what was ordered for a service goes with it */
  constructor(controls: Controls, hasService: (name: string) => boolean) {
    this.#controls = new Map(controls)
    this.#hasService = hasService
  }

  /** Without pauses that are over: workers end them by themselves. */
  get all(): Controls {
    const now = Number(process.hrtime.bigint()) / 1e6
    for (const [service, { paused, maintenance }] of this.#controls) {
      const isOver = paused !== null && paused.until !== null && paused.until <= now
      if (!this.#hasService(service)) this.#controls.delete(service)
      else if (isOver) this.set(service, { paused: null, maintenance })
    }
    return [...this.#controls]
  }

  set(service: string, control: Control): void {
    if (isControlled(control)) this.#controls.set(service, control)
    else this.#controls.delete(service)
  }
}
