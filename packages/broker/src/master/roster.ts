import { setTimeout as sleep } from 'node:timers/promises'
import { type OwnedFd, type Poller, socketpair } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { MOST_DESCRIPTORS } from '../channel/channel.ts'
import type { BackendReport, FromWorker, KnownBackends, ManagedReport } from '../channel/messages.ts'
import { BrokerError } from '../errors.ts'
import type { LogFormat } from '../log/logger.ts'
import type { MetricSnapshot } from '../metrics/index.ts'
import { processExists } from '../registry/peer-process.ts'
import { RestartBackoff } from './backoff.ts'
import type { Counters } from './counters.ts'
import type { HeldSockets } from './held-sockets.ts'
import { type Exit, WorkerProcess, type WorkerState } from './worker-process.ts'

/** A worker that is not built after so long, in milliseconds, will not be. */
const START_LIMIT = 30_000

/** Backends get so long, in milliseconds, to register with a successor before clients are accepted there all the same. */
const MOVE_LIMIT = 2000

/** A worker that is in the middle of a message gets so long to end it, in milliseconds; how often it is looked at. */
const QUIET_LIMIT = 2000
const QUIET_LOOK = 2

/** Who scrapes does not wait longer for a worker that does not answer: milliseconds. */
const COUNT_LIMIT = 300

/** A worker gets so long beyond its deadline to end, in milliseconds; one that does not is stuck. */
const STOP_GRACE = 5000

/** So many workers may be finishing at a time; the oldest is ended before there are more. */
const MOST_LEAVING = 4

/** Backends of earlier workers that the next one is told of, at most. */
const MOST_KNOWN = 4096

/** What a worker is started with. */
export interface Assignment {
  readonly text: string
  readonly file: string
  readonly controlPath: string
  readonly controlMode: number
  readonly sockets: HeldSockets
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

export interface RosterHost {
  /** With what the next worker starts: what is in force now. */
  assignment(): Assignment
  /** The processes of services with a `command` that run now. */
  managed(): readonly ManagedReport[]
  /** What the roster does not answer by itself. */
  message(worker: WorkerProcess, message: FromWorker): void
  /** One has ended, and is none of `workers` any more. */
  ended(): void
}

/**
 * The workers of a master: one that serves, those that it replaced and that finish what they had, and for a moment one that is
 * to replace it. A worker that dies is replaced, on the same sockets.
 *
 * Owner of the worker processes.
 */
export class Roster {
  readonly #poller: Poller
  readonly #counters: Counters
  readonly #logger: Logger
  readonly #host: RosterHost
  readonly #workers = new Set<WorkerProcess>()
  readonly #waiting = new Set<{ check: () => boolean; resolve: () => void }>()
  readonly #built = new WeakSet<WorkerProcess>()
  readonly #failures = new WeakMap<WorkerProcess, string>()
  readonly #startedAt = new WeakMap<WorkerProcess, number>()
  readonly #listening = new WeakMap<WorkerProcess, Set<string>>()
  readonly #backoff = new RestartBackoff()
  #restart: NodeJS.Timeout | undefined
  #current: WorkerProcess | undefined
  #started: number
  #stopping = false
  /** A replacement is under way: whoever dies meanwhile is not replaced a second time. */
  #replacing = false
  /** What the worker that serves, or did last, said of its backends, and of earlier ones those that may not be back yet. */
  #known: readonly BackendReport[] = []
  /** What the workers were told of managed processes. */
  #managed = ''

  constructor(poller: Poller, counters: Counters, host: RosterHost, logger: Logger, started = 0) {
    this.#poller = poller
    this.#counters = counters
    this.#host = host
    this.#logger = logger
    this.#started = started
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
   * Resolves when nothing is half said in any channel, so that this program may be replaced at once.
   *
   * @throws {BrokerError} BATON_ERR_WORKER_SILENT
   */
  async becomeQuiet(): Promise<void> {
    const end = performance.now() + QUIET_LIMIT
    for (;;) {
      // One that has half ended cannot be taken over: its end is waited for.
      const busy = [...this.#workers].find((worker) => !worker.quiet || !worker.alive)
      if (busy === undefined) return
      if (performance.now() > end) throw new BrokerError('BATON_ERR_WORKER_SILENT', `pid ${busy.pid}`)
      await sleep(QUIET_LOOK)
    }
  }

  /** What all others have counted by now, dead or alive; of one that does not answer, what it said last. */
  async snapshots(except: WorkerProcess): Promise<MetricSnapshot[]> {
    const alive = [...this.#workers].filter((worker) => worker !== except && worker.alive)
    const before = alive.map(({ counts }) => counts)
    for (const worker of alive) worker.send({ type: 'count' })
    const fresh = () => alive.every((worker, index) => !worker.alive || worker.counts > (before[index] ?? 0))
    await this.#until(fresh, COUNT_LIMIT)
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
      const worker = WorkerProcess.takeOver(state, this.#poller, this.#workerHost)
      this.#workers.add(worker)
      this.#startedAt.set(worker, performance.now())
      if (state.role === 'current') this.#current = worker
    }
  }

  /**
   * Starts the first worker, and waits until it accepts.
   *
   * @throws {BrokerError} BATON_ERR_WORKER_FAILED
   */
  async start(): Promise<void> {
    const worker = await this.#build(this.#host.assignment())
    this.#current = worker
    worker.send({ type: 'serve' })
    worker.send({ type: 'accept' })
  }

  /**
   * Replaces the worker that serves. Until this resolves, that one has lost nothing; when it rejects, it goes on as before.
   * When it resolves, the new worker serves, and the old one still has its backends.
   *
   * @returns to be called: the old one hands over, lets its backends go and finishes
   * @throws {BrokerError} BATON_ERR_WORKER_FAILED
   */
  async replace(assignment: Assignment): Promise<Finish> {
    this.#replacing = true
    try {
      return await this.#replace(assignment)
    } finally {
      this.#replacing = false
      if (this.#current === undefined && !this.#stopping) void this.#startAnother()
    }
  }

  async #replace(assignment: Assignment): Promise<Finish> {
    const { services, closed } = assignment
    const next = await this.#build(assignment)
    const old = this.#current
    if (old === undefined || !old.alive) {
      await this.#tellOthers(next)
      if (!next.alive) throw this.#failed(next)
      this.#take(next)
      return () => {}
    }
    const expected = old.backends.filter(
      ({ service, state, owner }) =>
        services.has(service) &&
        state !== 'draining' &&
        state !== 'unresponsive' &&
        // The new worker refuses it: the service had no `command` before.
        !(owner === null && closed.has(service)),
    )
    old.send({ type: 'pause' })
    await this.#tellOthers(next)
    next.send({ type: 'serve' })
    old.send({ type: 'release', reason: 'reload' })
    const moved = () => {
      const registered = new Set(next.backends.map(({ id }) => id))
      const left = new Set(old.backends.map(({ id }) => id))
      return !next.alive || !old.alive || expected.every(({ id }) => registered.has(id) || !left.has(id))
    }
    await this.#until(moved, MOVE_LIMIT)
    if (!next.alive) {
      // Backends that had moved dial again, and find the old one.
      old.send({ type: 'serve' })
      throw this.#failed(next)
    }
    if (!old.alive) {
      this.#take(next)
      return () => {}
    }
    const [theirs, ours] = this.#introduction(old, next)
    this.#take(next)
    old.role = 'leaving'
    return (removed, deadline) => {
      next.send({ type: 'peer' }, [theirs.fd])
      old.send({ type: 'finish', removed, deadline }, [ours.fd])
      theirs.close()
      ours.close()
      this.#limitLeaving()
    }
  }

  /** Tells the workers which processes of services with a `command` run now. */
  tellManaged(): void {
    const processes = this.#host.managed()
    const text = JSON.stringify(processes)
    if (text === this.#managed) return
    this.#managed = text
    for (const worker of this.#workers) worker.send({ type: 'managed', processes })
  }

  /** One more listener, of `baton run`. Resolves when the worker that serves has it, or is gone: the next one starts with it. */
  async listen(name: string, parts: { listener: string; service: string }, fd: OwnedFd): Promise<void> {
    const worker = this.#current
    if (worker === undefined) return
    worker.send({ type: 'listen', ...parts }, [fd.fd])
    await this.#until(() => !worker.alive || this.#listening.get(worker)?.has(name) === true)
  }

  /** Lets the workers finish, and resolves when all have ended. */
  async stop(deadline: number): Promise<void> {
    this.#stopping = true
    clearTimeout(this.#restart)
    for (const worker of this.#workers) worker.send({ type: 'stop', deadline })
    await this.#until(() => this.#workers.size === 0, deadline + STOP_GRACE)
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
    if (check()) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = limit === undefined ? undefined : setTimeout(() => waiter.resolve(), limit)
      const waiter = {
        check,
        resolve: () => {
          clearTimeout(timer)
          this.#waiting.delete(waiter)
          resolve()
        },
      }
      this.#waiting.add(waiter)
    })
  }

  #look(): void {
    for (const waiter of this.#waiting) if (waiter.check()) waiter.resolve()
  }

  /** Resolves when it is built and has accepted nothing yet. */
  async #build({
    text,
    file,
    controlPath,
    controlMode,
    sockets,
    format,
  }: Assignment): Promise<WorkerProcess> {
    const worker = WorkerProcess.start(++this.#started, format, this.#poller, this.#workerHost)
    this.#workers.add(worker)
    this.#startedAt.set(worker, performance.now())
    const listeners = [...sockets.listeners]
    for (let from = 0; from < listeners.length; from += MOST_DESCRIPTORS) {
      const batch = listeners.slice(from, from + MOST_DESCRIPTORS)
      const names = batch.map(([name]) => name)
      worker.send(
        { type: 'sockets', role: 'listener', names },
        batch.map(([, { fd }]) => fd.fd),
      )
    }
    worker.send({ type: 'sockets', role: 'control', names: [] }, [sockets.control.fd])
    worker.send({ type: 'sockets', role: 'admin', names: [] }, [sockets.admin.fd.fd])
    worker.send({
      type: 'start',
      config: text,
      file,
      control: { path: controlPath, mode: controlMode },
      known: knownOf(this.known),
      managed: this.#host.managed(),
    })
    await this.#until(() => this.#built.has(worker) || !worker.alive, START_LIMIT)
    if (this.#built.has(worker) && worker.alive) return worker
    const error = this.#failed(worker)
    worker.kill('SIGKILL')
    await this.#until(() => !this.#workers.has(worker))
    throw error
  }

  /** A worker that dies soon after another has not heard of all backends yet: those whose processes live are kept. */
  #remember(backends: readonly BackendReport[]): void {
    const named = new Set(backends.map(({ id }) => id))
    const others = this.#known.filter(({ id, pid }) => !named.has(id) && pid > 0 && processExists(pid))
    this.#known = [...backends, ...others].slice(0, MOST_KNOWN)
  }

  /** A pair for the two; while there is none, nothing has changed yet. */
  #introduction(old: WorkerProcess, next: WorkerProcess): [OwnedFd, OwnedFd] {
    try {
      return socketpair('stream')
    } catch (error) {
      old.send({ type: 'serve' })
      next.role = 'leaving'
      next.send({ type: 'stop', deadline: 0 })
      throw error
    }
  }

  /** What it answers to who scrapes it while this master cannot be asked. */
  async #tellOthers(worker: WorkerProcess): Promise<void> {
    worker.send({ type: 'metrics', ask: 0, snapshots: await this.snapshots(worker) })
  }

  #take(worker: WorkerProcess): void {
    this.#current = worker
    worker.send({ type: 'serve' })
    worker.send({ type: 'accept' })
  }

  #failed(worker: WorkerProcess): BrokerError {
    const said = this.#failures.get(worker) ?? worker.lastWords.join('\n')
    const why = said === '' ? 'without a word' : said
    return new BrokerError('BATON_ERR_WORKER_FAILED', worker.alive ? `not within ${START_LIMIT} ms` : why)
  }

  #limitLeaving(): void {
    const leaving = [...this.#workers].filter(({ role }) => role === 'leaving')
    for (const worker of leaving.slice(0, Math.max(0, leaving.length - MOST_LEAVING))) {
      this.#logger.warn({ workerPid: worker.pid }, 'too many workers are finishing; the oldest is ended')
      worker.send({ type: 'stop', deadline: 0 })
    }
  }

  readonly #workerHost = {
    message: (worker: WorkerProcess, message: FromWorker) => {
      if (message.type === 'ready') this.#built.add(worker)
      else if (message.type === 'failed') this.#failures.set(worker, `${message.message} (${message.code})`)
      else if (message.type === 'listens') {
        const names = this.#listening.get(worker) ?? new Set()
        this.#listening.set(worker, names.add(message.listener))
      } else this.#host.message(worker, message)
      this.#look()
    },
    ended: (worker: WorkerProcess, exit: Exit) => this.#ended(worker, exit),
  }

  #ended(worker: WorkerProcess, { code, signal }: Exit): void {
    this.#workers.delete(worker)
    this.#counters.keep(worker.snapshot)
    this.#host.ended()
    const asked = this.#stopping || worker.role === 'leaving'
    const log = { workerPid: worker.pid, code, signal }
    if (asked && code === 0) this.#logger.info(log, 'worker has finished')
    else {
      this.#counters.workerDied()
      this.#logger.error(log, 'worker died')
    }
    const serving = worker === this.#current
    if (serving) {
      this.#current = undefined
      this.#remember(worker.backends)
    } else if (this.#current !== undefined) void this.#tellOthers(this.#current)
    this.#look()
    if (serving && !this.#stopping && !this.#replacing) this.#replaceDead(worker)
  }

  #replaceDead(worker: WorkerProcess): void {
    this.#restartIn(this.#backoff.next(performance.now() - (this.#startedAt.get(worker) ?? 0)))
  }

  #restartIn(milliseconds: number): void {
    clearTimeout(this.#restart)
    this.#restart = setTimeout(() => void this.#startAnother(), milliseconds)
  }

  async #startAnother(): Promise<void> {
    // A reload may have brought one meanwhile, or be about to.
    const wanted = () => this.#current === undefined && !this.#stopping && !this.#replacing
    if (!wanted()) return
    try {
      const next = await this.#build(this.#host.assignment())
      await this.#tellOthers(next)
      if (!next.alive) throw this.#failed(next)
      if (wanted()) return this.#take(next)
      next.role = 'leaving'
      next.send({ type: 'stop', deadline: 0 })
    } catch (error) {
      this.#logger.error({ err: error }, 'worker could not be replaced')
      if (wanted()) this.#restartIn(this.#backoff.next(0))
    }
  }
}

function knownOf(backends: readonly BackendReport[]): KnownBackends {
  const entries = backends.map(({ id, slot, state, pid, uid, started = null }) => {
    const process = uid === undefined ? undefined : { pid, uid, started }
    return [id, { slot, healthy: state !== 'starting' && state !== 'unhealthy', process }] as const
  })
  return Object.fromEntries(entries)
}
