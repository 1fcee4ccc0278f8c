import type { Timer } from '@baton/backend-sdk/protocol'
import type { Logger } from 'pino'
import type { InstanceStatus } from '../../api/master-status.ts'
import type { ChildEvents, ProcessExit, RunningProcess } from '../../supervise/child.ts'
import { type KeepLines, ProcessOutput } from '../../supervise/output.ts'
import { factsOf } from '../../supervise/proc.ts'
import type { FleetContext } from './context.ts'
import { environmentOf, type Generation } from './definition.ts'
import { type LifeEvent, live, type ProcessLife } from './process-life.ts'
import { REGISTRATION_TIMEOUT_MS, RegistrationWatch } from './registration-watch.ts'
import type { ProcessState } from './state.ts'

/** The facts about a process that do not change. */
export interface ProcessIdentity {
  /** ULID: the backend's id, in its HELLO, in logs and in the API. */
  readonly id: string
  /** Such as `web.1`. */
  readonly instance: string
  readonly generation: Generation
  /** CLOCK_MONOTONIC, in ms. */
  readonly startedAt: number
  /** The same time in ms since the Unix epoch. */
  readonly since: number
}

/** Called once, when the process has exited and its output was read, or could not be started. Not called after `close`. */
export type Exited = (process: ManagedProcess, exit: ProcessExit) => void

const REGISTRATION_HINT =
  'does it call createBackend() and ready()? Run an unmodified app, without the SDK, with "baton run"'

/** One process of a managed service, from start to exit: its output, and how it is ended. */
export class ManagedProcess {
  readonly identity: ProcessIdentity
  readonly #context: FleetContext
  readonly #notifyExited: Exited
  readonly #logger: Logger
  readonly #output: ProcessOutput
  readonly #process: RunningProcess
  /** An earlier program, or another master, has started it. */
  readonly isRestored: boolean
  readonly #registration: RegistrationWatch
  /** See `ProcessState`. */
  readonly #started: string | null
  readonly #foreign: boolean
  #life: ProcessLife
  #slot: string | null
  #timer: Timer | undefined

  private constructor(
    identity: ProcessIdentity,
    context: FleetContext,
    exited: Exited,
    run: (events: ChildEvents) => RunningProcess,
    saved?: ProcessState,
  ) {
    const { id, instance, generation } = identity
    this.identity = identity
    this.isRestored = saved !== undefined
    this.#context = context
    this.#notifyExited = exited
    this.#life = saved?.life ?? { kind: 'running' }
    this.#slot = saved?.slot ?? null
    this.#process = run({
      output: (stream, chunk) => this.#output.write(stream, chunk),
      exited: (exit) => this.#exited(exit),
    })
    const { service } = generation.definition
    this.#logger = context.logger.child({ service, instance, backend: id, peerPid: this.pid })
    this.#started = saved?.started ?? (this.pid === undefined ? null : (factsOf(this.pid)?.startedAt ?? null))
    this.#foreign = saved?.foreign === true
    const keep: KeepLines = (stream, lines) =>
      context.output?.write({ service, instance, backend: id, slot: this.#slot }, stream, lines)
    this.#output = new ProcessOutput(this.#logger, keep, saved && decode(saved.partial))
    const { os, registrable } = context
    const left = saved === undefined ? REGISTRATION_TIMEOUT_MS : saved.unregistered
    this.#registration = new RegistrationWatch(
      registrable !== undefined && this.pid !== undefined ? left : null,
      os,
      () => registrable?.(service) === true,
      () => this.#logger.warn({ hint: REGISTRATION_HINT }, 'backend process has not registered'),
    )
    this.#arm()
  }

  /** Starts it. If that fails, it is reported as exited. */
  static start(
    named: Pick<ProcessIdentity, 'id' | 'instance' | 'generation'>,
    context: FleetContext,
    exited: Exited,
  ): ManagedProcess {
    const { os } = context
    const { number, definition } = named.generation
    const { command, cwd, folder, version } = definition
    const identity = { ...named, startedAt: os.now(), since: os.date() }
    const env = environmentOf(definition, named.id, context)
    const started = new ManagedProcess(identity, context, exited, (events) =>
      os.start(command, { env, cwd, folder }, events),
    )
    if (started.pid !== undefined)
      started.#logger.info({ generation: number, version }, 'backend process started')
    return started
  }

  /** The same process, after the master has re-executed itself. Owns the descriptors that the state names. */
  static restore(
    saved: ProcessState,
    generation: Generation,
    instance: string,
    context: FleetContext,
    exited: Exited,
  ): ManagedProcess {
    const { id, startedAt, since, numbers, foreign, started } = saved
    const identity = { id, instance, generation, startedAt, since }
    const adopt = (events: ChildEvents) =>
      context.os.adopt(numbers, events, foreign ? (started ?? '') : undefined)
    return new ManagedProcess(identity, context, exited, adopt, saved)
  }

  get id(): string {
    return this.identity.id
  }

  /** Undefined if it could not be started. */
  get pid(): number | undefined {
    return this.#process.pid
  }

  get life(): ProcessLife {
    return this.#life
  }

  /** A worker reports its backend, under this slot. @returns whether that is new */
  registered(slot: string): boolean {
    this.#registration.end()
    const isNew = this.#slot !== slot
    this.#slot = slot
    return isNew
  }

  /** Its last lines, oldest first. */
  get output(): readonly string[] {
    return this.#output.last
  }

  /** @param state of a process that is not an instance's: a successor on trial, or a process that is being ended */
  status(state: 'starting' | 'stopping'): InstanceStatus {
    const { instance, generation, id, since } = this.identity
    return {
      service: generation.definition.service,
      instance,
      backend: id,
      pid: this.pid ?? null,
      state,
      restarts: 0,
      generation: generation.number,
      version: generation.definition.version,
      ...(generation.definition.chosen && { environment: generation.definition.chosen.name }),
      since: new Date(since).toISOString(),
    }
  }

  /**
   * Ends it: a worker that lists its backend drains it, then it gets SIGTERM, then SIGKILL.
   *
   * @param deadline of the drain, in ms; if no worker lists it, the time from SIGTERM to SIGKILL
   */
  retire(deadline: number, listed: boolean): void {
    this.#on({ kind: 'retire', now: this.#context.os.now(), deadline, listed })
  }

  /** No worker lists its backend. */
  drained(): void {
    this.#on({ kind: 'drained', now: this.#context.os.now() })
  }

  /** The worker that listed its backend is gone and cannot report when it has drained. */
  lost(): void {
    this.#on({ kind: 'lost' })
  }

  /** A worker lists its backend. */
  listed(): void {
    this.#on({ kind: 'listed' })
  }

  /** SIGKILL. */
  kill(): void {
    this.#on({ kind: 'kill' })
  }

  /** Undefined if there is nothing to adopt: its exit is reported in the next turns of the event loop. */
  save(): ProcessState | undefined {
    const { numbers } = this.#process
    if (numbers === undefined) return undefined
    const { stdout, stderr } = this.#output.partial
    const { id, startedAt, since, generation } = this.identity
    return {
      id,
      startedAt,
      since,
      generation: generation.number,
      numbers,
      partial: { stdout: stdout.toString('base64'), stderr: stderr.toString('base64') },
      life: this.#life,
      slot: this.#slot,
      started: this.#started,
      foreign: this.#foreign,
      unregistered: this.#registration.left,
    }
  }

  /** Closes our ends of its output and stops its timers. The process continues. */
  close(): void {
    this.#context.os.clear(this.#timer)
    this.#registration.close()
    this.#process.close()
  }

  #on(event: LifeEvent): void {
    const { life, effects } = live(this.#life, event)
    this.#life = life
    if (life.kind !== 'running') this.#registration.end()
    this.#arm()
    for (const effect of effects) {
      if (effect.kind === 'drain') {
        const { service } = this.identity.generation.definition
        this.#context.workers.drain(service, this.id, effect.deadline)
      } else {
        if (effect.signal === 'SIGKILL') this.#logger.warn('backend process is killed')
        this.#process.signal(effect.signal)
      }
    }
  }

  #arm(): void {
    const { os } = this.#context
    os.clear(this.#timer)
    this.#timer = undefined
    if (this.#life.kind !== 'draining' && this.#life.kind !== 'terminating') return
    const { until } = this.#life
    this.#timer = os.setTimeout(() => this.#on({ kind: 'due', now: os.now() }), Math.max(0, until - os.now()))
  }

  #exited(exit: ProcessExit): void {
    const expected = this.#life.kind !== 'running'
    this.#on({ kind: 'exited' })
    this.#output.end()
    const lived = this.#context.os.now() - this.identity.startedAt
    const { code, signal, error } = exit
    if (error === undefined) {
      this.#logger[expected ? 'info' : 'warn']({ code, signal, livedMs: lived }, 'backend process ended')
    } else {
      this.#output.note(error)
      this.#logger.error({ reason: error }, 'backend process could not be started')
    }
    this.#notifyExited(this, exit)
  }
}

function decode({ stdout, stderr }: ProcessState['partial']) {
  return { stdout: Buffer.from(stdout, 'base64'), stderr: Buffer.from(stderr, 'base64') }
}
