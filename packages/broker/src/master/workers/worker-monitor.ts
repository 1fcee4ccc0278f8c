import type { ActiveConfig } from '../active-config.ts'
import { threadStats, type ThreadStats, wasStarved } from './thread-stats.ts'
import { RunningTime } from '../../supervise/running-time.ts'
import { type Verdict, SilenceTimer } from './silence-timer.ts'
import type { WorkerProcess } from './worker-process.ts'

/** Checks per worker timeout, and the limits of the interval between two, in ms. */
const TICKS_PER_TIMEOUT = 20
const MIN_INTERVAL_MS = 50
const MAX_INTERVAL_MS = 250

/** The result of a check. */
export interface Observation {
  readonly verdict: Verdict
  readonly silentMs: number
  /** The kernel's state of its main thread, and the CPU time used since its last answer. Undefined if /proc does not show them. */
  readonly state: string | undefined
  readonly cpuMs: number | undefined
}

interface Watched {
  readonly silenceTimer: SilenceTimer
  heard: number
  /** The last ping was one whose answer wakes this process. */
  isLoud: boolean
  /** At the first check without an answer, and at the last one. */
  first: ThreadStats | undefined
  last: ThreadStats | undefined
}

/** Pings workers, and observes those that do not answer. */
export class WorkerMonitor {
  readonly #workers: Iterable<WorkerProcess>
  readonly #activeConfig: ActiveConfig
  readonly #observed: (worker: WorkerProcess, observation: Observation) => void
  readonly #awake: () => void
  readonly #watched = new WeakMap<WorkerProcess, Watched>()
  /** Workers that were sent a ping to find out whether they answer any. */
  readonly #tried = new WeakSet<WorkerProcess>()
  #timer: NodeJS.Timeout | undefined

  /**
   * @param workers those to check, read again before each check
   * @param observed called after each check of a worker
   * @param awake called at each interval: its timer has woken this process
   */
  constructor(
    workers: Iterable<WorkerProcess>,
    activeConfig: ActiveConfig,
    observed: (worker: WorkerProcess, observation: Observation) => void,
    awake: () => void,
  ) {
    this.#workers = workers
    this.#activeConfig = activeConfig
    this.#observed = observed
    this.#awake = awake
  }

  start(): void {
    if (this.#timer === undefined) this.#schedule()
  }

  /** Restarts the observation of a worker. */
  forget(worker: WorkerProcess): void {
    this.#watched.delete(worker)
  }

  #schedule(): void {
    const { workerTimeout } = this.#activeConfig.config
    const interval = Math.min(MAX_INTERVAL_MS, Math.max(MIN_INTERVAL_MS, workerTimeout / TICKS_PER_TIMEOUT))
    const time = new RunningTime(2 * interval)
    this.#timer = setTimeout(() => {
      const elapsed = time.step()
      for (const worker of this.#workers) if (worker.alive) this.#check(worker, elapsed)
      this.#awake()
      this.#schedule()
    }, interval).unref()
  }

  #check(worker: WorkerProcess, elapsed: number): void {
    if (worker.answers) return this.#tick(worker, elapsed)
    if (this.#tried.has(worker)) return
    this.#tried.add(worker)
    worker.ping(false)
  }

  #tick(worker: WorkerProcess, elapsed: number): void {
    let watched = this.#watched.get(worker)
    if (watched === undefined) {
      watched = {
        silenceTimer: new SilenceTimer(),
        heard: -1,
        isLoud: false,
        first: undefined,
        last: undefined,
      }
      this.#watched.set(worker, watched)
    }
    const { heard } = worker
    const answered = heard !== watched.heard
    watched.heard = heard
    let stats: ThreadStats | undefined
    if (!answered) stats = threadStats(worker.pid)
    const starved = !answered && wasStarved(watched.last, stats, elapsed)
    watched.first = answered ? undefined : (watched.first ?? stats)
    watched.last = stats
    const { workerTimeout } = this.#activeConfig.config
    const verdict = watched.silenceTimer.tick({ elapsed, answered, starved }, workerTimeout)
    // One at a time: a worker that resumes answers that one. Its memory file may be another one by now: then it is asked for a message.
    if (answered || !watched.isLoud) worker.ping(answered)
    watched.isLoud = !answered
    this.#observed(worker, {
      verdict,
      silentMs: Math.round(watched.silenceTimer.silent),
      state: stats?.state,
      cpuMs: stats && Math.round(stats.running - (watched.first?.running ?? stats.running)),
    })
  }
}
