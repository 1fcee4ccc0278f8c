import type { Logger } from 'pino'
import type { ManagedReport } from '../../ipc/messages.ts'
import type { ServiceConfig } from '../../config/index.ts'
import { BrokerError } from '../../errors.ts'
import { type BackendReport, isListed } from './backend-report.ts'
import { type Definition, define } from './definition.ts'
import { environmentOf } from './environment.ts'
import type { ManagedProcess } from './managed-process.ts'
import { ManagedService, type ServiceHost } from './managed-service.ts'
import type { FleetOs } from './os.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import { fleetState, type FleetState } from './state.ts'
import type { InstanceStatus } from '../../api/master-status.ts'

/** As much of a configuration as a fleet reads. */
export interface FleetConfig {
  readonly services: ReadonlyMap<string, ServiceConfig>
  /** Folder of the configuration file. */
  readonly base: string
  /** Milliseconds. */
  readonly drainDeadline: number
}

export interface FleetOptions {
  readonly logger: Logger
  readonly os: FleetOs
  /** Path of the control socket: BATON_SOCKET of every process. */
  readonly socket: string
  /** The master's environment, which the processes inherit but for what is the master's own. */
  readonly env: NodeJS.ProcessEnv
  /** Variables by which the processes know this master again. */
  readonly master: NodeJS.ProcessEnv
  /** Asks the worker to give a backend no new connections. Answered by a report that lacks it. */
  drain(service: string, backend: string, deadline: number): void
  /**
   * Whether a process of the service can register at the moment, and has to: one that does not in 10 s of such time is a warning in the
   * log. Absent: none is.
   */
  readonly registrable?: ((service: string) => boolean) | undefined
  /** `statuses` may have something new. Called often, also from within calls that change something. */
  changed?(): void
  /** The process of an instance has ended without having been asked to, or could not be started. */
  exited?(process: ManagedProcess, exit: ProcessExit): void
}

/** Told of every exit and every report, after the fleet has drawn its own conclusions. */
export interface FleetObserver {
  exited(process: ManagedProcess, exit: ProcessExit): void
  reported(reports: readonly BackendReport[]): void
  /** The fleet stops, or lets go of its processes. */
  stopped(): void
}

/** All managed backends: owner of their processes, of the descriptors of their output, and of the timers about them. */
export class Fleet {
  readonly #options: FleetOptions
  readonly #services = new Map<string, ManagedService>()
  readonly #observers = new Map<string, FleetObserver>()
  readonly #idle = new Set<() => void>()
  #reports: readonly BackendReport[] = []
  #drainDeadline = 0
  #stopping = false

  constructor(options: FleetOptions) {
    this.#options = options
  }

  /**
   * The fleet that `serialize` wrote down before the master re-executed itself. Owns every descriptor that was to be kept
   * and makes it close-on-exec again. Call `apply` next: waits and ends that were under way go on from here.
   *
   * @param state as it came out of JSON
   * @throws {z.ZodError} it is no state of a fleet; then nothing was taken over
   */
  static restore(state: unknown, options: FleetOptions): Fleet {
    const { services, drainDeadline } = fleetState.parse(state)
    const fleet = new Fleet(options)
    fleet.#drainDeadline = drainDeadline
    for (const saved of services) {
      fleet.#services.set(saved.name, ManagedService.restore(saved, drainDeadline, fleet.#serviceHost()))
    }
    return fleet
  }

  /**
   * Starts what is missing and retires what is not wanted any more. A service that runs keeps the definition that it runs
   * with: another one waits for a deploy, and that is logged.
   *
   * @throws {BrokerError} BATON_ERR_BACKEND_FOLDER, BATON_ERR_DEPLOY_RUNNING; then nothing was changed
   */
  apply(config: FleetConfig): void {
    if (this.deploying) throw new BrokerError('BATON_ERR_DEPLOY_RUNNING', 'its instances are being replaced')
    const wanted = new Map<string, { definition: Definition; instances: number }>()
    for (const [name, service] of config.services) {
      const definition = define(service, config.base)
      if (definition !== undefined) wanted.set(name, { definition, instances: service.instances })
    }
    this.#drainDeadline = config.drainDeadline
    for (const [name, service] of this.#services) {
      service.configure(config.drainDeadline)
      if (!wanted.has(name)) service.scale(0)
    }
    for (const [name, { definition, instances }] of wanted) {
      this.#serviceFor(name, definition).scale(instances)
    }
    this.#forget()
    this.#options.changed?.()
  }

  /**
   * What the workers list, each time all of it: during a reload that of both, since the old one has the draining backends.
   * When a worker has died, wait for the report of the next one, or everything would seem to be drained.
   */
  reported(reports: readonly BackendReport[]): void {
    this.#reports = reports
    for (const service of this.#services.values()) service.reported()
    for (const observer of this.#observers.values()) observer.reported(reports)
  }

  /**
   * A worker has died, or lets go of its backends because it leaves: that it does not list them any more does not say that they have
   * drained. They have their deadline.
   *
   * @param reports what the other workers list
   */
  lost(reports: readonly BackendReport[]): void {
    for (const service of this.#services.values()) service.lost((id) => isListed(reports, id))
  }

  get reports(): readonly BackendReport[] {
    return this.#reports
  }

  statuses(): InstanceStatus[] {
    return [...this.#services.values()].flatMap((service) => service.statuses())
  }

  /** All processes that run, for the workers. */
  managed(): ManagedReport[] {
    return [...this.#services.values()].flatMap(({ reports }) => reports)
  }

  /** Milliseconds. */
  get drainDeadline(): number {
    return this.#drainDeadline
  }

  service(name: string): ManagedService | undefined {
    return this.#services.get(name)
  }

  /** Whether a deploy goes on; nothing may be applied or handed over then. */
  get deploying(): boolean {
    return this.#observers.size > 0
  }

  /**
   * For the deploy of `service`, of which there is one at a time.
   *
   * @returns what ends it
   * @throws {BrokerError} BATON_ERR_DEPLOY_RUNNING
   */
  observe(service: string, observer: FleetObserver): () => void {
    if (this.#observers.has(service)) throw new BrokerError('BATON_ERR_DEPLOY_RUNNING', `of ${service}`)
    this.#observers.set(service, observer)
    return () => void this.#observers.delete(service)
  }

  /**
   * Ends every process: drained while a worker lists it and for at most `deadline` milliseconds, then SIGTERM, then
   * SIGKILL. Resolves when none is left. A second call with a shorter deadline hurries.
   */
  stop(deadline: number): Promise<void> {
    this.#stopping = true
    for (const observer of this.#observers.values()) observer.stopped()
    for (const service of this.#services.values()) service.stop(deadline)
    return new Promise((resolve) => {
      this.#idle.add(resolve)
      this.#forget()
    })
  }

  /**
   * What the master writes down before it re-executes itself, and the descriptors that it must keep open. Until it has
   * done so it may not return to the event loop; if it could not, the fleet goes on as if nothing had been asked.
   *
   * @throws {BrokerError} BATON_ERR_DEPLOY_RUNNING
   */
  serialize(): { state: FleetState; keep: number[] } {
    if (this.deploying) throw new BrokerError('BATON_ERR_DEPLOY_RUNNING', 'it can not be handed over')
    const services = [...this.#services.values()].map((service) => service.save())
    const processes = services.flatMap(({ instances, leaving }) => [
      ...instances.flatMap(({ process }) => process ?? []),
      ...leaving.map(({ process }) => process),
    ])
    const keep = processes.flatMap(({ numbers }) => [numbers.stdout, numbers.stderr])
    return {
      state: { drainDeadline: this.#drainDeadline, services },
      keep: keep.filter((fd) => fd !== null),
    }
  }

  /** At once: SIGKILL to what still runs, and everything that is held of it is closed. A second call does nothing. */
  close(): void {
    this.#stopping = true
    for (const observer of this.#observers.values()) observer.stopped()
    for (const service of this.#services.values()) {
      for (const process of service.processes) process.kill()
      service.close()
    }
    this.#forget()
  }

  #serviceFor(name: string, definition: Definition): ManagedService {
    const known = this.#services.get(name)
    if (known === undefined || (known.numbers.length === 0 && !known.runs(definition))) {
      return this.#begin(name, definition, known)
    }
    if (!known.runs(definition)) {
      this.#options.logger.warn(
        { service: name, generation: known.stable.number },
        `the service goes on with the definition that it runs with; run "baton deploy ${name}" to change that`,
      )
    }
    return known
  }

  /** A service whose last processes are still on their way out can come back as something else. */
  #begin(name: string, definition: Definition, known: ManagedService | undefined): ManagedService {
    if (known !== undefined) {
      known.commit(known.nextGeneration(definition))
      return known
    }
    const service = new ManagedService({ number: 1, definition }, 1, this.#drainDeadline, this.#serviceHost())
    this.#services.set(name, service)
    return service
  }

  #serviceHost(): ServiceHost {
    const { os, logger, socket, env, master, registrable } = this.#options
    return {
      os,
      logger,
      registrable,
      environment: (definition, backend) => environmentOf(definition, { socket, backend, master }, env),
      isListed: (id) => isListed(this.#reports, id),
      drain: (service, id, deadline) => this.#options.drain(service, id, deadline),
      exited: (process, exit, inPlace) => {
        for (const observer of this.#observers.values()) observer.exited(process, exit)
        if (inPlace) this.#options.exited?.(process, exit)
        this.#forget()
      },
      changed: () => this.#options.changed?.(),
    }
  }

  /** Services of which nothing is left, and those who wait for that. */
  #forget(): void {
    for (const [name, service] of this.#services) if (service.empty) this.#services.delete(name)
    if (!this.#stopping || this.#services.size > 0) return
    for (const resolve of this.#idle) resolve()
    this.#idle.clear()
  }
}
