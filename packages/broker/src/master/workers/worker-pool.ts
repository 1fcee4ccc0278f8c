import { type OwnedFd, type Poller, socketpair } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { Change } from '../../api/events.ts'
import type { BackendReport, FromWorker } from '../../ipc/messages.ts'
import { BrokerError } from '../../errors.ts'
import type { ListenerConfig, ServiceConfig } from '../../config/config.ts'
import { MAX_MS } from '../../config/duration.ts'
import { pack } from '../../config/packed.ts'
import { isClosed, longestDrainDeadline } from '../../config/service-rules.ts'
import type { MetricSnapshot } from '../../metrics/snapshot.ts'
import { restartAfter, type RestartHistory, WORKER_RESTARTS } from '../../supervise/backoff.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import { BackendsSeen, notMoved } from './backends-seen.ts'
import { Conditions } from './conditions.ts'
import type { Counters } from './counters.ts'
import type { ActiveConfig } from '../active-config.ts'
import { estateOf, giveEstate } from './estate.ts'
import {
  type Configuration,
  introduce,
  sendFirstOrders,
  START_TIMEOUT_MS,
  startFailure,
} from './first-orders.ts'
import { isStopped } from './thread-stats.ts'
import { untilQuiet } from './quiet.ts'
import { afterRunning } from '../../supervise/running-time.ts'
import { afterStopped } from './stopped-time.ts'
import type { CopyStore } from './copy-store.ts'
import type { FinishingWorker } from '../../ipc/copies.ts'
import { FinishingWorkers } from './finishing-workers.ts'
import { HungWorkers, type HungWorkersHost } from './hung-workers.ts'
import { NOTHING } from './losses.ts'
import { countedAsAccepted, keyOf, lastAccounts } from './last-accounts.ts'
import { LossSettlement } from './loss-settlement.ts'
import { StandingOrders, type Workers } from './standing-orders.ts'
import { Survivors, type SurvivorsState } from './survivors.ts'
import type { Remains } from './worker-copies.ts'
import type { Replaced, WorkerPoolHost } from './worker-pool-host.ts'
import { WorkerProcess, type WorkerState } from './worker-process.ts'

const STDOUT = 1

/** Maximum starts of one worker if signals keep killing it. */
const MAX_STARTS = 20

/** Share of the worker timeout for which a starting worker may be stopped (SIGSTOP) before another one is started. */
const STOPPED_SHARE = 0.4

/** Timeout for backends to register with a successor, in ms. After it, the successor accepts clients anyway. */
const MOVE_TIMEOUT_MS = 2000

/** Timeout for backends to move before a reload is answered, in ms: for those that do not answer heartbeats, and for all others. */
const UNRESPONSIVE_TIMEOUT_MS = 10_000
const MOVED_TIMEOUT_MS = 30_000

/** Timeout for workers to report their counters for a scrape, in ms. */
const COUNT_TIMEOUT_MS = 300

/** Time that a worker has to exit after its deadline, in ms. After it, the worker counts as stuck. */
const STOP_GRACE_MS = 5000

/** Maximum workers finishing at a time. Beyond it, the oldest is ended. */
const MAX_LEAVING = 4

/**
 * The workers of a master: the one that serves, earlier ones that are finishing, and during a replacement its successor. A worker that dies
 * is replaced on the same sockets.
 *
 * Owns the worker processes.
 */
export class WorkerPool {
  readonly #poller: Poller
  readonly #activeConfig: ActiveConfig
  readonly #counters: Counters
  readonly #logger: Logger
  readonly #host: WorkerPoolHost
  readonly #store: CopyStore
  readonly #workers = new Set<WorkerProcess>()
  readonly #survivors: Survivors
  readonly #losses: LossSettlement
  /** Those of an earlier master, which was killed. */
  readonly finishing: FinishingWorkers
  readonly #conditions = new Conditions()
  readonly orders: StandingOrders
  #restarts: RestartHistory = WORKER_RESTARTS.first
  #restart: NodeJS.Timeout | undefined
  #current: WorkerProcess | undefined
  #started: number
  /** Failed starts in a row. */
  #failedStarts = 0
  #stopping = false
  /** Connections that wait are left to the next start. */
  #isLeaving = false
  #hurried = false
  /** A replacement is in progress: a worker that dies meanwhile is not replaced a second time. */
  #replacing = false
  readonly #hung: HungWorkers
  #seen = new BackendsSeen()

  /** @param started number of workers that earlier programs of this master have started */
  constructor(
    poller: Poller,
    activeConfig: ActiveConfig,
    counters: Counters,
    logger: Logger,
    started: number,
    host: WorkerPoolHost,
    store: CopyStore,
  ) {
    this.#poller = poller
    this.#activeConfig = activeConfig
    this.#counters = counters
    this.#host = host
    this.#store = store
    this.#logger = logger
    this.#started = started
    this.#survivors = new Survivors(
      poller,
      logger,
      () => this.#settleLosses(),
      () => this.#current,
    )
    this.orders = new StandingOrders(this.#workersOfOrders, host)
    this.#losses = new LossSettlement(counters)
    this.finishing = new FinishingWorkers(poller, logger, (reported, { counts, balance }) => {
      counters.losses.ended(balance)
      counters.keep(reported)
      counters.keep(counts)
      this.#settleLosses()
    })
    counters.onChange = () => queueMicrotask(() => this.sendEstate())
    const parts = { logger, counters, conditions: this.#conditions }
    this.#hung = new HungWorkers(this.#workers, activeConfig, parts, this.#hungHost)
  }

  get current(): WorkerProcess | undefined {
    return this.#current
  }

  get workers(): Iterable<WorkerProcess> {
    return this.#workers
  }

  get started(): number {
    return this.#started
  }

  /** In ms. */
  get #workerTimeout(): number {
    return this.#activeConfig.config.workerTimeout
  }

  /**
   * Resolves when no message is partly sent or received on any channel, so that this program can be replaced immediately. A worker that is
   * stuck in the middle of a message is replaced meanwhile, as always.
   *
   * @throws {BrokerError} BATON_ERR_WORKER_SILENT
   */
  async becomeQuiet(): Promise<void> {
    await untilQuiet(() => this.#busy(), this.#workerTimeout)
  }

  /** See `becomeQuiet`. */
  get quiet(): boolean {
    return this.#busy() === undefined
  }

  /** A worker that is ending or not ready yet cannot be adopted either. */
  #busy(): WorkerProcess | undefined {
    return (
      this.#hung.silent ??
      [...this.#workers].find((worker) => !worker.quiet || !worker.alive || worker.starting) ??
      this.#survivors.receiver
    )
  }

  /** Copies of connections that wait in workers. */
  get copies(): number {
    return [...this.#workers].reduce((sum, worker) => sum + worker.copies, 0)
  }

  /** The counters of all other workers, alive or not. For one that does not answer: its last report. */
  async snapshots(except: WorkerProcess): Promise<MetricSnapshot[]> {
    const alive = [...this.#workers].filter((worker) => worker !== except && worker.alive)
    const before = alive.map(({ counts }) => counts)
    for (const worker of alive) worker.send({ type: 'count' })
    const fresh = () => alive.every((worker, index) => !worker.alive || worker.counts > (before[index] ?? 0))
    await this.#conditions.until(fresh, COUNT_TIMEOUT_MS)
    // Counters of ended workers are read in the same turn: one that ends now is counted either here or there.
    const others = [...this.#workers].filter((worker) => worker !== except).map(({ snapshot }) => snapshot)
    return this.#counters.snapshots([...others, ...this.finishing.snapshots])
  }

  /** Backends of the current or last worker, and those of earlier ones that may not have registered again yet. */
  get known(): readonly BackendReport[] {
    if (this.#current !== undefined) this.#seen.remember(this.#current.backends)
    return this.#seen.all
  }

  /** Clients of dead workers that no other worker has yet. Only they are kept from now on, for the program that follows. */
  carrySurvivors(): SurvivorsState {
    this.#survivors.release()
    return this.#survivors.state
  }

  /** Connections of an earlier start that were left to this one go to the next worker that serves. Owns them. */
  inherit({ survivors, release }: Pick<Remains, 'survivors' | 'release'>): void {
    if (survivors.length === 0) return release()
    this.#logger.info({ clients: survivors.length }, 'clients that waited in an earlier start go on waiting')
    this.#counters.losses.arrived(survivors.map(({ copy }) => keyOf(copy)))
    this.#counters.keep(countedAsAccepted(survivors))
    this.#survivors.add(survivors, release)
  }

  /** Adopts the workers of the previous program, the backends that it knew, and the clients for which it had no worker. */
  adopt(
    states: readonly WorkerState[],
    known: readonly BackendReport[] = [],
    survivors: SurvivorsState = [],
  ): void {
    this.#seen = new BackendsSeen(known)
    this.#survivors.adopt(survivors)
    for (const state of states) {
      const worker = WorkerProcess.adopt(state, this.#parts, this.#workerEvents)
      this.#workers.add(worker)
      if (state.role !== 'current') continue
      this.#current = worker
      // The one before may have been of a version that had no copies, or this is another process.
      worker.keepCopies(this.#parts)
    }
    this.#hung.start()
  }

  /**
   * Starts the first worker, and waits until it accepts.
   *
   * @throws {BrokerError} BATON_ERR_WORKER_FAILED
   */
  async start(): Promise<void> {
    const worker = await this.#build(this.#activeConfig)
    this.#hung.start()
    this.#take(worker)
    this.#host.changed()
    this.#accept(worker)
  }

  /** To the serving worker, whenever something in it has changed: the active configuration, its sockets, the counters. */
  sendEstate(): void {
    this.#host.changed()
    const worker = this.#current
    if (worker?.alive !== true || this.#stopping || this.#replacing) return
    this.#giveEstate(worker)
  }

  #giveEstate(worker: WorkerProcess): void {
    const managed = this.#host.estate()
    if (managed === undefined) return
    const counted = {
      counters: this.#counters.state,
      started: this.#started,
      finishing: this.#finishingWorkers,
    }
    giveEstate(worker, estateOf(this.#activeConfig, { ...counted, ...managed }), this.#logger)
  }

  /** All but the serving one that have counts that are not in `counters` yet. */
  get #finishingWorkers(): readonly (FinishingWorker | undefined)[] {
    const own = [...this.#workers].filter((worker) => worker !== this.#current && !worker.starting)
    return [...own.map(({ finishing }) => finishing), ...this.finishing.state]
  }

  /**
   * Replaces the serving worker. Until this resolves, that worker has lost nothing; if it rejects, that worker continues as before. When it
   * resolves, the new worker serves, but accepts nothing before `finish`, and the old one still has its backends.
   *
   * @throws {BrokerError} BATON_ERR_WORKER_FAILED
   */
  async replace(next: Configuration): Promise<Replaced> {
    this.#replacing = true
    try {
      return await this.#replace(next)
    } finally {
      this.#replacing = false
      if (this.#current === undefined && !this.#stopping) void this.#startAnother()
    }
  }

  async #replace(configuration: Configuration): Promise<Replaced> {
    const { services } = configuration.settings.config
    const next = await this.#build(configuration)
    const old = this.#current
    // Draining backends stay with the old worker.
    const movable = (backends: readonly BackendReport[]) =>
      backends.filter(({ service: name, state, owner }) => {
        const service = services.get(name)
        // A closed service refuses backends that Baton did not start: it may have had no `command` before.
        return service !== undefined && state !== 'draining' && !(owner === null && isClosed(service))
      })
    const withoutOld = () => {
      const all = movable(old === undefined ? this.#seen.all : old.backends)
      this.#take(next)
      this.#introduceToLeaving(next)
      return { finish: () => this.#accept(next), backendsMoved: () => this.#backendsMoved(all, undefined) }
    }
    if (old === undefined || !old.alive) {
      await this.#reportOthers(next)
      if (!next.alive) throw startFailure(next)
      return withoutOld()
    }
    const all = movable(old.backends)
    const expected = all.filter(({ state }) => state !== 'unresponsive')
    old.willBeReplaced()
    old.send({ type: 'pause' })
    await this.#reportOthers(next)
    next.send({ type: 'serve' })
    old.send({ type: 'release', reason: 'reload' })
    const moved = () => {
      const registered = new Set(next.backends.map(({ id }) => id))
      const left = new Set(old.backends.map(({ id }) => id))
      return (
        !next.alive ||
        !old.alive ||
        expected.every(({ id }) => registered.has(id) || !left.has(id) || old.drained.has(id))
      )
    }
    await this.#conditions.until(moved, MOVE_TIMEOUT_MS)
    if (!next.alive) {
      // Backends that had moved dial again and reach the old worker.
      old.send({ type: 'serve' })
      old.isKept()
      throw startFailure(next)
    }
    if (!old.alive) return withoutOld()
    const [theirs, ours] = this.#introduction(old, next)
    this.#take(next)
    old.role = 'leaving'
    // A backend that has already left the old worker is gone.
    const there = new Set(old.backends.map(({ id }) => id))
    const waitedFor = all.filter(({ id }) => there.has(id))
    return {
      finish: (removed, deadline) => {
        introduce(old, next, [theirs, ours], removed, deadline, () => this.#accept(next))
        this.#limitLeaving()
      },
      backendsMoved: () => this.#backendsMoved(waitedFor, old),
    }
  }

  /** @param old the backends' former worker; undefined if it has ended */
  async #backendsMoved(
    backends: readonly BackendReport[],
    old: WorkerProcess | undefined,
  ): Promise<BrokerError | undefined> {
    const left = () => notMoved(backends, { from: old, to: this.#current?.backends })
    // Whoever asks the admin API from now on means this worker's successor.
    const accepts = () => old?.alive === true && old.pauses && !old.hasPaused
    const isOver = () => this.#hurried || (left().length === 0 && !accepts())
    await this.#conditions.until(isOver, UNRESPONSIVE_TIMEOUT_MS)
    const stuck = () => left().every(({ state }) => state === 'unresponsive')
    await this.#conditions.until(() => this.#hurried || stuck(), MOVED_TIMEOUT_MS - UNRESPONSIVE_TIMEOUT_MS)
    const names = left().map(({ service, slot, pid, state }) => `${service}/${slot} (pid ${pid}, ${state})`)
    if (names.length === 0) return undefined
    return new BrokerError('BATON_ERR_BACKENDS_NOT_MOVED', names.join(', '))
  }

  /** For the event stream of the serving worker. */
  reportChange(change: Change): void {
    this.#current?.send({ type: 'changed', change })
  }

  /**
   * Adds a listener under `baton run`, in every worker that serves or is about to: one that is starting has its first orders already. Resolves when the
   * serving worker has it, or is gone.
   */
  async listen(listener: ListenerConfig, service: ServiceConfig, fd: OwnedFd): Promise<void> {
    const message = { type: 'listen', parts: pack({ listener, service }) } as const
    for (const worker of this.#workers) if (worker.role === 'current') worker.send(message, [fd.fd])
    const worker = this.#current
    if (worker === undefined) return
    await this.#conditions.until(() => !worker.alive || worker.listeners.has(listener.name))
  }

  /** Whether a worker serves or is about to. */
  get isServing(): boolean {
    return [...this.#workers].some(({ role, alive }) => role === 'current' && alive)
  }

  /** Stops reloads from waiting for backends that have not moved. */
  hurry(): void {
    this.#hurried = true
    this.#conditions.check()
  }

  /**
   * Lets the workers finish. Resolves when all have ended.
   *
   * @param deadline in ms
   * @param leave what waits in the serving worker is left to the next start: copies of it stay in the store
   */
  async stop(deadline: number, leave: boolean): Promise<void> {
    this.#stopping = true
    this.#isLeaving = leave
    clearTimeout(this.#restart)
    for (const worker of this.#workers)
      worker.send({ type: 'stop', deadline, ...(leave && worker === this.#current && { leave }) })
    const limit = Math.min(MAX_MS, deadline + STOP_GRACE_MS)
    await this.#conditions.until(() => this.#workers.size === 0, limit)
    for (const worker of this.#workers) {
      this.#logger.error({ workerPid: worker.pid }, 'worker does not end; killed')
      worker.kill('SIGKILL')
    }
    await this.#conditions.until(() => this.#workers.size === 0)
    this.finishing.close()
  }

  /** Kills all workers immediately. */
  kill(): void {
    this.#stopping = true
    this.finishing.close()
    for (const worker of this.#workers) worker.kill('SIGKILL')
  }

  /**
   * Starts a worker. Resolves when it is ready and has accepted nothing yet. While Node starts, signals have their default effect:
   * `pkill -USR2 -f baton` kills a starting worker, and a SIGSTOP may be meant for another one. Neither is a reason to give up.
   */
  async #build(configuration: Configuration): Promise<WorkerProcess> {
    for (let starts = 1; ; starts += 1) {
      const worker = this.#launch(configuration)
      await this.#conditions.untilOr(
        () => worker.ready || !worker.alive,
        (over) => {
          const cancels = [
            afterRunning(START_TIMEOUT_MS, over),
            afterStopped(worker.pid, STOPPED_SHARE * this.#workerTimeout, over),
          ]
          return () => {
            for (const cancel of cancels) cancel()
          }
        },
      )
      if (worker.ready && worker.alive) {
        this.#failedStarts = 0
        return worker
      }
      const stopped = worker.alive && isStopped(worker.pid)
      const error = startFailure(worker, stopped)
      worker.kill('SIGKILL')
      await this.#conditions.until(() => !this.#workers.has(worker))
      const signal = stopped ? 'SIGSTOP' : worker.strayEnd
      if (signal === undefined) this.#failedStarts += 1
      if (signal === undefined || this.#stopping || starts === MAX_STARTS) throw error
      this.#logger.warn(
        { workerPid: worker.pid, signal },
        'a signal ended or stopped a worker that was starting; starting another',
      )
    }
  }

  #launch(configuration: Configuration): WorkerProcess {
    const started = this.#host.startWorker(this.#failedStarts)
    const worker = WorkerProcess.start(++this.#started, started, this.#parts, this.#workerEvents)
    this.#workers.add(worker)
    // One that was started early was not told.
    if (started.hasFormerLog) worker.send({ type: 'log' }, [STDOUT])
    sendFirstOrders(worker, configuration, {
      backends: this.known,
      managed: this.#host.managed(),
      controls: this.#host.controls(),
      shifts: this.#host.shifts(),
      administersLate: this.#current === undefined,
      history: this.#host.history(),
      tickets: this.#host.tickets(),
    })
    return worker
  }

  /** The pair over which held clients move. If it cannot be made, nothing has changed. */
  #introduction(old: WorkerProcess, next: WorkerProcess): [OwnedFd, OwnedFd] {
    try {
      return socketpair('stream')
    } catch (error) {
      old.send({ type: 'serve' })
      old.isKept()
      this.#retire(next)
      throw error
    }
  }

  /** Sends it the counters of the other workers, for scrapes while it cannot ask this master. */
  async #reportOthers(worker: WorkerProcess): Promise<void> {
    worker.send({ type: 'metrics', ask: 0, snapshots: await this.snapshots(worker) })
  }

  /** A worker that does not answer is replaced like one that has died. */
  get #hungHost(): HungWorkersHost {
    return {
      isReplaceable: (worker) => worker === this.#current && !this.#stopping && !this.#replacing,
      isStopping: () => this.#stopping,
      awake: () => this.#host.awake(),
      begin: () => void (this.#replacing = true),
      build: () => this.#build(this.#activeConfig),
      isGone: (worker) => !this.#workers.has(worker),
      succeed: async (next) => {
        await this.#reportOthers(next)
        if (!next.alive) throw startFailure(next)
        this.#take(next)
        this.#accept(next)
        this.#introduceToLeaving(next)
      },
      retire: (next) => this.#retire(next),
      failed: (error) => this.#notReplaced(error),
      end: () => {
        this.#replacing = false
        if (this.#current === undefined && !this.#stopping) void this.#startAnother()
        else this.sendEstate()
      },
    }
  }

  get #workersOfOrders(): Workers {
    const current = () => this.#current
    return {
      all: this.#workers,
      get current() {
        return current()
      },
      conditions: this.#conditions,
      sendEstate: () => this.sendEstate(),
    }
  }

  get #parts() {
    return { poller: this.#poller, logger: this.#logger, store: this.#store }
  }

  #take(worker: WorkerProcess): void {
    worker.starting = false
    this.#current = worker
    worker.send({ type: 'serve' })
    this.#survivors.pass(worker)
  }

  /** With an estate, or else its clients would be refused after the death of this process. */
  #accept(worker: WorkerProcess): void {
    this.#giveEstate(worker)
    worker.send({ type: 'accept' })
    this.#settleLosses()
  }

  /** Workers that are finishing had a successor that has died: what still waits in them goes to this one. */
  #introduceToLeaving(next: WorkerProcess): void {
    for (const worker of this.#workers) {
      if (worker.role !== 'leaving' || !worker.alive || worker.killed) continue
      try {
        const [theirs, ours] = socketpair('stream')
        introduce(worker, next, [theirs, ours], [], longestDrainDeadline(this.#activeConfig.config))
      } catch (error) {
        this.#logger.warn(
          { err: error, workerPid: worker.pid },
          'what waits in a finishing worker stays there',
        )
      }
    }
  }

  #limitLeaving(): void {
    const leaving = [...this.#workers].filter(({ role }) => role === 'leaving')
    for (const worker of leaving.slice(0, Math.max(0, leaving.length - MAX_LEAVING))) {
      this.#logger.warn({ workerPid: worker.pid }, 'too many workers are finishing; the oldest is ended')
      worker.send({ type: 'stop', deadline: 0 })
    }
  }

  readonly #workerEvents = {
    message: (worker: WorkerProcess, message: FromWorker) => {
      this.#host.message(worker, message)
      // Its memory file has the counts of connections alone: all else is as old as the report that the next master gets.
      if (message.type === 'counted' && worker.role === 'leaving') this.sendEstate()
      if (message.type === 'pairs') this.#losses.answered(worker, message)
      else if (message.type === 'counted' && worker === this.#current) this.#settleLosses()
      this.#conditions.check()
    },
    unreachable: (worker: WorkerProcess, error: Error | undefined) => {
      // `stop` has a limit of its own.
      if (this.#stopping) return
      this.#logger.error(
        { workerPid: worker.pid, ...(error && { err: error }) },
        'worker has lost its channel; ending it',
      )
      worker.kill('SIGKILL')
    },
    ended: (worker: WorkerProcess, exit: ProcessExit) => {
      // Connections that it has not taken come back before its accounts are read.
      this.#survivors.reclaim(worker, () => this.#ended(worker, exit))
    },
  }

  #ended(worker: WorkerProcess, exit: ProcessExit): void {
    const { code, signal } = exit
    this.#workers.delete(worker)
    this.#counters.keep(worker.snapshot)
    // Connections that are left to the next start stay as they are, until this process ends.
    const remains = this.#isLeaving ? undefined : worker.takeRemains()
    const last = remains && lastAccounts(remains.accounts, worker.snapshot)
    this.#counters.losses.ended(worker.hasWrittenNothing(remains?.accounts) ? NOTHING : last?.balance)
    if (last !== undefined) this.#counters.keep(last.counts)
    if (remains !== undefined) this.#survivors.add(remains.survivors, remains.release)
    this.#host.ended(worker === this.#current)
    const expected = this.#stopping || worker.role === 'leaving'
    const log = { workerPid: worker.pid, code, signal }
    if (expected && (code === 0 || worker.isForeign)) this.#logger.info(log, 'worker has finished')
    else if (worker.strayEnd !== undefined && worker.starting)
      this.#logger.info(log, 'worker was ended by a signal while it started')
    else {
      this.#counters.workerDied()
      this.#logger.error(log, 'worker died')
    }
    const serving = worker === this.#current
    if (serving) {
      this.#current = undefined
      this.#seen.remember(worker.backends)
    } else if (this.#current !== undefined) {
      void this.#reportOthers(this.#current)
      this.#survivors.pass(this.#current)
    }
    if (this.#stopping && !this.#isLeaving) this.#survivors.close()
    this.#settleLosses()
    this.#conditions.check()
    if (serving && !this.#stopping && !this.#replacing) this.#replaceDead(worker)
  }

  /** Nothing can move while one worker alone is alive, and this process has no connections for it. */
  #settleLosses(): void {
    const worker = this.#current
    const isAlone = this.#workers.size === 1 && !this.#survivors.any && this.finishing.state.length === 0
    if (worker?.alive === true && !worker.starting && isAlone) this.#losses.ask(worker)
    else this.#losses.postpone()
  }

  #retire(worker: WorkerProcess): void {
    worker.starting = false
    worker.role = 'leaving'
    worker.send({ type: 'stop', deadline: 0 })
  }

  #replaceDead(worker: WorkerProcess): void {
    this.#restartAfter(performance.now() - worker.startedAt)
  }

  /** @param lived how long the last worker lived, in ms */
  #restartAfter(lived: number): void {
    const { history, delay } = restartAfter(
      this.#restarts,
      { now: performance.now(), lived },
      WORKER_RESTARTS,
    )
    this.#restarts = history
    clearTimeout(this.#restart)
    this.#restart = setTimeout(() => void this.#startAnother(), delay)
  }

  async #startAnother(): Promise<void> {
    // A reload may have started one meanwhile, or be about to.
    const wanted = () => this.#current === undefined && !this.#stopping && !this.#replacing
    if (!wanted()) return
    try {
      const next = await this.#build(this.#activeConfig)
      await this.#reportOthers(next)
      if (!next.alive) throw startFailure(next)
      if (!wanted()) return this.#retire(next)
      this.#take(next)
      this.#accept(next)
      this.#introduceToLeaving(next)
    } catch (error) {
      this.#notReplaced(error)
      if (wanted()) this.#restartAfter(0)
    }
  }

  #notReplaced(error: unknown): void {
    this.#logger.error({ err: error }, 'worker could not be replaced')
    if (error instanceof BrokerError && error.code === 'BATON_ERR_PROGRAM_GONE') this.#host.programGone()
  }
}
