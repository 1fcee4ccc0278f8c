import type { Logger } from 'pino'
import type { ManagedReport } from '../../ipc/messages.ts'
import { type Definition, type Generation, sameDefinition } from './definition.ts'
import { Instance, type InstanceHost } from './instance.ts'
import { ManagedProcess, type ManagedProcessHost } from './managed-process.ts'
import type { FleetOs } from './os.ts'
import type { ProcessExit } from '../../supervise/processes.ts'
import type { ServiceState } from './state.ts'
import { statusOfInstance, statusOfProcess } from './status.ts'
import type { InstanceStatus } from '../../api/master-status.ts'

/** What a service needs of its fleet. */
export interface ServiceHost {
  readonly os: FleetOs
  readonly logger: Logger
  environment(definition: Definition, id: string): NodeJS.ProcessEnv
  isListed(id: string): boolean
  drain(service: string, id: string, deadline: number): void
  /** See `FleetOptions`. */
  readonly registrable: ((service: string) => boolean) | undefined
  /** A process has ended, and the service has drawn its conclusions. `inPlace`: it was an instance's, and none that was retired. */
  exited(process: ManagedProcess, exit: ProcessExit, inPlace: boolean): void
  /** Something that `statuses` shows is another. */
  changed(): void
}

/**
 * The instances of one service and all its processes: those in their places, successors that are being tried beside them
 * (at most one for each place), and those on their way out.
 */
export class ManagedService {
  readonly name: string
  readonly #host: ServiceHost
  readonly #instances = new Map<number, Instance>()
  readonly #successors = new Map<number, ManagedProcess>()
  readonly #leaving = new Set<ManagedProcess>()
  #stable: Generation
  #latest: number
  /** Milliseconds. */
  #drainDeadline: number

  constructor(stable: Generation, latest: number, drainDeadline: number, host: ServiceHost) {
    this.name = stable.definition.service
    this.#stable = stable
    this.#latest = latest
    this.#drainDeadline = drainDeadline
    this.#host = host
  }

  static restore(saved: ServiceState, drainDeadline: number, host: ServiceHost): ManagedService {
    const generations = new Map(saved.generations.map((generation) => [generation.number, generation]))
    const find = (number: number): Generation => {
      const found = generations.get(number)
      if (found === undefined) throw new Error(`the state of ${saved.name} lacks generation ${number}`)
      return found
    }
    const service = new ManagedService(find(saved.stable), saved.latest, drainDeadline, host)
    for (const record of saved.instances) {
      const { process: state } = record
      const process =
        state === null
          ? undefined
          : ManagedProcess.restore(
              state,
              find(state.generation),
              `${saved.name}.${record.number}`,
              service.#context(),
            )
      const instance = Instance.restore(record, find(record.generation), process, service.#instanceHost())
      service.#instances.set(record.number, instance)
    }
    for (const { instance, process } of saved.leaving) {
      service.#leaving.add(
        ManagedProcess.restore(process, find(process.generation), instance, service.#context()),
      )
    }
    return service
  }

  /** What new instances are: the generation of the first start, or of the last deploy that succeeded. */
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

  /** Nothing is left of it. */
  get empty(): boolean {
    return this.#instances.size + this.#successors.size + this.#leaving.size === 0
  }

  get processes(): ManagedProcess[] {
    const current = [...this.#instances.values()].flatMap(({ process }) => process ?? [])
    return [...current, ...this.#successors.values(), ...this.#leaving]
  }

  statuses(): InstanceStatus[] {
    return [
      ...this.numbers.flatMap((number) => {
        const instance = this.#instances.get(number)
        return instance === undefined ? [] : statusOfInstance(instance)
      }),
      ...[...this.#successors.values()].map((process) => statusOfProcess(process, 'starting')),
      ...[...this.#leaving].map((process) => statusOfProcess(process, 'stopping')),
    ]
  }

  /** All its processes that run, for the workers. */
  get reports(): ManagedReport[] {
    return this.processes.flatMap((process) => {
      const { id, pid } = process
      return pid === undefined ? [] : { id, service: this.name, pid, leaving: this.#leaving.has(process) }
    })
  }

  instance(number: number): Instance | undefined {
    return this.#instances.get(number)
  }

  configure(drainDeadline: number): void {
    this.#drainDeadline = drainDeadline
  }

  /** Starts what is missing up to `count`, and retires what is beyond it. */
  scale(count: number): void {
    for (const number of this.numbers) if (number > count) this.#stopInstance(number, this.#drainDeadline)
    for (let number = 1; number <= count; number++) {
      if (this.#instances.has(number)) continue
      const instance = new Instance(number, this.#stable, this.#instanceHost())
      this.#instances.set(number, instance)
      instance.start()
    }
  }

  /** Every process is brought to its end, `deadline` milliseconds for each phase of it. */
  stop(deadline: number): void {
    for (const number of this.numbers) this.#stopInstance(number, deadline)
    for (const process of this.#successors.values()) this.#retire(process, deadline)
    this.#successors.clear()
    for (const process of this.#leaving) process.retire(deadline, this.#host.isListed(process.id))
    this.#host.changed()
  }

  /** A number of its own for `definition`. It becomes the stable one by `settle` alone. */
  nextGeneration(definition: Definition): Generation {
    this.#latest += 1
    return { number: this.#latest, definition }
  }

  commit(generation: Generation): void {
    this.#stable = generation
  }

  /** Whether `definition` is what the service runs or is to run; otherwise it waits for a deploy. */
  runs(definition: Definition): boolean {
    return sameDefinition(this.#stable.definition, definition)
  }

  /** Starts a process of `generation` beside the one that has the place. */
  startSuccessor(number: number, generation: Generation): ManagedProcess {
    const process = this.#spawn(`${this.name}.${number}`, generation, this.#host.os.id())
    this.#successors.set(number, process)
    this.#host.changed()
    return process
  }

  /** The successor gets the place. What was there is retired and returned; undefined when nothing ran there. */
  promote(number: number): ManagedProcess | undefined {
    const successor = this.#successors.get(number)
    const instance = this.#instances.get(number)
    if (successor === undefined || instance === undefined) return undefined
    this.#successors.delete(number)
    const former = instance.replace(successor)
    if (former !== undefined) this.#retire(former, this.#drainDeadline)
    this.#host.changed()
    return former
  }

  /** The successor is not wanted. */
  discard(number: number): void {
    const successor = this.#successors.get(number)
    if (successor === undefined) return
    this.#successors.delete(number)
    this.#retire(successor, this.#drainDeadline)
    this.#host.changed()
  }

  /** The broker lists other backends than before. */
  reported(): void {
    for (const process of this.#leaving) if (!this.#host.isListed(process.id)) process.drained()
    for (const process of this.processes)
      if (process.unregistered && this.#host.isListed(process.id)) process.registered()
  }

  /** A worker has gone that saw some of them drain; the others see those that are listed. */
  lost(isListed: (id: string) => boolean): void {
    for (const process of this.#leaving) if (!isListed(process.id)) process.lost()
  }

  save(): ServiceState {
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
      leaving: [...this.#leaving].flatMap((process) => {
        const saved = process.save()
        return saved === undefined ? [] : [{ instance: process.identity.instance, process: saved }]
      }),
    }
  }

  close(): void {
    for (const instance of this.#instances.values()) instance.close()
    for (const process of this.processes) process.close()
    this.#instances.clear()
    this.#successors.clear()
    this.#leaving.clear()
  }

  #stopInstance(number: number, deadline: number): void {
    const process = this.#instances.get(number)?.stop()
    this.#instances.delete(number)
    if (process !== undefined) this.#retire(process, deadline)
  }

  #retire(process: ManagedProcess, deadline: number): void {
    this.#leaving.add(process)
    process.retire(deadline, this.#host.isListed(process.id))
  }

  #spawn(instance: string, generation: Generation, id: string): ManagedProcess {
    const { os } = this.#host
    const identity = { id, instance, generation, startedAt: os.now(), since: os.date() }
    return ManagedProcess.start(identity, this.#host.environment(generation.definition, id), this.#context())
  }

  #context(): { os: FleetOs; host: ManagedProcessHost; logger: Logger } {
    const { os, logger, registrable } = this.#host
    return {
      os,
      logger,
      host: {
        drain: (process, deadline) => this.#host.drain(this.name, process.id, deadline),
        registrable: registrable && (() => registrable(this.name)),
        exited: (process, exit) => this.#exited(process, exit),
      },
    }
  }

  #instanceHost(): InstanceHost {
    return {
      clock: this.#host.os,
      logger: this.#host.logger,
      newId: () => this.#host.os.id(),
      spawn: (instance, id) => {
        const process = this.#spawn(instance.name, instance.generation, id)
        this.#host.changed()
        return process
      },
    }
  }

  #exited(process: ManagedProcess, exit: ProcessExit): void {
    this.#leaving.delete(process)
    for (const [number, successor] of this.#successors) {
      if (successor === process) this.#successors.delete(number)
    }
    const instance = [...this.#instances.values()].find((each) => each.process === process)
    instance?.exited(process)
    this.#host.exited(process, exit, instance !== undefined)
    this.#host.changed()
  }
}
