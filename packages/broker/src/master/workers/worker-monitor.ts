import { threadStats, type ThreadStats, wasStarved } from './thread-stats.ts'
import { RunningTime } from './running-time.ts'
import { type Verdict, SilenceTimer } from './silence-timer.ts'
import type { WorkerProcess } from './worker-process.ts'

/** Ticks for each timeout, and the shortest and the longest time between two, in milliseconds. */
const TICKS_PER_TIMEOUT = 20
const MIN_INTERVAL_MS = 50
const MAX_INTERVAL_MS = 250

/** What was seen of a worker that does not answer. */
export interface Observation {
  readonly verdict: Verdict
  /** Milliseconds. */
  readonly silentMs: number
  /** Undefined where /proc does not tell: the kernel's state of its main thread, and the processor time that it took since it fell silent. */
  readonly state: string | undefined
  readonly cpuMs: number | undefined
}

export interface WorkerMonitorHost {
  readonly workers: Iterable<WorkerProcess>
  /** Milliseconds. */
  workerTimeout(): number
  /** After each look at a worker. */
  observed(worker: WorkerProcess, observation: Observation): void
}

interface Watched {
  readonly silenceTimer: SilenceTimer
  heard: number
  /** When it was last known to answer, and the last time. */
  first: ThreadStats | undefined
  last: ThreadStats | undefined
}

/** Pings workers, and looks closer at one that does not answer. */
export class WorkerMonitor {
  readonly #host: WorkerMonitorHost
  readonly #watched = new WeakMap<WorkerProcess, Watched>()
  /** Whether they answer pings at all. */
  readonly #asked = new WeakSet<WorkerProcess>()
  #timer: NodeJS.Timeout | undefined

  constructor(host: WorkerMonitorHost) {
    this.#host = host
  }

  start(): void {
    if (this.#timer === undefined) this.#schedule()
  }

  /** Begins with this one from the start. */
  forget(worker: WorkerProcess): void {
    this.#watched.delete(worker)
  }

  #schedule(): void {
    const interval = Math.min(
      MAX_INTERVAL_MS,
      Math.max(MIN_INTERVAL_MS, this.#host.workerTimeout() / TICKS_PER_TIMEOUT),
    )
    const time = new RunningTime(2 * interval)
    this.#timer = setTimeout(() => {
      const elapsed = time.step()
      for (const worker of this.#host.workers) if (worker.alive) this.#check(worker, elapsed)
      this.#schedule()
    }, interval).unref()
  }

  #check(worker: WorkerProcess, elapsed: number): void {
    if (worker.answers) return this.#tick(worker, elapsed)
    if (this.#asked.has(worker)) return
    this.#asked.add(worker)
    worker.send({ type: 'ping' })
  }

  #tick(worker: WorkerProcess, elapsed: number): void {
    let watched = this.#watched.get(worker)
    if (watched === undefined) {
      watched = { silenceTimer: new SilenceTimer(), heard: -1, first: undefined, last: undefined }
      this.#watched.set(worker, watched)
    }
    const heard = worker.messagesReceived !== watched.heard
    watched.heard = worker.messagesReceived
    let stats: ThreadStats | undefined
    if (!heard) stats = threadStats(worker.pid)
    const starved = !heard && wasStarved(watched.last, stats, elapsed)
    watched.first = heard ? undefined : (watched.first ?? stats)
    watched.last = stats
    const verdict = watched.silenceTimer.tick({ elapsed, heard, starved }, this.#host.workerTimeout())
    // One at a time: a worker that goes on answers that one.
    if (heard) worker.send({ type: 'ping' })
    this.#host.observed(worker, {
      verdict,
      silentMs: Math.round(watched.silenceTimer.silent),
      state: stats?.state,
      cpuMs: stats && Math.round(stats.running - (watched.first?.running ?? stats.running)),
    })
  }
}
