import type { InstanceStatus, MasterStatus } from '../../api/master-status.ts'
import type { ServiceConfig } from '../../config/config.ts'
import { drainDeadlineOf } from '../../config/service-rules.ts'
import { BrokerError } from '../../errors.ts'
import type { ManagedReport } from '../../ipc/messages.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import { type BackendReport } from './backend-report.ts'
import type { FleetContext } from './context.ts'
import { type Definition, define } from './definition.ts'
import type { ManagedProcess } from './managed-process.ts'
import { ManagedService, type ServiceExited } from './managed-service.ts'
import { fleetState, type FleetState } from './state.ts'

/** The part of a configuration that a fleet uses. */
export interface FleetConfig {
  readonly services: ReadonlyMap<string, ServiceConfig>
  /** Folder of the configuration file. */
  readonly base: string
  /** In ms. */
  readonly drainDeadline: number
}

export interface FleetOptions extends FleetContext {
  /** An instance's process has exited unasked, or could not be started. */
  exited?(process: ManagedProcess, exit: ProcessExit): void
}

/** Receives every exit and every report, after the fleet has handled it. */
export interface FleetObserver {
  exited(process: ManagedProcess, exit: ProcessExit): void
  /** @param fresh what the serving worker says now; otherwise its part is that of its last report */
  reported(reports: readonly BackendReport[], fresh: boolean): void
  /** The fleet stops, or lets go of its processes. */
  stopped(): void
}

/** All managed backends. Owns their processes, the descriptors of their output, and their timers. */
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
   * The fleet that `serialize` described before the master re-executed itself. Owns every descriptor that was kept, and makes it
   * close-on-exec again. Restarts and ends that were under way continue. Call `apply` next.
   *
   * @param state parsed JSON
   * @throws {z.ZodError} the state is invalid; then no descriptor was taken over
   */
  static restore(state: unknown, options: FleetOptions): Fleet {
    const { services, drainDeadline } = fleetState.parse(state)
    const fleet = new Fleet(options)
    fleet.#drainDeadline = drainDeadline
    for (const saved of services) {
      const service = ManagedService.restore(saved, options, fleet.#exited)
      // The configuration that `apply` brings may not have it any more.
      service.configure(saved.drainDeadline ?? drainDeadline)
      fleet.#services.set(saved.name, service)
    }
    return fleet
  }

  /**
   * Starts missing instances and retires surplus ones. An operator's number of instances stays in force, unless the configuration says another
   * one than before. A running service keeps its definition: a changed one waits for a deploy, and is
   * logged.
   *
   * @throws {BrokerError} BATON_ERR_BACKEND_FOLDER, BATON_ERR_DEPLOY_RUNNING; then nothing has changed
   */
  apply(config: FleetConfig): void {
    if (this.deploying) throw new BrokerError('BATON_ERR_DEPLOY_RUNNING', 'its instances are being replaced')
    const wanted = new Map<string, { definition: Definition; instances: number; deadline: number }>()
    for (const [name, service] of config.services) {
      const definition = define(service, config.base)
      if (definition !== undefined) {
        const deadline = drainDeadlineOf(service, config)
        wanted.set(name, { definition, instances: service.instances, deadline })
      }
    }
    this.#drainDeadline = config.drainDeadline
    for (const [name, service] of this.#services) {
      // One that is removed keeps the deadline that it had.
      const own = config.services.get(name)
      if (own !== undefined) service.configure(drainDeadlineOf(own, config))
      if (!wanted.has(name)) service.arrange(0)
    }
    for (const [name, { definition, instances, deadline }] of wanted) {
      const service = this.#serviceFor(name, definition)
      service.configure(deadline)
      service.arrange(instances)
    }
    this.#forget()
    this.#options.changed?.()
  }

  /**
   * Replaces the list of the workers' backends. During a reload it contains those of both workers, since draining backends stay with the
   * old one. After a worker's death, wait for the report of the next one: otherwise everything would seem to have drained.
   *
   * @param fresh see `FleetObserver`
   */
  reported(reports: readonly BackendReport[], fresh = true): void {
    this.#reports = reports
    for (const service of this.#services.values()) service.reported(reports)
    for (const observer of this.#observers.values()) observer.reported(reports, fresh)
  }

  /**
   * A worker has died, or has released its backends because it is finishing. Backends that no other worker lists may not have drained yet, so
   * they get their full deadline.
   *
   * @param reports what the other workers list
   * @param served it was the serving one, and has died: its backends register with the next one. Until then nothing is known about them, so nothing that
   *   depends on their states goes on
   */
  lost(reports: readonly BackendReport[], served = false): void {
    for (const service of this.#services.values()) service.lost(reports, served)
    if (served) for (const observer of this.#observers.values()) observer.reported(reports, false)
  }

  get reports(): readonly BackendReport[] {
    return this.#reports
  }

  statuses(): InstanceStatus[] {
    return [...this.#services.values()].flatMap((service) => service.statuses())
  }

  /** Services with another number of instances than the configuration says. */
  get scaled(): NonNullable<MasterStatus['scaled']> {
    return [...this.#services.values()].flatMap(({ name: service, scaled }) =>
      scaled === undefined ? [] : [{ service, instances: scaled.to, configured: scaled.configured }],
    )
  }

  /** All running processes, for the workers. */
  managed(): ManagedReport[] {
    return [...this.#services.values()].flatMap(({ managed }) => managed)
  }

  service(name: string): ManagedService | undefined {
    return this.#services.get(name)
  }

  /** Whether a deploy is in progress. Until its end, `apply` and `serialize` throw. */
  get deploying(): boolean {
    return this.#observers.size > 0
  }

  /**
   * For the deploy of `service`; there is at most one at a time.
   *
   * @returns ends it
   * @throws {BrokerError} BATON_ERR_DEPLOY_RUNNING
   */
  observe(service: string, observer: FleetObserver): () => void {
    if (this.#observers.has(service)) throw new BrokerError('BATON_ERR_DEPLOY_RUNNING', `of ${service}`)
    this.#observers.set(service, observer)
    return () => void this.#observers.delete(service)
  }

  /**
   * Ends every process: it is drained while a worker lists it, for at most `deadline` ms and the deadline of its service, then gets SIGTERM, then SIGKILL. Resolves when
   * none is left. A second call can shorten the deadline.
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
   * The state for a re-execution of the master, and the descriptors that must stay open. The master must not return to the event loop
   * between this call and the exec. If the exec fails, the fleet continues unchanged.
   *
   * @throws {BrokerError} BATON_ERR_DEPLOY_RUNNING
   */
  serialize(): { state: FleetState; keep: number[] } {
    if (this.deploying) throw new BrokerError('BATON_ERR_DEPLOY_RUNNING', 'it cannot be handed over')
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

  /** The state for another master, if this one is killed. Its descriptors stay this fleet's. */
  estate(): FleetState {
    const now = this.#options.os.now()
    return {
      drainDeadline: this.#drainDeadline,
      services: [...this.#services.values()].map((service) => service.save(now + service.drainDeadline)),
    }
  }

  /** Sends SIGKILL to all processes and closes all descriptors, immediately. A second call does nothing. */
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
        `command, env or cwd changed; running instances keep the old values until you run "baton deploy ${name}"`,
      )
    }
    return known
  }

  /** A service can return with another definition while its last processes are still being ended. */
  #begin(name: string, definition: Definition, known: ManagedService | undefined): ManagedService {
    if (known !== undefined) {
      known.commit(known.nextGeneration(definition))
      return known
    }
    const service = new ManagedService({ number: 1, definition }, 1, this.#options, this.#exited)
    service.configure(this.#drainDeadline)
    service.reported(this.#reports)
    this.#services.set(name, service)
    return service
  }

  readonly #exited: ServiceExited = (process, exit, current) => {
    for (const observer of this.#observers.values()) observer.exited(process, exit)
    if (current) this.#options.exited?.(process, exit)
    this.#forget()
  }

  /** Removes empty services, and resolves `stop` when none is left. */
  #forget(): void {
    for (const [name, service] of this.#services) if (service.empty) this.#services.delete(name)
    if (!this.#stopping || this.#services.size > 0) return
    for (const resolve of this.#idle) resolve()
    this.#idle.clear()
  }
}
