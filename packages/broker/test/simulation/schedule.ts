import { nextArrival } from '../../src/worker/connection/connection.ts'
import { Backend, type Live } from './backend.ts'
import { Broker } from './broker.ts'
import { Client } from './client.ts'
import { Kernel, Killed, type Process, type Sabotage, Violation } from './kernel.ts'
import { Random } from './random.ts'
import { drawTerms, type Terms } from './terms.ts'

export type { Sabotage } from './kernel.ts'

/** Steps of a schedule in which faults happen. */
const STEPS = 160
/** Steps after the last fault within which everything must settle; each is an event, so this is far more than needed. */
const MAX_SETTLING_STEPS = 20_000
/** The same limit in simulated time. */
const SETTLING_TIMEOUT_MS = 15_000
/** Milliseconds without faults after which no client may be rejected. */
const GRACE = 4000
const MAX_BACKENDS = 4
/** Processes that may be stopped in the middle of a system call at the same time. */
const MAX_SUSPENDED = 2

interface Action {
  readonly weight: number
  readonly label: string
  readonly process: Process | undefined
  readonly run: () => void
}

export interface Outcome {
  readonly steps: number
  readonly accepted: number
  readonly violation: Violation | undefined
  /** Events that must have happened in a whole run, with their counts. */
  readonly seen: ReadonlyMap<string, number>
}

export interface ScheduleOptions {
  /** Receives each step, and each system call in it. */
  readonly log?: ((line: string) => void) | undefined
  readonly sabotage?: Sabotage | undefined
}

/** Runs one schedule: the same seed gives the same schedule, to the last step. */
export function runSchedule(seed: number, options: ScheduleOptions = {}): Outcome {
  return new Schedule(seed, options).run()
}

class Schedule {
  readonly #kernel: Kernel
  readonly #random: Random
  readonly #terms: Terms
  readonly #backends: Backend[] = []
  readonly #clients: Client[] = []
  readonly #brokers: Broker[] = []
  readonly #seen = new Map<string, number>()
  #broker: Broker
  #steps = 0
  #suspended = 0
  #kills: number
  #brokerKills: number
  #reloads: number
  #liars: number
  #calm = false

  constructor(seed: number, options: ScheduleOptions) {
    this.#kernel = new Kernel(options)
    this.#random = new Random(seed)
    this.#terms = drawTerms(this.#random)
    this.#kills = this.#terms.kills
    this.#brokerKills = this.#terms.brokerKills
    this.#reloads = this.#terms.reloads
    this.#liars = this.#terms.liars
    this.#broker = this.#startBroker()
    for (let count = this.#random.between(1, 3); count > 0; count--) this.#startBackend()
    this.#kernel.interrupts = { preempt: (process) => this.#preempt(process) }
  }

  run(): Outcome {
    try {
      while (this.#steps < STEPS) this.#step()
      this.#settle()
      this.#shut()
    } catch (error) {
      if (!(error instanceof Violation)) throw error
    }
    for (const { service } of this.#brokers) {
      for (const [outcome, count] of Object.entries(service.serviceStats.outcomes)) this.#note(outcome, count)
    }
    const { violation } = this.#kernel
    return { steps: this.#steps, accepted: this.#clients.length, violation, seen: this.#seen }
  }

  #step(): boolean {
    this.#steps += 1
    const actions = this.#progress()
    const moving = actions.length > 0
    if (!this.#calm) actions.push(...this.#faults())
    if (!moving || (!this.#calm && this.#random.chance(0.1))) actions.push(...this.#passTime())
    const action = this.#draw(actions)
    if (action === undefined) return false
    this.#perform(action)
    return true
  }

  #perform({ label, process, run }: Action): void {
    if (this.#kernel.tracing) this.#kernel.trace(process?.name ?? '', `> ${label}`)
    try {
      run()
    } catch (error) {
      if (!(error instanceof Killed)) throw error
    }
    // The code under test may have caught the exception.
    if (this.#kernel.violation !== undefined) throw this.#kernel.violation
    for (const broker of this.#liveBrokers) {
      if (broker.process.suspended > 0) continue
      broker.checkConservation()
      broker.checkReadBack()
    }
  }

  get #liveBrokers(): Broker[] {
    return this.#brokers.filter(({ process }) => process.alive)
  }

  /** Actions of the processes themselves. */
  #progress(): Action[] {
    const actions: Action[] = []
    const { kernel, add } = { kernel: this.#kernel, add: adder(actions) }
    for (const { process } of [...this.#brokers, ...this.#backends]) {
      if (process.dying) {
        add(6, 'is dead: the kernel closes something', process, () => process.reap(this.#random.next()))
      }
      if (!process.runnable) continue
      const [task] = process.tasks
      if (task !== undefined) {
        add(8, 'goes on', process, () => {
          process.tasks.shift()
          task()
        })
      }
      if ((process.nextDue ?? Infinity) <= kernel.now) add(4, 'timer', process, () => process.runTimer())
    }
    for (const broker of this.#brokers) if (broker.process.runnable) this.#brokerProgress(broker, add)
    for (const backend of this.#backends) {
      if (backend.process.runnable) this.#backendProgress(backend, add)
    }
    return actions
  }

  #brokerProgress(broker: Broker, add: Add): void {
    const { process } = broker
    for (const { link, socket } of broker.links) {
      if (socket.readable)
        add(4, `reads control of ${link.identity.ulid}`, process, () => socket.read(this.#chunk()))
      if (socket.writable)
        add(4, `control of ${link.identity.ulid} takes more`, process, () => socket.drain())
    }
    for (const report of broker.pollEvents()) add(2, 'poller', process, report)
    for (const pipe of broker.pipes) {
      if (pipe.over) broker.pipes.delete(pipe)
      const event = pipe.brokerEvent
      if (event !== undefined) add(3, 'relay', process, event)
    }
    if (broker.awaitsMoved) add(3, 'is passed a connection', process, () => broker.receiveMoved())
    if (broker.mayEnd) add(0.5, 'ends, replaced', process, () => broker.end())
    for (const backend of this.#backends) {
      if (!backend.wantsRegistration || backend.pending !== undefined || !backend.healthy) continue
      if (broker.stopped || broker !== this.#broker) continue
      add(2, `welcomes ${backend.process.name}`, process, () => backend.dial(broker, this.#terms.controlRoom))
    }
  }

  #backendProgress(backend: Backend, add: Add): void {
    const { process, pending } = backend
    if (pending !== undefined) add(3, 'is registered', process, pending)
    for (const { socket, lane } of backend.sessions) {
      if (socket.readable) add(4, 'reads control', process, () => socket.read(this.#chunk()))
      if (socket.writable) add(4, 'control takes more', process, () => socket.drain())
      if (lane.awaited) add(3, 'sees the end of its lane', process, () => lane.report())
    }
    for (const pipe of this.#liveBrokers.flatMap(({ pipes }) => [...pipes])) {
      if (pipe.endpoint.process !== process) continue
      const event = pipe.backendEvent
      if (event !== undefined) add(3, 'is dialled', process, event)
    }
    const { live, idle } = backend
    if (live.length > 0) {
      add(0.5, 'a connection ends', process, () => backend.endOne(this.#random.between(0, live.length - 1)))
    } else if (backend.state === 'draining') add(0.5, 'has drained', process, () => backend.finishDrain())
    for (const connection of live) {
      const { fd, client, byte } = connection
      if (fd !== undefined && (byte !== undefined || client.unread > 0))
        add(1, byte === undefined ? `reads from ${client.label}` : `answers ${client.label}`, process, () => {
          backend.serve(connection)
        })
    }
    if (idle.length > 0 && !this.#broker.stopped)
      add(backend.state === 'draining' ? 3 : this.#calm ? 0.1 : 1, 'hands back', process, () => {
        backend.handBack(this.#random.between(1, idle.length))
      })
  }

  /** Actions on the processes. */
  #faults(): Action[] {
    const actions: Action[] = []
    const add = adder(actions)
    const { trouble, clients, protocol } = this.#terms
    const broker = this.#broker
    if (broker.process.runnable) {
      if (this.#clients.length < clients) add(3, 'accepts', broker.process, () => this.#accept(protocol))
      if (this.#reloads > 0 && this.#liveBrokers.length < 2)
        add(0.3, 'is replaced', broker.process, () => this.#reload(broker))
      for (const { link } of broker.links)
        add(trouble * 0.1, 'drains a backend', broker.process, () => link.drain(1000, 'x'))
    } else if (!broker.process.alive) add(1, 'a broker starts', undefined, () => this.#startBroker())
    for (const { process } of this.#liveBrokers) {
      if (this.#brokerKills === 0 || !process.runnable) continue
      add(0.2, 'is about to be killed', process, () => {
        this.#brokerKills -= 1
        process.fuse = this.#random.between(0, 20)
        this.#note('broker killed')
      })
    }
    for (const client of this.#clients) {
      if (client.open && !client.gone && !client.ended)
        add(client.owner === undefined ? 0.1 : 0.2, `${client.label} moves`, undefined, () =>
          this.#move(client),
        )
    }
    for (const backend of this.#backends) if (backend.process.alive) this.#backendFaults(backend, add)
    if (this.#backends.filter(({ healthy }) => healthy).length < 2 && this.#backends.length < MAX_BACKENDS)
      add(0.5, 'a backend starts', undefined, () => this.#startBackend())
    return actions
  }

  #backendFaults(backend: Backend, add: Add): void {
    const { process } = backend
    const { trouble } = this.#terms
    if (process.frozen) {
      add(0.4, 'SIGCONT', process, () => {
        process.frozen = false
      })
    } else {
      add(trouble * 0.3, 'SIGSTOP', process, () => {
        process.frozen = true
        this.#note('frozen')
      })
    }
    if (this.#kills > 0) {
      add(0.3, 'is about to be killed', process, () => {
        this.#kills -= 1
        process.fuse = this.#random.between(0, 12)
        this.#note('backend killed')
      })
    }
    if (!process.runnable) return
    add(trouble * 0.2, 'overload', process, () => {
      backend.overloaded = !backend.overloaded
    })
    add(trouble * 0.2, 'runs out of descriptors, or recovers', process, () => {
      backend.starved = !backend.starved
    })
    add(trouble * 0.1, 'drains', process, () => backend.drain())
    add(trouble * 0.1, 'closes', process, () => backend.close())
    if (this.#liars > 0) {
      add(0.2, 'misbehaves', process, () => {
        this.#liars -= 1
        this.#note('misbehaviour')
        backend.misbehave(this.#random.pick(['garbage', 'stranger', 'stray']))
      })
    }
  }

  /** Advances to the next timer of a process that can run it, or by a little. */
  #passTime(): Action[] {
    const actions: Action[] = []
    const add = adder(actions)
    let next = Infinity
    for (const { process } of [...this.#brokers, ...this.#backends]) {
      const due = process.runnable ? process.nextDue : undefined
      if (due !== undefined && due > this.#kernel.now) next = Math.min(next, due)
    }
    const to = (time: number) => () => {
      this.#kernel.now = time
    }
    if (next < Infinity) add(1, 'time passes to the next timer', undefined, to(next))
    if (!this.#calm) add(0.5, 'time passes', undefined, to(this.#kernel.now + this.#random.between(1, 400)))
    return actions
  }

  /** Runs other processes while `process` is stopped in the middle of a call. */
  #preempt(process: Process): void {
    if (this.#suspended >= MAX_SUSPENDED || !this.#random.chance(this.#terms.preemption)) return
    this.#kernel.trace(process.name, '--- stopped in the middle')
    this.#note('preempted')
    this.#suspended += 1
    process.suspended += 1
    for (let count = this.#random.between(1, 14); count > 0; count--) this.#step()
    process.suspended -= 1
    this.#suspended -= 1
    this.#kernel.trace(process.name, '--- goes on')
  }

  /** Faults stop, all processes run, and one backend can serve: from now on no client may be left over. */
  #settle(): void {
    this.#calm = true
    this.#kernel.trace('', '=== faults stop')
    this.#kernel.interrupts = { preempt: () => undefined }
    if (!this.#broker.process.alive) this.#startBroker()
    for (const { process } of this.#brokers) process.fuse = undefined
    for (const backend of this.#backends) {
      backend.process.frozen = false
      backend.process.fuse = undefined
      backend.overloaded = false
      backend.starved = false
    }
    this.#startBackend()
    const { service } = this.#broker
    const start = this.#kernel.now
    const waiting = () =>
      this.#liveBrokers.some(
        (each) =>
          each.service.inFlight + each.service.held > 0 ||
          each.awaitsMoved ||
          (each.leaving && each.service.parkedCount > 0),
      )
    for (let count = 0; waiting() || this.#unready() !== undefined; count++) {
      const waited = this.#kernel.now - start
      if (waited > GRACE) this.#broker.mustServe = true
      if (count > MAX_SETTLING_STEPS || waited > SETTLING_TIMEOUT_MS || !this.#step()) {
        this.#kernel.violate(
          `liveness: after ${waited} ms without faults ${service.held} are held, ${service.inFlight} in flight, ` +
            `and not ready: ${this.#unready() ?? 'none'}`,
        )
      }
    }
  }

  /** A backend that could serve and is not eligible. */
  #unready(): string | undefined {
    const ready = new Set(
      [...this.#broker.links].map(({ link }) => link.eligibility.state === 'ready' && link.identity.ulid),
    )
    return this.#backends.find(({ healthy, process }) => healthy && !ready.has(process.name))?.process.name
  }

  /** All processes exit cleanly; after that, nothing of them is left. */
  #shut(): void {
    this.#kernel.trace('', '=== shutdown')
    for (const broker of this.#liveBrokers) {
      if (broker.stopped) continue
      this.#perform({ weight: 1, label: 'ends', process: broker.process, run: () => broker.end() })
    }
    const ending = this.#kernel.now
    // Past every timer that could still release something.
    while (this.#kernel.now - ending < 2 * SETTLING_TIMEOUT_MS) {
      for (const backend of this.#backends) {
        if (backend.process.alive && backend.pending === undefined && backend.state !== 'closed')
          this.#perform({ weight: 1, label: 'ends', process: backend.process, run: () => backend.close() })
      }
      if (!this.#step()) break
    }
    this.#assertNothingLeft()
  }

  #assertNothingLeft(): void {
    for (const { process, live } of [
      ...this.#brokers.map(({ process: each }) => ({ process: each, live: [] as Live[] })),
      ...this.#backends,
    ]) {
      if (!process.alive) continue
      while (live.length > 0) live.pop()?.end()
      const left = process.files.map(({ label }) => label)
      if (left.length > 0) this.#kernel.violate(`I6: ${process.name} has left open: ${left.join('; ')}`)
    }
    for (const client of this.#clients) {
      if (client.open) this.#kernel.violate(`I4: ${client.label} is open, but has no holder`)
    }
  }

  #accept(protocol: 'http' | 'tcp'): void {
    const fresh: Client[] = []
    for (let count = this.#random.between(1, 4); count > 0; count--) {
      const client = new Client(this.#clients.length + 1, this.#broker.process, nextArrival())
      this.#clients.push(client)
      fresh.push(client)
    }
    this.#broker.accept(fresh, protocol)
  }

  #move(client: Client): void {
    const moves: (() => void)[] = [
      () => {
        client.gone = true
      },
    ]
    if (!client.finished) {
      if (client.sent < this.#terms.bytes) {
        const send = () => {
          client.sent += 1
        }
        moves.push(send, send)
      }
      moves.push(() => {
        client.finished = true
      })
    }
    this.#random.pick(moves)()
  }

  /** Another worker takes over, and this one passes on what waits. */
  #reload(predecessor: Broker): void {
    this.#reloads -= 1
    this.#note('reload')
    const successor = this.#startBroker()
    predecessor.handOver(successor)
  }

  #startBroker(): Broker {
    const name = `broker-${this.#brokers.length + 1}`
    const broker = new Broker(this.#kernel, name, this.#terms, this.#random)
    // The successor of those that are leaving has died.
    for (const each of this.#liveBrokers) {
      if (!each.leaving || each.stopped) continue
      this.#note('another successor')
      each.process.tasks.push(() => {
        if (!each.stopped && !broker.stopped && broker.process.alive) each.handOver(broker)
      })
    }
    this.#brokers.push(broker)
    this.#broker = broker
    return broker
  }

  #startBackend(): void {
    const name = `backend-${this.#backends.length + 1}`
    const host = {
      clientOf: (order: number) => this.#clients[order - 1] as Client,
      random: this.#random,
      note: (what: string) => this.#note(what),
    }
    this.#backends.push(new Backend(this.#kernel, name, this.#terms.service, host))
  }

  /** The size of one read: streams may be cut anywhere. */
  #chunk(): number {
    return this.#random.chance(0.3) ? this.#random.between(1, 64) : 64 * 1024
  }

  #draw(actions: readonly Action[]): Action | undefined {
    let rest = this.#random.next() * actions.reduce((sum, { weight }) => sum + weight, 0)
    for (const action of actions) {
      rest -= action.weight
      if (rest < 0) return action
    }
    return actions.at(-1)
  }

  #note(what: string, times = 1): void {
    this.#seen.set(what, (this.#seen.get(what) ?? 0) + times)
  }
}

type Add = (weight: number, label: string, process: Process | undefined, run: () => void) => void

function adder(actions: Action[]): Add {
  return (weight, label, process, run) => {
    if (weight > 0) actions.push({ weight, label, process, run })
  }
}
