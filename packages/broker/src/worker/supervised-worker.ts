import {
  dup,
  NativeError,
  OwnedFd,
  peerCredentials,
  poll,
  Poller,
  POLLHUP,
  setCloseOnExec,
  socketpair,
} from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { Shifts } from '../api/shift.ts'
import type { MasterStatus } from '../api/master-status.ts'
import { Channel } from '../ipc/channel.ts'
import { CLAIM_VERSION, type Claimed } from '../ipc/claim.ts'
import { answerText } from '../ipc/operator-protocol.ts'
import type { OperatorSession } from '../ipc/operator-session.ts'
import { type FromWorker, type SocketRole, type ToWorker, WORKER_CHANNEL } from '../ipc/messages.ts'
import { errnoOf } from '../config/error.ts'
import type { Config, ListenerConfig, ServiceConfig } from '../config/config.ts'
import { unpack, unpackConfig } from '../config/packed.ts'
import { longestDrainDeadline } from '../config/service-rules.ts'
import { Copier } from './copies/copier.ts'
import type { Successor } from './service/hand-over.ts'
import { createLogger, type LogFormat } from '../log/logger.ts'
import { exitProcess, standardOutput } from '../log/standard.ts'
import { closeStrayInspector, ignoreMeaninglessSignals } from '../signals.ts'
import type { Sockets } from '../listening/sockets.ts'
import { ManagedProcesses } from './registry/managed-processes.ts'
import { Occasion } from '../supervise/occasion.ts'
import { factsOf } from '../supervise/proc.ts'
import { KeptEstate, type Kept } from './unclaimed/estate.ts'
import { Reception } from './unclaimed/reception.ts'
import { brokerFacts } from './view.ts'
import { Predecessors } from './succession/predecessors.ts'
import { Questions } from './questions.ts'
import { logStatus } from './status-log.ts'
import type { Transfer } from '../ipc/transfer.ts'
import { MOVED_AT_A_TIME, Successors } from './succession/successors.ts'
import type { ReplaceableWorker } from './replaceable-worker.ts'
import { createWorker } from './worker.ts'

/** Timeout for a successor to say that it goes on, in milliseconds: it hangs. */
const HEIR_TIMEOUT_MS = 5000

/** How often counters are reported to the master, in milliseconds. A SIGKILL loses at most the counts of this time. */
const COUNT_INTERVAL_MS = 1000

/** Messages that workers of older versions do not know. */
const ABILITIES = { succeeds: true, pairs: true, pauses: true } as const

type Finish = Pick<Extract<ToWorker, { type: 'finish' }>, 'removed' | 'deadline'>

/** The order that a worker carries out if its master is killed before it can give it, and the socket to the successor, owned. */
interface Heirship {
  readonly socket: OwnedFd
  readonly order: Finish
}

/**
 * A worker under a master: executes the master's messages and reports back. Its states follow the messages (`ToWorker`): waiting for
 * sockets, built, serving, accepting, finishing. If the master is killed, the worker that serves is unclaimed: it goes on, answers operators
 * itself, and waits for the next master. A worker without an estate drains and exits, which frees the addresses.
 */
export class SupervisedWorker {
  readonly #poller: Poller
  readonly #logger: Logger
  readonly #end: (code: number) => void
  #channel: Channel<ToWorker, FromWorker>
  readonly #listeners = new Map<string, OwnedFd>()
  readonly #managed = new ManagedProcesses()
  #control: OwnedFd | undefined
  #admin: OwnedFd | undefined
  #agentCheck: OwnedFd | undefined
  #worker: ReplaceableWorker | undefined
  #copier: Copier | undefined
  #config: Config | undefined
  #drainDeadline = 0
  /** Those in force. */
  #shifts: Shifts = {}
  readonly #questions = new Questions((message) => {
    if (!this.#channel.open) return false
    this.#channel.send(message)
    return true
  })
  readonly #predecessors: Predecessors
  #orders: Promise<void> = Promise.resolve()
  readonly #counting = new Occasion(COUNT_INTERVAL_MS, async () => {
    // Both together: each message wakes the master.
    const snapshot = await this.#worker?.snapshot()
    // States also change with time.
    this.#report()
    if (snapshot !== undefined) this.#channel.send({ type: 'counted', snapshot })
  })
  #reportsSoon = false
  #estate: KeptEstate | undefined
  #reception: Reception | undefined
  #accepts = false
  /** Its pid; null while there is none. */
  #master: number | null = process.ppid
  #ending = false
  /** The master is gone, and no other one has this worker yet: it may wait for its successor. */
  #isOrphaned = false
  /** It got SIGTERM meanwhile. */
  #isTerminated = false
  readonly #successors: Successors
  /** Of the `finish` to come, between `successor` and `finish`. */
  #heir: Heirship | undefined

  /** Owns `socket`. `end` exits the process. */
  constructor(socket: OwnedFd, poller: Poller, logger: Logger, end: (code: number) => void) {
    this.#poller = poller
    this.#logger = logger
    this.#end = end
    const worker = () => this.#worker
    const counted = () => this.#copier?.writeAccounts()
    this.#predecessors = new Predecessors(poller, logger, worker, counted)
    this.#successors = new Successors(poller, worker, counted)
    this.#channel = this.#connect(socket)
  }

  /** True while no master has this worker. */
  get isUnclaimed(): boolean {
    return this.#reception !== undefined
  }

  /** SIGTERM, for a worker without a master; with one, signals are the master's. */
  terminate(): void {
    if (this.isUnclaimed) void this.#stopUnclaimed('SIGTERM')
    // A service manager sends it right after the death of the master, of which this worker may not have read yet.
    else if (!this.#ending && (this.#isOrphaned || (poll(this.#channel.fd, 0) & POLLHUP) !== 0))
      this.#isTerminated = true
  }

  #connect(socket: OwnedFd): Channel<ToWorker, FromWorker> {
    return new Channel<ToWorker, FromWorker>(socket, this.#poller, {
      message: (message, fds) => this.#received(message, fds),
      ended: () => void this.#orphaned(),
    })
  }

  flush(): void {
    this.#worker?.flush()
    this.#copier?.writeAccounts()
  }

  busy(): boolean {
    return this.#worker?.busy() ?? false
  }

  /**
   * Orders run one at a time. Exceptions: replies and questions, which are handled immediately, and `finish` and `stop`, which do not
   * delay the next order, so that a later `stop` can overtake them.
   */
  #received(message: ToWorker, fds: readonly OwnedFd[]): void {
    if (message.type === 'managed') return this.#managed.update(message.processes)
    // Immediately, because a later `managed` does not wait for orders.
    if (message.type === 'start') this.#managed.update(message.managed ?? [])
    if (message.type === 'metrics' || message.type === 'reloaded' || message.type === 'answer')
      return this.#questions.answered(message)
    if (message.type === 'count') return void this.#count()
    if (message.type === 'ping') return this.#answerPing(message.quiet === true)
    if (message.type === 'dump') return logStatus(this.#logger, this.#worker)
    this.#orders = this.#orders
      .then(() => {
        const done = this.#run(message, fds)
        if (message.type !== 'finish' && message.type !== 'stop') return done
        done.catch((error: unknown) => this.#fail(error))
        return undefined
      })
      .catch((error: unknown) => this.#fail(error))
  }

  async #run(message: ToWorker, fds: readonly OwnedFd[]): Promise<void> {
    switch (message.type) {
      case 'sockets':
        return this.#take(message.role, message.names, fds)
      case 'copies':
        return this.#keepCopies(message.limit, fds as [OwnedFd, OwnedFd])
      case 'start':
        return this.#start(message)
      case 'shifts':
        return this.#shift(message)
      case 'tickets':
        return this.#worker?.useTickets(message.tickets)
      case 'serve':
        await this.#worker?.serve()
        return this.#report()
      case 'accept':
        this.#accepts = true
        this.#worker?.accept()
        return this.#administer()
      case 'estate':
        return this.#keepEstate(message, fds)
      case 'pause':
        await this.#worker?.pause()
        return this.#channel.send({ type: 'paused' })
      case 'release':
        return this.#worker?.askToReconnect(message.reason)
      case 'peer':
        return this.#predecessors.connect(fds[0] as OwnedFd)
      case 'successor':
        this.#heir?.socket.close()
        this.#heir = { socket: fds[0] as OwnedFd, order: message }
        return
      case 'finish': {
        const [attached] = fds
        const socket = attached ?? this.#takeHeir()?.socket
        // One that comes with this order is from a master that may start successors of an older version.
        const confirms = attached === undefined
        return socket && this.#finish(message, this.#successors.connect(socket, confirms))
      }
      case 'stop':
        return message.leave === true ? this.#leave(message.deadline) : this.#stop(message.deadline)
      case 'drain':
        return this.#worker?.drainBackend(message.service, message.backend, message.deadline)
      case 'control':
        return this.#worker?.control(message.service, message.control)
      case 'log':
        return this.#followLog(fds[0] as OwnedFd)
      case 'changed':
        return this.#worker?.announce(message.change)
      case 'listen': {
        const { listener, service } = unpack(message.parts) as {
          listener: ListenerConfig
          service: ServiceConfig
        }
        this.#worker?.listen(listener, fds[0] as OwnedFd, service)
        return this.#channel.send({ type: 'listens', listener: listener.name })
      }
      case 'pairs':
        return this.#channel.send({ type: 'pairs', ask: message.ask, open: this.#predecessors.size })
      // Handled on arrival.
      case 'managed':
      case 'count':
      case 'ping':
      case 'dump':
      case 'metrics':
      case 'reloaded':
      case 'answer':
        return
    }
  }

  /** Takes all sockets before the start; afterwards, sockets whose files were recreated. */
  #take(role: SocketRole, names: readonly string[], fds: readonly OwnedFd[]): void {
    if (this.#worker !== undefined) {
      for (const [index, fd] of fds.entries()) this.#worker.replaceSocket(role, names[index], fd)
      return
    }
    if (role === 'control') this.#control = fds[0]
    else if (role === 'admin') this.#admin = fds[0]
    else if (role === 'agentCheck') this.#agentCheck = fds[0]
    else for (const [index, name] of names.entries()) this.#listeners.set(name, fds[index] as OwnedFd)
  }

  #keepCopies(limit: number, ends: readonly [OwnedFd, OwnedFd]): void {
    if (this.#copier === undefined) this.#copier = new Copier(ends, this.#poller, limit)
    else this.#copier.connect(ends, limit)
  }

  async #start({
    config: text,
    file,
    control,
    known,
    administersLate = false,
    controls = [],
    shifts = {},
    history = {},
    tickets = {},
  }: Extract<ToWorker, { type: 'start' }>): Promise<void> {
    const config =
      file === undefined
        ? unpackConfig(text)
        : (await import('../config/config.ts')).parseConfigText(text, file)
    if (this.#control === undefined || this.#admin === undefined) throw new Error('started without sockets')
    const sockets: Sockets = {
      listeners: this.#listeners,
      control: { fd: this.#control, ...control },
      agentCheck: this.#agentCheck,
    }
    this.#config = config
    this.#drainDeadline = longestDrainDeadline(config)
    this.#shifts = shifts
    // Another master may keep copies: everything that is to be counted and copied is known from the start.
    this.#copier ??= Copier.alone(this.#poller)
    this.#worker = createWorker(config, this.#logger, {
      sockets,
      admin: this.#admin,
      poller: this.#poller,
      known,
      managed: this.#managed,
      onBackends: () => this.#reportSoon(),
      collect: () => this.#questions.collect(),
      reload: (by, wait) => this.#questions.reload(by, wait),
      shifts,
      history,
      onHistory: (points) => this.#channel.send({ type: 'history', points }),
      tickets,
      requestShift: (service, shift, by) => this.#questions.shift(service, shift, by),
      requestScale: (service, target, by) => this.#questions.scale(service, target, by),
      droppedLines: () => standardOutput().dropped,
      controls,
      onControl: (service, changed) => this.#channel.send({ type: 'control', service, control: changed }),
      copier: this.#copier,
      master: () => this.#master,
    })
    this.#counting.start()
    if (!administersLate) await this.#worker.loadAdmin()
    this.#channel.send({ type: 'ready', ...ABILITIES })
  }

  /** Not before: a request may need the backends of a predecessor. Clients and backends that are there already go first. */
  #administer(): void {
    setImmediate(() => {
      this.#worker?.administer().catch((error: unknown) => this.#fail(error))
    })
  }

  #shift({ shifts, ask }: Extract<ToWorker, { type: 'shifts' }>): void {
    this.#shifts = shifts
    this.#worker?.shift(shifts)
    this.#channel.send({ type: 'shifted', ask })
  }

  #followLog(file: OwnedFd): void {
    try {
      standardOutput().follow(file.fd)
    } finally {
      file.close()
    }
  }

  /** With the reports, if they are due: they follow within a turn of the event loop. */
  #answerPing(quiet: boolean): void {
    const reported = this.#counting.awake()
    const copier = quiet ? this.#copier : undefined
    if (copier !== undefined) copier.writePulse()
    else if (reported !== undefined) void reported.finally(() => this.#pong())
    else this.#pong()
  }

  #pong(): void {
    this.#channel.send({ type: 'pong', ...ABILITIES })
  }

  /** Once for everything that changes in a turn: a report names every backend. */
  #reportSoon(): void {
    if (this.#reportsSoon) return
    this.#reportsSoon = true
    queueMicrotask(() => {
      this.#reportsSoon = false
      this.#report()
    })
  }

  #report(): void {
    const worker = this.#worker
    if (worker === undefined) return
    const connections = worker.connections()
    this.#channel.send({ type: 'backends', backends: worker.backends(), connections })
  }

  async #count(): Promise<void> {
    if (this.#worker !== undefined)
      this.#channel.send({ type: 'counted', snapshot: await this.#worker.snapshot() })
  }

  #takeHeir(): Heirship | undefined {
    const heir = this.#heir
    this.#heir = undefined
    return heir
  }

  async #finish({ removed, deadline }: Finish, transfer: Transfer): Promise<void> {
    const worker = this.#worker
    const isFirst = !this.#ending
    if (worker === undefined || (!isFirst && !this.#successors.mayFollow)) return transfer.close()
    this.#ending = true
    // The listening sockets are the successor's.
    this.#keepEstate(undefined, [])
    const successor = this.#successors.follow(transfer)
    if (!isFirst) return worker.handOver(successor)
    await worker.finish(removed, successor, deadline, {
      predecessors: this.#predecessors.gone(),
      settled: () => this.#successors.settled(),
      answered: () => this.#questions.reloadsAnswered(),
    })
    this.#successors.end()
    return this.#exit()
  }

  async #stop(deadline: number): Promise<void> {
    const first = !this.#ending
    this.#ending = true
    this.#keepEstate(undefined, [])
    // A successor that takes nothing is not waited for.
    if (deadline === 0) this.#successors.end()
    if (deadline > 0) await this.#worker?.drain(deadline)
    else await this.#worker?.close()
    if (first) await this.#exit()
  }

  /** Like `finish`, with the next start of the broker as the successor. */
  async #leave(deadline: number): Promise<void> {
    const [worker, copier] = [this.#worker, this.#copier]
    if (worker === undefined || copier === undefined || this.#ending) return this.#stop(deadline)
    this.#ending = true
    this.#keepEstate(undefined, [])
    const successor = (service: string): Successor => ({
      slice: MOVED_AT_A_TIME,
      hasRoom: true,
      pass: (connections, taken) => {
        if (!copier.leave(service, connections)) return false
        taken(connections.length)
        return true
      },
      whenReady: (callback) => void setImmediate(callback),
    })
    await worker.finish([], successor, Math.max(1, deadline), {
      predecessors: this.#predecessors.gone(),
      settled: async () => {
        await copier.left()
        return true
      },
      answered: () => this.#questions.reloadsAnswered(),
    })
    await this.#exit()
  }

  async #exit(): Promise<void> {
    this.#counting.stop()
    await this.#count()
    // The counts since the last round of the poller: the master takes what is missing for lost.
    this.#copier?.writeAccounts()
    await this.#channel.sent()
    this.#channel.close()
    this.#end(0)
  }

  async #orphaned(): Promise<void> {
    this.#isOrphaned = true
    this.#questions.unanswered()
    // The last estate may have come together with the end.
    await this.#orders
    if (this.#ending) return
    if (this.#estate !== undefined && this.#accepts) {
      if (await this.#isSucceeded(this.#takeHeir())) return undefined
      return this.#wait(this.#estate)
    }
    // Started early, and not needed.
    if (this.#worker === undefined && this.#listeners.size === 0) return this.#end(0)
    this.#takeHeir()?.socket.close()
    this.#logger.error('the master is gone; draining')
    // Frees the control socket's path for the next master, whose worker the backends then dial.
    this.#worker?.withdraw('the master is gone')
    await this.#stop(Math.max(1, this.#drainDeadline))
  }

  /** Owns the descriptors. Once this worker is about to leave, another one has the estate. */
  #keepEstate(kept: Kept | undefined, fds: readonly OwnedFd[]): void {
    const before = this.#estate
    this.#estate =
      kept === undefined || kept.estate === null || this.#ending ? undefined : new KeptEstate(kept, fds)
    if (this.#estate === undefined) for (const fd of fds) fd.close()
    before?.close()
  }

  /**
   * The master was killed. If that was between `successor` and `finish`, and the successor goes on, everything moves there, as after `finish`. Until that
   * is known, this worker accepts as before; a successor that hangs is not waited for, and may go on later.
   */
  async #isSucceeded(heir: Heirship | undefined): Promise<boolean> {
    if (heir === undefined) return false
    let settle!: (isSucceeded: boolean) => void
    let isWaiting = true
    let isGoingOn = false
    const said = new Promise<boolean>((resolve) => (settle = resolve))
    const transfer = this.#successors.connect(heir.socket, true, (isSucceeded) => {
      settle(isSucceeded)
      // Once it has gone on, its end is as any successor's.
      if (isGoingOn) return
      // Once another master has this worker, it stays.
      if (!isSucceeded || !(isWaiting || this.isUnclaimed)) return transfer.close()
      isGoingOn = true
      this.#reception?.close()
      this.#reception = undefined
      this.#finish(heir.order, transfer).catch((error: unknown) => this.#fail(error))
    })
    const timer = setTimeout(() => settle(false), HEIR_TIMEOUT_MS)
    const isSucceeded = await said
    clearTimeout(timer)
    isWaiting = false
    return isSucceeded
  }

  async #wait(estate: KeptEstate): Promise<void> {
    this.#master = null
    this.#predecessors.succeed()
    this.#copier?.close()
    if (this.#config !== undefined) estate.readOutputs(this.#logger, this.#config)
    this.#logger.error('the master is gone; going on without one, until the next start or stop')
    this.#reception = new Reception(estate.operator, this.#poller, {
      status: () => this.#statusUnclaimed(),
      stop: (session) => void this.#stopUnclaimed(session.peer, session),
      claim: (session) => void this.#claim(session, estate),
    })
    this.#isOrphaned = false
    // It may have been told to pause, for a successor that is gone as well.
    await this.#worker?.serve()
    if (this.#isTerminated && this.isUnclaimed) void this.#stopUnclaimed('SIGTERM')
  }

  #statusUnclaimed(): MasterStatus {
    const [worker, config] = [this.#worker, this.#config]
    const broker = worker && config && brokerFacts(worker.status(), config.file ?? '', worker.connections())
    return {
      master: null,
      managed: [],
      workers: [{ pid: process.pid, role: 'serving' }],
      ...(broker && { broker }),
    }
  }

  async #claim(session: OperatorSession, estate: KeptEstate): Promise<void> {
    const worker = this.#worker
    const started = factsOf(process.pid)?.startedAt
    if (worker === undefined || started === undefined || this.#ending) return session.close()
    // The next master reads on where this worker has stopped.
    await estate.stopReading()
    const fds: OwnedFd[] = []
    try {
      const snapshot = await worker.snapshot()
      if (!this.isUnclaimed || this.#estate !== estate || this.#ending) return
      // One by one: if one fails, those before it are closed.
      fds.push(dup(session.fd))
      fds.push(...socketpair('stream'))
      fds.push(...estate.duplicates())
      const [socket, ours, ...theirs] = fds.splice(0) as [OwnedFd, OwnedFd, ...OwnedFd[]]
      const answer = new Channel<never, Claimed>(socket, this.#poller, {
        message: () => {},
        ended: () => {},
      })
      this.#reception?.close()
      this.#reception = undefined
      this.#isTerminated = false
      this.#channel = this.#connect(ours)
      this.#master = peerCredentials(session.fd).pid
      const backends = worker.backends()
      answer.give(
        {
          type: 'claimed',
          version: CLAIM_VERSION,
          pid: process.pid,
          started,
          estate: estate.estate,
          snapshot,
          backends,
          controls: worker.controls,
          shifts: this.#shifts,
          history: worker.history,
          accounts: this.#copier?.written,
          ...ABILITIES,
        },
        theirs,
      )
      this.#logger.info({ by: session.peer }, 'another master takes over')
      await answer.sent()
      answer.close()
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#logger.error({ err: error }, 'another master could not take over')
    } finally {
      for (const fd of fds) fd.close()
      if (this.isUnclaimed && this.#estate === estate && this.#config !== undefined)
        estate.readOutputs(this.#logger, this.#config)
      session.close()
    }
  }

  async #stopUnclaimed(by: string, session?: OperatorSession): Promise<void> {
    this.#logger.info({ by, deadlineMs: this.#drainDeadline }, 'draining')
    this.#reception?.close()
    this.#ending = true
    // Managed backends may still take clients that wait. They end when this process does, with the lifeline.
    this.#estate?.closeSockets()
    await this.#worker?.drain(Math.max(1, this.#drainDeadline))
    await this.#estate?.stopReading()
    session?.write(answerText(true, []))
    session?.answered()
    this.#counting.stop()
    // The answer is in the kernel once the session has ended.
    setImmediate(() => this.#end(0))
  }

  #fail(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error)
    this.#logger.fatal({ err: error }, 'the worker failed')
    this.#channel.send({ type: 'failed', code: errnoOf(error) ?? 'BATON_ERR_WORKER_FAILED', message })
    void this.#endWith(1)
  }

  async #endWith(code: number): Promise<void> {
    await this.#channel.sent()
    this.#end(code)
  }
}

/** Runs this process as a worker of its master. The caller has installed signal handlers. */
export function runWorker(format: string | undefined): void {
  ignoreMeaninglessSignals()
  const socket = new OwnedFd(WORKER_CHANNEL)
  setCloseOnExec(socket.fd, true)
  const logger = createLogger((format ?? 'json') as LogFormat)
  const poller = new Poller({ afterWake: () => worker.flush(), holdBack: () => worker.busy() })
  const worker: SupervisedWorker = new SupervisedWorker(socket, poller, logger, exitProcess)
  process.on('SIGTERM', () => worker.terminate())
  closeStrayInspector(logger)
}
