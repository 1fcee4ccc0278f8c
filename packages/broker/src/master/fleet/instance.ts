import type { Timer } from '@baton/backend-sdk/protocol'
import type { Logger } from 'pino'
import type { Generation } from './definition.ts'
import {
  type InstanceEvent,
  type InstancePhase,
  type InstanceState,
  NEW_INSTANCE,
  step,
} from './instance-state.ts'
import type { ManagedProcess } from './managed-process.ts'
import type { FleetClock } from './os.ts'
import type { InstanceRecord } from './state.ts'

export interface InstanceHost {
  readonly clock: FleetClock
  readonly logger: Logger
  /** A new ULID. */
  newId(): string
  spawn(instance: Instance, id: string): ManagedProcess
}

/**
 * One place of a service, such as `web.1`, and the process that is in it. Started again when it ends, always as the
 * generation that it is; another generation comes by `replace` alone.
 */
export class Instance {
  readonly number: number
  /** Such as `web.1`. */
  readonly name: string
  readonly #host: InstanceHost
  #generation: Generation
  #state: InstanceState = NEW_INSTANCE
  #process: ManagedProcess | undefined
  #timer: Timer | undefined
  /** When it came into its present phase, in milliseconds since the Unix epoch. */
  #since: number

  constructor(number: number, generation: Generation, host: InstanceHost) {
    this.number = number
    this.name = `${generation.definition.service}.${number}`
    this.#generation = generation
    this.#host = host
    this.#since = host.clock.date()
  }

  /** As it was when `save` was called; `process` has been taken over. Waits go on where they were. */
  static restore(
    saved: InstanceRecord,
    generation: Generation,
    process: ManagedProcess | undefined,
    host: InstanceHost,
  ): Instance {
    const instance = new Instance(saved.number, generation, host)
    const phase: InstancePhase =
      process === undefined
        ? { kind: 'waiting', until: saved.until ?? host.clock.now() }
        : { kind: 'running', id: process.id }
    instance.#state = { phase, restarts: saved.restarts, history: saved.history }
    instance.#since = saved.since
    instance.#process = process
    instance.#arm()
    return instance
  }

  get generation(): Generation {
    return this.#generation
  }

  get state(): InstanceState {
    return this.#state
  }

  get since(): number {
    return this.#since
  }

  /** Undefined between two processes. */
  get process(): ManagedProcess | undefined {
    return this.#process
  }

  start(): void {
    this.#on({ kind: 'start', id: this.#host.newId() })
  }

  /** Its process, or one that was its process, has ended. */
  exited(process: ManagedProcess): void {
    const now = this.#host.clock.now()
    if (process === this.#process) this.#process = undefined
    this.#on({ kind: 'exited', id: process.id, now, lived: now - process.identity.startedAt })
  }

  /** `process` has its place from now on. @returns the former one, which is the caller's to retire */
  replace(process: ManagedProcess): ManagedProcess | undefined {
    const former = this.#process
    this.#generation = process.identity.generation
    this.#process = process
    return this.#on({ kind: 'replaced', id: process.id }) ? former : undefined
  }

  /** For good. @returns its process, which is the caller's to retire */
  stop(): ManagedProcess | undefined {
    const former = this.#process
    this.#process = undefined
    return this.#on({ kind: 'stop' }) ? former : undefined
  }

  save(): InstanceRecord {
    const { phase, restarts, history } = this.#state
    return {
      number: this.number,
      generation: this.#generation.number,
      restarts,
      history,
      until: phase.kind === 'waiting' ? phase.until : null,
      since: this.#since,
      process: this.#process?.save() ?? null,
    }
  }

  /** Forgets its timer; the process stays whoever's it is. */
  close(): void {
    this.#host.clock.clear(this.#timer)
  }

  /** @returns whether the process that was there retires */
  #on(event: InstanceEvent): boolean {
    const { state, effects } = step(this.#state, event)
    let retires = false
    if (state.phase !== this.#state.phase) this.#since = this.#host.clock.date()
    this.#state = state
    this.#arm()
    for (const effect of effects) {
      switch (effect.kind) {
        case 'spawn':
          this.#process = this.#host.spawn(this, effect.id)
          break
        case 'retire':
          retires = true
          break
        case 'backoff':
          this.#reportBackoff(effect)
      }
    }
    return retires
  }

  #reportBackoff({ delay, crashed }: { delay: number; crashed: boolean }): void {
    const facts = { service: this.#generation.definition.service, instance: this.name, delayMs: delay }
    if (crashed) {
      this.#host.logger.error(
        { ...facts, generation: this.#generation.number },
        'backend is in a crash loop: it ends soon after each start, and is tried once a minute from now on',
      )
    } else this.#host.logger.info(facts, 'backend process is started again after a pause')
  }

  #arm(): void {
    const { clock } = this.#host
    clock.clear(this.#timer)
    this.#timer = undefined
    const { phase } = this.#state
    if (phase.kind !== 'waiting') return
    this.#timer = clock.setTimeout(() => this.start(), Math.max(0, phase.until - clock.now()))
  }
}
