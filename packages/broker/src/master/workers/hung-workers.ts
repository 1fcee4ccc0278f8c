import type { Logger } from 'pino'
import type { ActiveConfig } from '../active-config.ts'
import type { Conditions } from './conditions.ts'
import type { Counters } from './counters.ts'
import { type Observation, WorkerMonitor } from './worker-monitor.ts'
import type { WorkerProcess } from './worker-process.ts'

/** Timeout for a process to exit after SIGKILL, in ms: one that the kernel cannot end yet does not delay its successor. */
const KILL_TIMEOUT_MS = 2000

/** The pool's part in the replacement of a hung worker. */
export interface HungWorkersHost {
  /** This worker serves, and no replacement is in progress. */
  isReplaceable(worker: WorkerProcess): boolean
  isStopping(): boolean
  /** This process is awake, as it is several times per second. */
  awake(): void
  begin(): void
  /** Builds a successor. */
  build(): Promise<WorkerProcess>
  /** It has ended, and nothing of it is left. */
  isGone(worker: WorkerProcess): boolean
  /** The successor serves from now on. */
  succeed(next: WorkerProcess): Promise<void>
  /** The successor is not needed. */
  retire(next: WorkerProcess): void
  failed(error: unknown): void
  end(): void
}

/**
 * Workers that do not answer: a successor is built while one may still answer, then it is killed. See
 * docs/internals/master.md.
 */
export class HungWorkers {
  readonly #logger: Logger
  readonly #counters: Counters
  readonly #conditions: Conditions
  readonly #host: HungWorkersHost
  readonly #monitor: WorkerMonitor
  /** The serving worker while it may be hung and its successor is built. */
  #silent: WorkerProcess | undefined

  constructor(
    workers: Iterable<WorkerProcess>,
    activeConfig: ActiveConfig,
    parts: { readonly logger: Logger; readonly counters: Counters; readonly conditions: Conditions },
    host: HungWorkersHost,
  ) {
    this.#logger = parts.logger
    this.#counters = parts.counters
    this.#conditions = parts.conditions
    this.#host = host
    this.#monitor = new WorkerMonitor(
      workers,
      activeConfig,
      (worker, observation) => this.#observed(worker, observation),
      () => host.awake(),
    )
  }

  /** The one that is being replaced. */
  get silent(): WorkerProcess | undefined {
    return this.#silent
  }

  /** From now on, workers are observed. */
  start(): void {
    this.#monitor.start()
  }

  #observed(worker: WorkerProcess, { verdict, ...observation }: Observation): void {
    if (verdict === 'suspect' || verdict === 'hung') this.#suspect(worker, observation)
    if (verdict === 'hung') this.#foundHung(worker, observation)
    // A silent worker may have answered again.
    this.#conditions.check()
  }

  /** The serving worker may be hung: a successor is built before it is killed. */
  #suspect(worker: WorkerProcess, observation: object): void {
    if (!this.#host.isReplaceable(worker) || worker.hung !== undefined) return
    this.#logger.warn({ workerPid: worker.pid, ...observation }, 'worker does not answer; starting another')
    void this.#replace(worker)
  }

  #foundHung(worker: WorkerProcess, observation: object): void {
    if (worker.hung !== undefined) return
    worker.hung = observation
    // While a successor is being built, `#replace` decides.
    if (worker !== this.#silent || this.#host.isStopping()) this.#kill(worker)
  }

  #kill(worker: WorkerProcess): void {
    if (worker.killed) return
    worker.killed = true
    this.#counters.workerHung()
    this.#logger.error({ workerPid: worker.pid, ...worker.hung }, 'worker hangs; ending it')
    worker.kill('SIGKILL')
  }

  async #replace(silent: WorkerProcess): Promise<void> {
    this.#host.begin()
    this.#silent = silent
    const before = silent.heard
    try {
      const next = await this.#host.build()
      await this.#conditions.until(
        () => !silent.alive || silent.hung !== undefined || silent.heard !== before,
      )
      if (silent.alive && silent.heard !== before) {
        silent.hung = undefined
        this.#logger.info({ workerPid: silent.pid }, 'worker answers again; it stays')
        return this.#host.retire(next)
      }
      // Its control connections end with it, so its backends dial the successor.
      if (silent.alive) this.#kill(silent)
      if (this.#host.isStopping()) return
      await this.#conditions.until(() => this.#host.isGone(silent), KILL_TIMEOUT_MS)
      silent.role = 'leaving'
      await this.#host.succeed(next)
    } catch (error) {
      if (!this.#host.isStopping()) this.#host.failed(error)
      // It may still answer. Otherwise this is repeated after another timeout.
      silent.hung = undefined
      this.#monitor.forget(silent)
    } finally {
      this.#silent = undefined
      this.#host.end()
    }
  }
}
