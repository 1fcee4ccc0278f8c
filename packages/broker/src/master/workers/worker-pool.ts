import { setTimeout as sleep } from 'node:timers/promises'
import { type OwnedFd, type Poller, socketpair } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { MAX_DESCRIPTORS } from '../../ipc/channel.ts'
import type { BackendReport, FromWorker, KnownBackends, ManagedReport } from '../../ipc/messages.ts'
import { BrokerError } from '../../errors.ts'
import type { LogFormat } from '../../log/logger.ts'
import type { MetricSnapshot } from '../../metrics/index.ts'
import { processExists } from '../../supervise/proc.ts'
import { restartAfter, type RestartHistory, WORKER_RESTARTS } from '../../supervise/backoff.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import type { Counters } from './counters.ts'
import type { ListeningSockets } from '../listening-sockets.ts'
import { isStopped, strayEnd } from './thread-stats.ts'
import { afterRunning, afterStopped, RunningTime } from './running-time.ts'
import { type Observation, WorkerMonitor } from './worker-monitor.ts'
import { WorkerProcess, type WorkerState } from './worker-process.ts'

/** A worker that is not built after so long, in milliseconds, will not be. */
const START_TIMEOUT_MS = 30_000

/** Maximum starts of one worker, when it is signals that end them. */
const MAX_STARTS = 20

/** Share of the worker timeout for which a worker that is starting may be stopped (SIGSTOP), before another one is started. */
const STOPPED_SHARE = 0.4

/** Backends get so long, in milliseconds, to register with a successor before clients are accepted there all the same. */
const MOVE_TIMEOUT_MS = 2000

/** Timeout for backends to move before a reload is answered, in ms: for those that do not answer heartbeats, and for all others. */
const UNRESPONSIVE_TIMEOUT_MS = 10_000
const MOVED_TIMEOUT_MS = 30_000

/** Timeout for workers to finish what they are sending, in ms, beyond the time in which one that is stuck is replaced; and how often to look. */
const QUIET_TIMEOUT_MS = 30_000
const QUIET_INTERVAL_MS = 2

/** Timeout for a process to be gone after SIGKILL, in ms: one that the kernel cannot end yet does not hold up its successor. */
const KILL_TIMEOUT_MS = 2000

/** Who scrapes does not wait longer for a worker that does not answer: milliseconds. */
const COUNT_TIMEOUT_MS = 300

/** A worker gets so long beyond its deadline to end, in milliseconds; one that does not is stuck. */
const STOP_GRACE_MS = 5000

/** So many workers may be finishing at a time; the oldest is ended before there are more. */
const MAX_LEAVING = 4

/** Backends of earlier workers that the next one is told of, at most. */
const MAX_KNOWN_BACKENDS = 4096

/** What a worker is started with. */
export interface Assignment {
  readonly text: string
  readonly file: string
  readonly controlPath: string
  readonly controlMode: number
  readonly sockets: ListeningSockets
  readonly format: LogFormat
  /** Their names. */
  readonly services: ReadonlySet<string>
  /** Of those that take the processes of their `command` alone. */
  readonly closed: ReadonlySet<string>
}

/**
 * @param removed listeners of the old worker that nobody serves any more
 * @param deadline in milliseconds
 */
type Finish = (removed: readonly string[], deadline: number) => void

/** A reload's new worker serves. */
export interface Replaced {
  /** To be called next: the old worker hands over, lets its backends go and finishes. */
  readonly finish: Finish
  /** After that: resolves when every backend of the old worker is at the new one or has ended, or with those that are not. */
  readonly backendsMoved: () => Promise<BrokerError | undefined>
}

export interface WorkerPoolHost {
  /** Of the configuration in force, in milliseconds. */
  workerTimeout(): number
  /** With what the next worker starts: what is in force now. */
  assignment(): Assignment
  /** The processes of services with a `command` that run now. */
  managed(): readonly ManagedReport[]
  /** What the roster does not answer by itself. */
  message(worker: WorkerProcess, message: FromWorker): void
  /** One has ended, and is none of `workers` any more. */
  ended(): void
  /** The binary for the next one, after this number of failed starts in a row. */
  node(failures: number): string
  /** A worker that serves no longer cannot be replaced by one of this program, whose files were removed. */
  programGone(): void
}

/**
 * The workers of a master: one that serves, those that it replaced and that finish what they had, and for a moment one that is
 * to replace it. A worker that dies is replaced, on the same sockets.
 *
 * Owner of the worker processes.
 */
export class WorkerPool {
  readonly #poller: Poller
  readonly #counters: Counters
  readonly #logger: Logger
  readonly #host: WorkerPoolHost
  readonly #workers = new Set<WorkerProcess>()
  readonly #waiting = new Set<{ check: () => boolean; resolve: () => void }>()
  readonly #built = new WeakSet<WorkerProcess>()
  /** Until they serve. */
  readonly #building = new WeakSet<WorkerProcess>()
  readonly #failures = new WeakMap<WorkerProcess, string>()
  /** Signals that ended workers and that say nothing of the worker. */
  readonly #strayEnds = new WeakMap<WorkerProcess, string>()
  readonly #startedAt = new WeakMap<WorkerProcess, number>()
  readonly #listening = new WeakMap<WorkerProcess, Set<string>>()
  #restarts: RestartHistory = WORKER_RESTARTS.first
  #restart: NodeJS.Timeout | undefined
  #current: WorkerProcess | undefined
  #started: number
  /** Workers in a row that were not built. */
  #failedStarts = 0
  #stopping = false
  #hurried = false
  /** A replacement is under way: whoever dies meanwhile is not replaced a second time. */
  #replacing = false
  readonly #workerMonitor: WorkerMonitor
  /** Workers that have not answered within the timeout, and what was seen of them then. */
  readonly #hung = new WeakMap<WorkerProcess, object>()
  /** Those of them that are to end. */
  readonly #condemned = new WeakSet<WorkerProcess>()
  /** A worker that may be hung, while its successor is built. */
  #silent: WorkerProcess | undefined
  /** What the worker that serves, or did last, said of its backends, and of earlier ones those that may not be back yet. */
  #known: readonly BackendReport[] = []
  /** What the workers were told of managed processes. */
  #managed = ''

  constructor(poller: Poller, counters: Counters, host: WorkerPoolHost, logger: Logger, started = 0) {
    this.#poller = poller
    this.#counters = counters
    this.#host = host
    this.#logger = logger
    this.#started = started
    this.#workerMonitor = new WorkerMonitor({
      workers: this.#workers,
      workerTimeout: () => host.workerTimeout(),
      observed: (worker, observation) => this.#observed(worker, observation),
    })
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

  /**
   * Resolves when nothing is half said in any channel, so that this program may be replaced at once. A worker that is stuck in the
   * middle of a message is replaced meanwhile, as at any other time.
   *
   * @throws {BrokerError} BATON_ERR_WORKER_SILENT
   */
  async becomeQuiet(): Promise<void> {
    const time = new RunningTime(10 * QUIET_INTERVAL_MS)
    let left = QUIET_TIMEOUT_MS + 2 * this.#host.workerTimeout()
    for (;;) {
      const busy = this.#busy()
      if (busy === undefined) return
      left -= time.step()
      if (left <= 0) throw new BrokerError('BATON_ERR_WORKER_SILENT', `pid ${busy.pid}`)
      await sleep(QUIET_INTERVAL_MS)
    }
  }

  /** See `becomeQuiet`. */
  get quiet(): boolean {
    return this.#busy() === undefined
  }

  /** One that has half ended, or is not built yet, cannot be taken over either. */
  #busy(): WorkerProcess | undefined {
    return (
      this.#silent ??
      [...this.#workers].find((worker) => !worker.quiet || !worker.alive || this.#building.has(worker))
    )
  }

  /** What all others have counted by now, dead or alive; of one that does not answer, what it said last. */
  async snapshots(except: WorkerProcess): Promise<MetricSnapshot[]> {
    const alive = [...this.#workers].filter((worker) => worker !== except && worker.alive)
    const before = alive.map(({ counts }) => counts)
    for (const worker of alive) worker.send({ type: 'count' })
    const fresh = () => alive.every((worker, index) => !worker.alive || worker.counts > (before[index] ?? 0))
    await this.#until(fresh, COUNT_TIMEOUT_MS)
    // What the ended ones had is taken in the same turn: one that ends now is either here or there.
    const others = [...this.#workers].filter((worker) => worker !== except).map(({ snapshot }) => snapshot)
    return this.#counters.snapshots(others)
  }

  /** What the workers said of their backends, of earlier workers those that may not be back yet. */
  get known(): readonly BackendReport[] {
    if (this.#current !== undefined) this.#remember(this.#current.backends)
    return this.#known
  }

  /** Takes over the workers of the program before this one, and what it knew. */
  takeOver(states: readonly WorkerState[], known: readonly BackendReport[] = []): void {
    this.#known = known
    for (const state of states) {
      const worker = WorkerProcess.adopt(state, this.#poller, this.#workerEvents)
      this.#workers.add(worker)
      this.#startedAt.set(worker, performance.now())
      if (state.role === 'current') this.#current = worker
    }
    this.#workerMonitor.start()
  }

  /**
   * Starts the first worker, and waits until it accepts.
   *
   * @throws {BrokerError} BATON_ERR_WORKER_FAILED
   */
  async start(): Promise<void> {
    const worker = await this.#build(this.#host.assignment())
    this.#workerMonitor.start()
    this.#take(worker)
  }

  /**
   * Replaces the worker that serves. Until this resolves, that one has lost nothing; when it rejects, it goes on as before.
   * When it resolves, the new worker serves, and the old one still has its backends.
   *
   * @throws {BrokerError} BATON_ERR_WORKER_FAILED
   */
  async replace(assignment: Assignment): Promise<Replaced> {
    this.#replacing = true
    try {
      return await this.#replace(assignment)
    } finally {
      this.#replacing = false
      if (this.#current === undefined && !this.#stopping) void this.#startAnother()
    }
  }

  async #replace(assignment: Assignment): Promise<Replaced> {
    const { services, closed } = assignment
    const next = await this.#build(assignment)
    const old = this.#current
    // Backends that drain stay with the old worker to their end.
    const movable = (backends: readonly BackendReport[]) =>
      backends.filter(
        ({ service, state, owner }) =>
          services.has(service) &&
          state !== 'draining' &&
          // The new worker refuses it: the service had no `command` before.
          !(owner === null && closed.has(service)),
      )
    const withoutOld = () => {
      const all = movable(old === undefined ? this.#known : old.backends)
      this.#take(next)
      return { finish: () => {}, backendsMoved: () => this.#backendsMoved(all, undefined) }
    }
    if (old === undefined || !old.alive) {
      await this.#reportOthers(next)
      if (!next.alive) throw this.#failed(next)
      return withoutOld()
    }
    const all = movable(old.backends)
    const expected = all.filter(({ state }) => state !== 'unresponsive')
    old.send({ type: 'pause' })
    await this.#reportOthers(next)
    next.send({ type: 'serve' })
    old.send({ type: 'release', reason: 'reload' })
    const moved = () => {
      const registered = new Set(next.backends.map(({ id }) => id))
      const left = new Set(old.backends.map(({ id }) => id))
      return !next.alive || !old.alive || expected.every(({ id }) => registered.has(id) || !left.has(id))
    }
    await this.#until(moved, MOVE_TIMEOUT_MS)
    if (!next.alive) {
      // Backends that had moved dial again, and find the old one.
      old.send({ type: 'serve' })
      throw this.#failed(next)
    }
    if (!old.alive) return withoutOld()
    const [theirs, ours] = this.#introduction(old, next)
    this.#take(next)
    old.role = 'leaving'
    // One that has left the old worker by itself has gone.
    const there = new Set(old.backends.map(({ id }) => id))
    const waitedFor = all.filter(({ id }) => there.has(id))
    return {
      finish: (removed, deadline) => {
        next.send({ type: 'peer' }, [theirs.fd])
        old.send({ type: 'finish', removed, deadline }, [ours.fd])
        theirs.close()
        ours.close()
        this.#limitLeaving()
      },
      backendsMoved: () => this.#backendsMoved(waitedFor, old),
    }
  }

  /** @param old that had the backends; undefined when it has ended */
  async #backendsMoved(
    backends: readonly BackendReport[],
    old: WorkerProcess | undefined,
  ): Promise<BrokerError | undefined> {
    const left = () => {
      const moved = new Set(this.#current?.backends.map(({ id }) => id))
      const states = new Map(old?.backends.map(({ id, state }) => [id, state]))
      return backends
        .map((backend) => ({ ...backend, state: states.get(backend.id) ?? backend.state }))
        .filter(({ id, pid }) => !moved.has(id) && (processExists(pid) || states.has(id)))
    }
    await this.#until(() => this.#hurried || left().length === 0, UNRESPONSIVE_TIMEOUT_MS)
    const stuck = () => left().every(({ state }) => state === 'unresponsive')
    await this.#until(() => this.#hurried || stuck(), MOVED_TIMEOUT_MS - UNRESPONSIVE_TIMEOUT_MS)
    const names = left().map(({ service, slot, pid, state }) => `${service}/${slot} (pid ${pid}, ${state})`)
    if (names.length === 0) return undefined
    return new BrokerError('BATON_ERR_BACKENDS_NOT_MOVED', names.join(', '))
  }

  /** Tells the workers which processes of services with a `command` run now. */
  sendManaged(): void {
    const processes = this.#host.managed()
    const text = JSON.stringify(processes)
    if (text === this.#managed) return
    this.#managed = text
    for (const worker of this.#workers) worker.send({ type: 'managed', processes })
  }

  /**
   * Asks every worker to drain a backend: only a finishing worker knows the backends of a service that a reload has removed.
   *
   * @param deadline in ms
   */
  drain(service: string, backend: string, deadline: number): void {
    for (const worker of this.#workers) worker.send({ type: 'drain', service, backend, deadline })
  }

  /** One more listener, of `baton run`. Resolves when the worker that serves has it, or is gone: the next one starts with it. */
  async listen(name: string, parts: { listener: string; service: string }, fd: OwnedFd): Promise<void> {
    const worker = this.#current
    if (worker === undefined) return
    worker.send({ type: 'listen', ...parts }, [fd.fd])
    await this.#until(() => !worker.alive || this.#listening.get(worker)?.has(name) === true)
  }

  /** Whether some worker serves, or is about to. */
  get isServing(): boolean {
    return [...this.#workers].some(({ role, alive }) => role === 'current' && alive)
  }

  /**
   * A socket whose file was created again goes to every worker that serves or is about to: beside the former one, whose accept queue may
   * hold connections.
   *
   * @param name of a listener
   * @throws {NativeError} EMFILE
   */
  replaceSocket(role: 'listener' | 'control' | 'admin', name: string | undefined, fd: OwnedFd): void {
    const message = { type: 'sockets', role, names: name === undefined ? [] : [name] } as const
    for (const worker of this.#workers) if (worker.role === 'current') worker.send(message, [fd.fd])
  }

  /** From now on a reload does not wait for backends that have not moved. */
  hurry(): void {
    this.#hurried = true
    this.#checkWorkers()
  }

  /** Lets the workers finish, and resolves when all have ended. */
  async stop(deadline: number): Promise<void> {
    this.#stopping = true
    clearTimeout(this.#restart)
    for (const worker of this.#workers) worker.send({ type: 'stop', deadline })
    await this.#until(() => this.#workers.size === 0, deadline + STOP_GRACE_MS)
    for (const worker of this.#workers) {
      this.#logger.error({ workerPid: worker.pid }, 'worker does not end; killed')
      worker.kill('SIGKILL')
    }
    await this.#until(() => this.#workers.size === 0)
  }

  /** At once. */
  kill(): void {
    this.#stopping = true
    for (const worker of this.#workers) worker.kill('SIGKILL')
  }

  /** Resolves when `check` holds; it is looked at whenever a worker says something or ends. */
  #until(check: () => boolean, limit?: number): Promise<void> {
    return this.#untilOr(check, (over) => {
      const timer = limit === undefined ? undefined : setTimeout(over, limit)
      return () => clearTimeout(timer)
    })
  }

  /** @param limit begins to measure one, and returns how to end that */
  #untilOr(check: () => boolean, limit: (over: () => void) => () => void): Promise<void> {
    if (check()) return Promise.resolve()
    return new Promise((resolve) => {
      const cancel = limit(() => waiter.resolve())
      const waiter = {
        check,
        resolve: () => {
          cancel()
          this.#waiting.delete(waiter)
          resolve()
        },
      }
      this.#waiting.add(waiter)
    })
  }

  #checkWorkers(): void {
    for (const waiter of this.#waiting) if (waiter.check()) waiter.resolve()
  }

  /**
   * Resolves when it is built and has accepted nothing yet. Signals have their defaults while Node starts: `pkill -USR2 -f baton` ends a
   * worker that is starting, and a SIGSTOP may be meant for another one. Neither is a reason to give up.
   */
  async #build(assignment: Assignment): Promise<WorkerProcess> {
    for (let starts = 1; ; starts += 1) {
      const worker = this.#launch(assignment)
      await this.#untilOr(
        () => this.#built.has(worker) || !worker.alive,
        (over) => {
          const cancels = [
            afterRunning(START_TIMEOUT_MS, over),
            afterStopped(worker.pid, STOPPED_SHARE * this.#host.workerTimeout(), over),
          ]
          return () => {
            for (const cancel of cancels) cancel()
          }
        },
      )
      if (this.#built.has(worker) && worker.alive) {
        this.#failedStarts = 0
        return worker
      }
      const stopped = worker.alive && isStopped(worker.pid)
      const error = this.#failed(worker, stopped)
      worker.kill('SIGKILL')
      await this.#until(() => !this.#workers.has(worker))
      const signal = stopped ? 'SIGSTOP' : this.#strayEnds.get(worker)
      if (signal === undefined) this.#failedStarts += 1
      if (signal === undefined || this.#stopping || starts === MAX_STARTS) throw error
      this.#logger.warn(
        { workerPid: worker.pid, signal },
        'a signal ended or stopped a worker that was starting; starting another',
      )
    }
  }

  #launch({ text, file, controlPath, controlMode, sockets, format }: Assignment): WorkerProcess {
    const node = this.#host.node(this.#failedStarts)
    const worker = WorkerProcess.start(++this.#started, node, format, this.#poller, this.#workerEvents)
    this.#workers.add(worker)
    this.#building.add(worker)
    this.#startedAt.set(worker, performance.now())
    const listeners = [...sockets.listeners]
    for (let from = 0; from < listeners.length; from += MAX_DESCRIPTORS) {
      const batch = listeners.slice(from, from + MAX_DESCRIPTORS)
      const names = batch.map(([name]) => name)
      worker.send(
        { type: 'sockets', role: 'listener', names },
        batch.map(([, { fd }]) => fd.fd),
      )
    }
    worker.send({ type: 'sockets', role: 'control', names: [] }, [sockets.control.fd.fd])
    worker.send({ type: 'sockets', role: 'admin', names: [] }, [sockets.admin.fd.fd])
    worker.send({
      type: 'start',
      config: text,
      file,
      control: { path: controlPath, mode: controlMode },
      known: knownOf(this.known),
      managed: this.#host.managed(),
    })
    return worker
  }

  /** A worker that dies soon after another has not heard of all backends yet: those whose processes live are kept. */
  #remember(backends: readonly BackendReport[]): void {
    const named = new Set(backends.map(({ id }) => id))
    const others = this.#known.filter(({ id, pid }) => !named.has(id) && pid > 0 && processExists(pid))
    this.#known = [...backends, ...others].slice(0, MAX_KNOWN_BACKENDS)
  }

  /** A pair for the two; while there is none, nothing has changed yet. */
  #introduction(old: WorkerProcess, next: WorkerProcess): [OwnedFd, OwnedFd] {
    try {
      return socketpair('stream')
    } catch (error) {
      old.send({ type: 'serve' })
      this.#retire(next)
      throw error
    }
  }

  /** What it answers to who scrapes it while this master cannot be asked. */
  async #reportOthers(worker: WorkerProcess): Promise<void> {
    worker.send({ type: 'metrics', ask: 0, snapshots: await this.snapshots(worker) })
  }

  #take(worker: WorkerProcess): void {
    this.#building.delete(worker)
    this.#current = worker
    worker.send({ type: 'serve' })
    worker.send({ type: 'accept' })
  }

  #failed(worker: WorkerProcess, stopped = false): BrokerError {
    const said = this.#failures.get(worker) ?? worker.lastLines.join('\n')
    const signal = this.#strayEnds.get(worker)
    const why = said === '' ? (signal ?? 'without a word') : said
    const late = stopped ? 'stopped (SIGSTOP)' : `not within ${START_TIMEOUT_MS} ms`
    return new BrokerError('BATON_ERR_WORKER_FAILED', worker.alive ? late : why)
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
      if (message.type === 'ready') {
        this.#built.add(worker)
        worker.answers = true
      } else if (message.type === 'failed') this.#failures.set(worker, `${message.message} (${message.code})`)
      else if (message.type === 'listens') {
        const names = this.#listening.get(worker) ?? new Set()
        this.#listening.set(worker, names.add(message.listener))
      } else this.#host.message(worker, message)
      this.#checkWorkers()
    },
    ended: (worker: WorkerProcess, exit: ProcessExit) => this.#ended(worker, exit),
  }

  #ended(worker: WorkerProcess, exit: ProcessExit): void {
    const { code, signal } = exit
    this.#workers.delete(worker)
    const stray = strayEnd(exit)
    if (stray !== undefined) this.#strayEnds.set(worker, stray)
    this.#counters.keep(worker.snapshot)
    this.#host.ended()
    const asked = this.#stopping || worker.role === 'leaving'
    const log = { workerPid: worker.pid, code, signal }
    if (asked && code === 0) this.#logger.info(log, 'worker has finished')
    else if (stray !== undefined && this.#building.has(worker))
      this.#logger.info(log, 'worker was ended by a signal while it started')
    else {
      this.#counters.workerDied()
      this.#logger.error(log, 'worker died')
    }
    const serving = worker === this.#current
    if (serving) {
      this.#current = undefined
      this.#remember(worker.backends)
    } else if (this.#current !== undefined) void this.#reportOthers(this.#current)
    this.#checkWorkers()
    if (serving && !this.#stopping && !this.#replacing) this.#replaceDead(worker)
  }

  #observed(worker: WorkerProcess, { verdict, ...observation }: Observation): void {
    if (verdict === 'suspect' || verdict === 'hung') this.#suspect(worker, observation)
    if (verdict === 'hung') this.#convict(worker, observation)
    // The one that may be hung may answer again.
    this.#checkWorkers()
  }

  /** The worker that serves may be hung: a successor is built before it is ended. */
  #suspect(worker: WorkerProcess, observation: object): void {
    if (worker !== this.#current || this.#stopping || this.#replacing || this.#hung.has(worker)) return
    this.#logger.warn({ workerPid: worker.pid, ...observation }, 'worker does not answer; starting another')
    void this.#replaceSilent(worker)
  }

  #convict(worker: WorkerProcess, observation: object): void {
    if (this.#hung.has(worker)) return
    this.#hung.set(worker, observation)
    // That one is kept until there is a successor, if there is to be one.
    if (worker !== this.#silent || this.#stopping) this.#end(worker)
  }

  #end(worker: WorkerProcess): void {
    if (this.#condemned.has(worker)) return
    this.#condemned.add(worker)
    this.#counters.workerHung()
    this.#logger.error({ workerPid: worker.pid, ...this.#hung.get(worker) }, 'worker hangs; ending it')
    worker.kill('SIGKILL')
  }

  async #replaceSilent(silent: WorkerProcess): Promise<void> {
    this.#replacing = true
    this.#silent = silent
    const heard = silent.messagesReceived
    try {
      const next = await this.#build(this.#host.assignment())
      await this.#until(() => !silent.alive || this.#hung.has(silent) || silent.messagesReceived !== heard)
      if (silent.alive && silent.messagesReceived !== heard) {
        this.#hung.delete(silent)
        this.#logger.info({ workerPid: silent.pid }, 'worker answers again; it stays')
        return this.#retire(next)
      }
      // Its control connections end with it: then its backends dial the successor. Clients that it held are lost.
      if (silent.alive) this.#end(silent)
      if (this.#stopping) return
      await this.#until(() => !this.#workers.has(silent), KILL_TIMEOUT_MS)
      silent.role = 'leaving'
      await this.#reportOthers(next)
      if (!next.alive) throw this.#failed(next)
      this.#take(next)
    } catch (error) {
      if (!this.#stopping) this.#notReplaced(error)
      // It may still answer again. Until then this is tried again, after another timeout.
      this.#hung.delete(silent)
      this.#workerMonitor.forget(silent)
    } finally {
      this.#replacing = false
      this.#silent = undefined
      if (this.#current === undefined && !this.#stopping) void this.#startAnother()
    }
  }

  #retire(worker: WorkerProcess): void {
    this.#building.delete(worker)
    worker.role = 'leaving'
    worker.send({ type: 'stop', deadline: 0 })
  }

  #replaceDead(worker: WorkerProcess): void {
    this.#restartAfter(performance.now() - (this.#startedAt.get(worker) ?? 0))
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
    // A reload may have brought one meanwhile, or be about to.
    const wanted = () => this.#current === undefined && !this.#stopping && !this.#replacing
    if (!wanted()) return
    try {
      const next = await this.#build(this.#host.assignment())
      await this.#reportOthers(next)
      if (!next.alive) throw this.#failed(next)
      if (wanted()) return this.#take(next)
      this.#retire(next)
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

function knownOf(backends: readonly BackendReport[]): KnownBackends {
  const entries = backends.map(({ id, slot, state, pid, uid, started = null }) => {
    const process = uid === undefined ? undefined : { pid, uid, started }
    return [id, { slot, healthy: state !== 'starting' && state !== 'unhealthy', process }] as const
  })
  return Object.fromEntries(entries)
}
