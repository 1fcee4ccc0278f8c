import type { InstanceStatus } from '../../api/master-status.ts'
import type { ManagedReport } from '../../ipc/messages.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import { type BackendReport, isListed, slotsOf } from './backend-report.ts'
import type { FleetContext } from './context.ts'
import { type Definition, type Generation, sameDefinition } from './definition.ts'
import { Instance } from './instance.ts'
import { type Exited, ManagedProcess } from './managed-process.ts'
import type { ProcessState, ServiceState } from './state.ts'

/** An operator's number of instances. It is in force while the configuration still says what it said then. */
export interface Scaled {
  readonly to: number
  readonly configured: number
}

/** The difference that a new number of instances has made. */
export interface Rescaled {
  /** Numbers of the instances that were started. */
  readonly started: readonly number[]
  /** Processes that are drained and stopped. */
  readonly retired: readonly ManagedProcess[]
  /** Numbers of the instances that have ended. */
  readonly stopped: readonly number[]
}

const NONE_RETURN = { reports: [], until: Number.NEGATIVE_INFINITY }

/** How long the backends of a worker that has died may take to register with the next one, in ms from its first report. */
const RETURN_TIMEOUT_MS = 2000

/** Called when a process has exited and the service has handled it. `current`: it was an instance's, and had not been retired. */
export type ServiceExited = (process: ManagedProcess, exit: ProcessExit, current: boolean) => void

/**
 * The instances of one service, and all its processes: those of the instances, successors on trial next to them (at most one for each
 * instance), and those that are being ended.
 */
export class ManagedService {
  readonly name: string
  readonly #context: FleetContext
  readonly #notifyExited: ServiceExited
  readonly #instances = new Map<number, Instance>()
  readonly #successors = new Map<number, ManagedProcess>()
  readonly #leaving = new Set<ManagedProcess>()
  #reports: readonly BackendReport[] = []
  /** Backends that the serving worker listed when it died: they register with the next one, until this time of the fleet's clock. */
  #returning: { readonly reports: readonly BackendReport[]; readonly until: number } = NONE_RETURN
  #stable: Generation
  #latest: number
  /** In ms. */
  #drainDeadline = 0
  #scaled: Scaled | undefined

  /** @param latest the highest number of a generation so far */
  constructor(stable: Generation, latest: number, context: FleetContext, exited: ServiceExited) {
    this.name = stable.definition.service
    this.#stable = stable
    this.#latest = latest
    this.#context = context
    this.#notifyExited = exited
  }

  static restore(saved: ServiceState, context: FleetContext, exited: ServiceExited): ManagedService {
    const generations = new Map(saved.generations.map((generation) => [generation.number, generation]))
    const find = (number: number): Generation => {
      const found = generations.get(number)
      if (found === undefined) throw new Error(`the state of ${saved.name} lacks generation ${number}`)
      return found
    }
    const service = new ManagedService(find(saved.stable), saved.latest, context, exited)
    const adopt = (state: ProcessState, instance: string) =>
      ManagedProcess.restore(state, find(state.generation), instance, context, service.#exited)
    for (const record of saved.instances) {
      const { number, generation, process } = record
      const adopted = process === null ? undefined : adopt(process, `${saved.name}.${number}`)
      const instance = Instance.restore(record, find(generation), adopted, context, service.#exited)
      service.#instances.set(number, instance)
    }
    for (const { instance, process } of saved.leaving) service.#leaving.add(adopt(process, instance))
    service.#scaled = saved.scaled
    return service
  }

  /** The generation of new instances: that of the first start, or of the last successful deploy. */
  get stable(): Generation {
    return this.#stable
  }

  /** Numbers of the instances, ascending. */
  get numbers(): number[] {
    return [...this.#instances.keys()].toSorted((one, other) => one - other)
  }

  /** Numbers of the instances that a failed deploy has left with another version than the stable one. */
  get strays(): number[] {
    return this.numbers.filter((number) => this.instance(number)?.generation !== this.#stable)
  }

  /** Whether it has no instance and no process. */
  get empty(): boolean {
    return this.#instances.size + this.#successors.size + this.#leaving.size === 0
  }

  /** Whether it has processes beside those of its instances: on trial, or being ended. */
  get isChanging(): boolean {
    return this.#successors.size + this.#leaving.size > 0
  }

  get processes(): ManagedProcess[] {
    const current = [...this.#instances.values()].flatMap(({ process }) => process ?? [])
    return [...current, ...this.#successors.values(), ...this.#leaving]
  }

  statuses(): InstanceStatus[] {
    return [
      ...this.numbers.flatMap((number) => this.#instances.get(number)?.status ?? []),
      ...[...this.#successors.values()].map((process) => process.status('starting')),
      ...[...this.#leaving].map((process) => process.status('stopping')),
    ]
  }

  /** All its running processes, for the workers. */
  get managed(): ManagedReport[] {
    return this.processes.flatMap((process) => {
      const { id, pid } = process
      return pid === undefined ? [] : { id, service: this.name, pid, leaving: this.#leaving.has(process) }
    })
  }

  instance(number: number): Instance | undefined {
    return this.#instances.get(number)
  }

  /** In ms. */
  get drainDeadline(): number {
    return this.#drainDeadline
  }

  configure(drainDeadline: number): void {
    this.#drainDeadline = drainDeadline
  }

  /** Undefined while the configuration says how many instances there are. */
  get scaled(): Scaled | undefined {
    return this.#scaled
  }

  /** Runs as many instances as the configuration says, or as an operator has said since it says so. */
  arrange(configured: number): void {
    const { to, configured: before } = this.#scaled ?? {}
    if (before !== undefined && before !== configured) {
      const facts = { service: this.name, instances: configured, scaled: to }
      this.#context.logger.info(facts, 'the configuration has another number of instances, so the scale ends')
      this.#scaled = undefined
    }
    this.#run(this.#scaled?.to ?? configured)
  }

  /** Runs this many instances, also over reloads, until the configuration says another number than `configured`. */
  scale(to: number, configured: number): Rescaled {
    this.#scaled = to === configured ? undefined : { to, configured }
    const difference = this.#run(to)
    this.#context.changed?.()
    return difference
  }

  /** Starts missing instances up to `count`, and retires those beyond it. */
  #run(count: number): Rescaled {
    const stopped = this.numbers.filter((number) => number > count)
    const retired = stopped.flatMap((number) => this.#stopInstance(number, this.#drainDeadline) ?? [])
    const started: number[] = []
    for (let number = 1; number <= count; number++) {
      if (this.#instances.has(number)) continue
      const instance = new Instance(number, this.#stable, this.#context, this.#exited)
      this.#instances.set(number, instance)
      instance.start()
      started.push(number)
    }
    return { started, retired, stopped }
  }

  /** Ends every process, with at most this many ms for each phase. */
  stop(atMost: number): void {
    const deadline = Math.min(atMost, this.#drainDeadline)
    // No worker follows.
    this.#returning = NONE_RETURN
    for (const number of this.numbers) this.#stopInstance(number, deadline)
    for (const process of this.#successors.values()) this.#retire(process, deadline)
    this.#successors.clear()
    for (const process of this.#leaving) process.retire(deadline, this.#isListed(process))
    this.#context.changed?.()
  }

  /** Numbers `definition`. Only `commit` makes it the stable generation. */
  nextGeneration(definition: Definition): Generation {
    this.#latest += 1
    return { number: this.#latest, definition }
  }

  commit(generation: Generation): void {
    this.#stable = generation
  }

  /** Whether `definition` is the stable one; any other waits for a deploy. */
  runs(definition: Definition): boolean {
    return sameDefinition(this.#stable.definition, definition)
  }

  /** Starts a process of `generation` next to the instance's current one. */
  startSuccessor(number: number, generation: Generation): ManagedProcess {
    const named = { id: this.#context.os.id(), instance: `${this.name}.${number}`, generation }
    const process = ManagedProcess.start(named, this.#context, this.#exited)
    this.#successors.set(number, process)
    this.#context.changed?.()
    return process
  }

  /** Makes the successor the instance's process. The former process is retired and returned; undefined if none was running. */
  promote(number: number): ManagedProcess | undefined {
    const successor = this.#successors.get(number)
    const instance = this.#instances.get(number)
    if (successor === undefined || instance === undefined) return undefined
    this.#successors.delete(number)
    const former = instance.replace(successor)
    if (former !== undefined) this.#retire(former, this.#drainDeadline)
    this.#context.changed?.()
    return former
  }

  /** Retires the successor. */
  discard(number: number): void {
    const successor = this.#successors.get(number)
    if (successor === undefined) return
    this.#successors.delete(number)
    this.#retire(successor, this.#drainDeadline)
    this.#context.changed?.()
  }

  /** Replaces what the workers list. */
  reported(reports: readonly BackendReport[]): void {
    this.#reports = reports
    if (this.#returning.until === Number.POSITIVE_INFINITY)
      this.#returning = { ...this.#returning, until: this.#context.os.now() + RETURN_TIMEOUT_MS }
    for (const process of this.#leaving) {
      if (this.#isListed(process)) process.listed()
      else process.drained()
    }
    const slots = slotsOf(reports)
    let changed = false
    for (const process of this.processes) {
      const slot = slots.get(process.id)
      if (slot !== undefined && process.registered(slot)) changed = true
    }
    if (changed) this.#context.changed?.()
  }

  /**
   * A worker is gone that may have been draining some of the processes.
   *
   * @param reports what the other workers list
   * @param served see `Fleet.lost`
   */
  lost(reports: readonly BackendReport[], served: boolean): void {
    for (const process of this.#leaving) if (!isListed(reports, process.id)) process.lost()
    if (!served) return
    // Those that a worker before it listed may not have registered with this one yet.
    const before = this.#context.os.now() < this.#returning.until ? this.#returning.reports : []
    this.#returning = { reports: [...this.#reports, ...before], until: Number.POSITIVE_INFINITY }
    this.#reports = reports
  }

  /** @param until when successors on trial are to be ended: the deploy that tries them does not go on. Default: they are not part of it */
  save(until?: number): ServiceState {
    const instances = [...this.#instances.values()]
    const generations = new Map<number, Generation>([[this.#stable.number, this.#stable]])
    for (const { generation } of instances) generations.set(generation.number, generation)
    for (const { identity } of this.processes)
      generations.set(identity.generation.number, identity.generation)
    return {
      name: this.name,
      stable: this.#stable.number,
      latest: this.#latest,
      generations: [...generations.values()],
      instances: instances.map((instance) => instance.save()),
      ...(this.#scaled && { scaled: this.#scaled }),
      drainDeadline: this.#drainDeadline,
      leaving: [
        ...[...this.#leaving].flatMap((process) => leavingOf(process, process.save())),
        ...(until === undefined ? [] : this.#successorsUntil(until)),
      ],
    }
  }

  #successorsUntil(until: number): ServiceState['leaving'] {
    const life = { kind: 'draining', until, unobserved: true } as const
    return [...this.#successors.values()].flatMap((process) => leavingOf(process, process.save(), life))
  }

  close(): void {
    for (const instance of this.#instances.values()) instance.close()
    for (const process of this.processes) process.close()
    this.#instances.clear()
    this.#successors.clear()
    this.#leaving.clear()
  }

  #isListed({ id }: ManagedProcess): boolean {
    return isListed(this.#reports, id)
  }

  /** @returns its process, which is being ended */
  #stopInstance(number: number, deadline: number): ManagedProcess | undefined {
    const process = this.#instances.get(number)?.stop()
    this.#instances.delete(number)
    if (process !== undefined) this.#retire(process, deadline)
    return process
  }

  #retire(process: ManagedProcess, deadline: number): void {
    this.#leaving.add(process)
    const listed = this.#isListed(process)
    // The next worker drains it: it may have connections.
    const returns = !listed && this.#isReturning(process)
    process.retire(deadline, listed || returns)
    if (returns) process.lost()
  }

  #isReturning({ id }: ManagedProcess): boolean {
    const { reports, until } = this.#returning
    return this.#context.os.now() < until && isListed(reports, id)
  }

  readonly #exited: Exited = (process, exit) => {
    this.#leaving.delete(process)
    for (const [number, successor] of this.#successors) {
      if (successor === process) this.#successors.delete(number)
    }
    const instance = [...this.#instances.values()].find((each) => each.process === process)
    instance?.exited(process)
    this.#notifyExited(process, exit, instance !== undefined)
    this.#context.changed?.()
  }
}

function leavingOf(
  { identity: { instance } }: ManagedProcess,
  saved: ProcessState | undefined,
  life?: ProcessState['life'],
): ServiceState['leaving'] {
  if (saved === undefined) return []
  return [{ instance, process: life === undefined ? saved : { ...saved, life } }]
}
