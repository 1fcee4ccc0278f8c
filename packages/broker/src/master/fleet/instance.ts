import type { Timer } from '@baton/backend-sdk/protocol'
import type { InstanceStatus } from '../../api/master-status.ts'
import type { FleetContext } from './context.ts'
import type { Generation } from './definition.ts'
import {
  type InstanceEvent,
  type InstancePhase,
  type InstanceState,
  NEW_INSTANCE,
  step,
} from './instance-state.ts'
import { type Exited, ManagedProcess } from './managed-process.ts'
import type { InstanceRecord } from './state.ts'

/**
 * One instance of a service, such as `web.1`, and its current process. A process that exits is restarted, always in the instance's
 * generation; only `replace` changes the generation.
 */
export class Instance {
  readonly number: number
  /** Such as `web.1`. */
  readonly name: string
  readonly #context: FleetContext
  readonly #notifyExited: Exited
  #generation: Generation
  #state: InstanceState = NEW_INSTANCE
  #process: ManagedProcess | undefined
  #timer: Timer | undefined
  /** Start of the current phase, in ms since the Unix epoch. */
  #since: number

  /** @param exited of each process that it starts; it calls `exited` here */
  constructor(number: number, generation: Generation, context: FleetContext, exited: Exited) {
    this.number = number
    this.name = `${generation.definition.service}.${number}`
    this.#generation = generation
    this.#context = context
    this.#notifyExited = exited
    this.#since = context.os.date()
  }

  /** The state that `save` returned; `process` was adopted. Waiting continues where it was. */
  static restore(
    saved: InstanceRecord,
    generation: Generation,
    process: ManagedProcess | undefined,
    context: FleetContext,
    exited: Exited,
  ): Instance {
    const instance = new Instance(saved.number, generation, context, exited)
    const phase: InstancePhase =
      process === undefined
        ? { kind: 'waiting', until: saved.until ?? context.os.now() }
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

  /** Undefined between two processes. */
  get process(): ManagedProcess | undefined {
    return this.#process
  }

  get status(): InstanceStatus {
    const { phase, restarts, history } = this.#state
    const { number, definition } = this.#generation
    return {
      service: definition.service,
      instance: this.name,
      backend: this.#process?.id ?? null,
      pid: this.#process?.pid ?? null,
      state: phase.kind !== 'waiting' ? 'running' : history.crashed ? 'crashed' : 'backoff',
      restarts,
      generation: number,
      version: definition.version,
      ...(definition.chosen && { environment: definition.chosen.name }),
      since: new Date(this.#since).toISOString(),
    }
  }

  start(): void {
    this.#on({ kind: 'start', id: this.#context.os.id() })
  }

  /** Its process, or a former one, has exited. */
  exited(process: ManagedProcess): void {
    const now = this.#context.os.now()
    if (process === this.#process) this.#process = undefined
    this.#on({ kind: 'exited', id: process.id, now, lived: now - process.identity.startedAt })
  }

  /** Makes `process` its current process. @returns the former one, which the caller retires */
  replace(process: ManagedProcess): ManagedProcess | undefined {
    const former = this.#process
    this.#generation = process.identity.generation
    this.#process = process
    return this.#on({ kind: 'replaced', id: process.id }) ? former : undefined
  }

  /** Ends restarts for good. @returns its process, which the caller retires */
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

  /** Stops its timer. The process is not touched. */
  close(): void {
    this.#context.os.clear(this.#timer)
  }

  /** @returns whether the current process has to retire */
  #on(event: InstanceEvent): boolean {
    const { state, effects } = step(this.#state, event)
    let retires = false
    if (state.phase !== this.#state.phase) this.#since = this.#context.os.date()
    this.#state = state
    this.#arm()
    for (const effect of effects) {
      switch (effect.kind) {
        case 'spawn':
          this.#spawn(effect.id)
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

  #spawn(id: string): void {
    const named = { id, instance: this.name, generation: this.#generation }
    this.#process = ManagedProcess.start(named, this.#context, this.#notifyExited)
    this.#context.changed?.()
  }

  #reportBackoff({ delay, crashed }: { delay: number; crashed: boolean }): void {
    const { logger } = this.#context
    const facts = { service: this.#generation.definition.service, instance: this.name, delayMs: delay }
    if (crashed) {
      logger.error(
        { ...facts, generation: this.#generation.number },
        'backend is crash-looping; retrying once a minute',
      )
    } else logger.info(facts, 'restarting the backend process after a delay')
  }

  #arm(): void {
    const { os } = this.#context
    os.clear(this.#timer)
    this.#timer = undefined
    const { phase } = this.#state
    if (phase.kind !== 'waiting') return
    this.#timer = os.setTimeout(() => this.start(), Math.max(0, phase.until - os.now()))
  }
}
