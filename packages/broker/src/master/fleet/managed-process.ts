import type { Timer } from '@baton/backend-sdk/protocol'
import type { Logger } from 'pino'
import type { Generation } from './definition.ts'
import type { FleetOs } from './os.ts'
import { ProcessOutput } from '../../supervise/output.ts'
import { type LifeEvent, live, type ProcessLife } from './process-life.ts'
import type { ChildEvents, ProcessExit, RunningProcess } from '../../supervise/child.ts'
import { REGISTRATION_LIMIT, RegistrationWatch } from './registration-watch.ts'
import type { ProcessState } from './state.ts'

/** What a process is, apart from what becomes of it. */
export interface ProcessIdentity {
  /** ULID: the backend's id, in its HELLO, in logs and in the API. */
  readonly id: string
  /** Such as `web.1`. */
  readonly instance: string
  readonly generation: Generation
  /** CLOCK_MONOTONIC, milliseconds. */
  readonly startedAt: number
  /** The same as milliseconds since the Unix epoch. */
  readonly since: number
}

export interface ManagedProcessHost {
  /** Asks the broker to give this backend no new connections. `deadline` in milliseconds. */
  drain(process: ManagedProcess, deadline: number): void
  /** Whether there is a worker that it can register with, and that it is of use to. Undefined: nothing is said if it does not register. */
  readonly registrable: (() => boolean) | undefined
  /** It has ended and its output was read. Told once, and not after `close`. */
  exited(process: ManagedProcess, exit: ProcessExit): void
}

const REGISTRATION_HINT =
  'does it call createBackend() and ready()? An app as it is, without the SDK, runs under "baton run"'

/** One process of a managed service, from start to exit: its output, and how it is brought to its end. */
export class ManagedProcess {
  readonly identity: ProcessIdentity
  readonly #os: FleetOs
  readonly #host: ManagedProcessHost
  readonly #logger: Logger
  readonly #output: ProcessOutput
  readonly #process: RunningProcess
  readonly #registration: RegistrationWatch
  #life: ProcessLife
  #timer: Timer | undefined

  private constructor(
    identity: ProcessIdentity,
    context: { os: FleetOs; host: ManagedProcessHost; logger: Logger },
    run: (events: ChildEvents) => RunningProcess,
    saved?: ProcessState,
  ) {
    const { id, instance, generation } = identity
    this.identity = identity
    this.#os = context.os
    this.#host = context.host
    this.#life = saved?.life ?? { kind: 'running' }
    this.#process = run({
      output: (stream, chunk) => this.#output.write(stream, chunk),
      exited: (exit) => this.#exited(exit),
    })
    const { service } = generation.definition
    this.#logger = context.logger.child({ service, instance, backend: id, peerPid: this.pid })
    this.#output = new ProcessOutput(this.#logger, saved && decode(saved.partial))
    const { registrable } = context.host
    const left = saved === undefined ? REGISTRATION_LIMIT : saved.unregistered
    this.#registration = new RegistrationWatch(registrable && this.pid !== undefined ? left : null, {
      clock: context.os,
      registrable: () => registrable?.() === true,
      overdue: () => this.#logger.warn({ hint: REGISTRATION_HINT }, 'backend process has not registered'),
    })
    this.#arm()
  }

  /** Starts it. One that can not be started is told as one that has exited. */
  static start(
    identity: ProcessIdentity,
    env: NodeJS.ProcessEnv,
    context: { os: FleetOs; host: ManagedProcessHost; logger: Logger },
  ): ManagedProcess {
    const { command, cwd, folder } = identity.generation.definition
    const started = new ManagedProcess(identity, context, (host) =>
      context.os.start(command, { env, cwd, folder }, host),
    )
    if (started.pid !== undefined) {
      started.#logger.info(
        { generation: identity.generation.number, version: identity.generation.definition.version },
        'backend process started',
      )
    }
    return started
  }

  /** The same process, after the master has re-executed itself. Owns the descriptors that the state names. */
  static restore(
    saved: ProcessState,
    generation: Generation,
    instance: string,
    context: { os: FleetOs; host: ManagedProcessHost; logger: Logger },
  ): ManagedProcess {
    const { id, startedAt, since, numbers } = saved
    return new ManagedProcess(
      { id, instance, generation, startedAt, since },
      context,
      (host) => context.os.adopt(numbers, host),
      saved,
    )
  }

  get id(): string {
    return this.identity.id
  }

  /** Undefined when it could not be started. */
  get pid(): number | undefined {
    return this.#process.pid
  }

  get life(): ProcessLife {
    return this.#life
  }

  /** Whether it has not registered yet, and is expected to. */
  get unregistered(): boolean {
    return this.#registration.left !== null
  }

  /** A worker lists it. */
  registered(): void {
    this.#registration.end()
  }

  /** Its last lines, oldest first. */
  get output(): readonly string[] {
    return this.#output.last
  }

  /**
   * Brings it to its end: drained by the broker if one lists it, then SIGTERM, then SIGKILL.
   *
   * @param deadline of the drain, in milliseconds; for a process that nobody lists, the time from SIGTERM to SIGKILL
   */
  retire(deadline: number, listed: boolean): void {
    this.#on({ kind: 'retire', now: this.#os.now(), deadline, listed })
  }

  /** The broker does not list it. */
  drained(): void {
    this.#on({ kind: 'drained', now: this.#os.now() })
  }

  /** Who listed it has gone, and cannot say any more when it has drained. */
  lost(): void {
    this.#on({ kind: 'lost' })
  }

  /** SIGKILL. */
  kill(): void {
    this.#on({ kind: 'kill' })
  }

  /** Undefined when there is nothing to take over: its end is told in the next turns of the event loop. */
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
      unregistered: this.#registration.left,
    }
  }

  /** Lets go of it: closes our ends of its output and forgets its timers. It is not stopped by that. */
  close(): void {
    this.#os.clear(this.#timer)
    this.#registration.close()
    this.#process.close()
  }

  #on(event: LifeEvent): void {
    const { life, effects } = live(this.#life, event)
    this.#life = life
    if (life.kind !== 'running') this.#registration.end()
    this.#arm()
    for (const effect of effects) {
      if (effect.kind === 'drain') this.#host.drain(this, effect.deadline)
      else {
        if (effect.signal === 'SIGKILL') this.#logger.warn('backend process is killed')
        this.#process.signal(effect.signal)
      }
    }
  }

  #arm(): void {
    this.#os.clear(this.#timer)
    this.#timer = undefined
    if (this.#life.kind !== 'draining' && this.#life.kind !== 'terminating') return
    const { until } = this.#life
    const due = () => this.#on({ kind: 'due', now: this.#os.now() })
    this.#timer = this.#os.setTimeout(due, Math.max(0, until - this.#os.now()))
  }

  #exited(exit: ProcessExit): void {
    const asked = this.#life.kind !== 'running'
    this.#on({ kind: 'exited' })
    this.#output.end()
    const lived = this.#os.now() - this.identity.startedAt
    const { code, signal, error } = exit
    if (error === undefined) {
      this.#logger[asked ? 'info' : 'warn']({ code, signal, livedMs: lived }, 'backend process ended')
    } else {
      this.#output.note(error)
      this.#logger.error({ reason: error }, 'backend process could not be started')
    }
    this.#host.exited(this, exit)
  }
}

function decode({ stdout, stderr }: ProcessState['partial']) {
  return { stdout: Buffer.from(stdout, 'base64'), stderr: Buffer.from(stderr, 'base64') }
}
