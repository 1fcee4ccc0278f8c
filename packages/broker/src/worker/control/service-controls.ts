import type { Clock, Timer } from '@baton/backend-sdk/protocol'
import { type Control, type Controls, isControlled, NO_CONTROL } from '../../ipc/controls.ts'

/** A service that operators can pause, or put into maintenance. */
export interface Controllable {
  readonly name: string
  control(control: Control): void
}

export interface ControlHost {
  service(name: string): Controllable | undefined
  /** An operator has changed it here: the other processes of the broker have to know. */
  changed(service: string, control: Control): void
  /** Its pause is over by itself. */
  pauseOver(service: string): void
}

/** How operators have paused services, or put them into maintenance; see `Controls`. A pause ends by itself, in whichever worker it is. */
export class ServiceControls {
  readonly #host: ControlHost
  readonly #clock: Pick<Clock, 'setTimeout' | 'clear'>
  /** CLOCK_MONOTONIC in ms. */
  readonly #now: () => number
  readonly #controls = new Map<string, Control>()
  readonly #timers = new Map<string, Timer>()

  constructor(host: ControlHost, clock: Pick<Clock, 'setTimeout' | 'clear'>, now: () => number) {
    this.#host = host
    this.#clock = clock
    this.#now = now
  }

  /** Services without any are left out. */
  get all(): Controls {
    return [...this.#controls]
  }

  of(service: string): Control {
    return this.#controls.get(service) ?? NO_CONTROL
  }

  /** Milliseconds until a pause ends; null for one that does not end by itself. */
  left({ until }: { readonly until: number | null }): number | null {
    return until === null ? null : Math.max(0, until - this.#now())
  }

  /** An operator's change, made here. @returns what applies now */
  change(service: string, change: Partial<Control>): Control {
    const control = { ...this.of(service), ...change }
    this.accept(service, control)
    this.#host.changed(service, control)
    return control
  }

  /** @param milliseconds undefined: until `change` ends it */
  pause(service: string, milliseconds: number | undefined): Control {
    const until = milliseconds === undefined ? null : this.#now() + milliseconds
    return this.change(service, { paused: { since: new Date().toISOString(), until } })
  }

  /** Made elsewhere. */
  accept(service: string, control: Control): void {
    if (isControlled(control)) this.#controls.set(service, control)
    else this.#controls.delete(service)
    this.#clock.clear(this.#timers.get(service))
    this.#timers.delete(service)
    const left = control.paused === null ? null : this.left(control.paused)
    if (left !== null)
      this.#timers.set(
        service,
        this.#clock.setTimeout(() => this.#over(service), left),
      )
    this.#host.service(service)?.control(control)
  }

  close(): void {
    for (const timer of this.#timers.values()) this.#clock.clear(timer)
    this.#timers.clear()
  }

  #over(service: string): void {
    // Every worker ends it by itself, so none has to tell the others; the master gives what is over to none.
    this.accept(service, { ...this.of(service), paused: null })
    this.#host.pauseOver(service)
  }
}
