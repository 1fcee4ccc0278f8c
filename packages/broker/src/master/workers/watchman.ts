import { lookAt, type ProcessSight, wasStarved } from './process-sight.ts'
import { RunningTime } from './running-time.ts'
import { type Verdict, Vigil } from './vigil.ts'
import type { WorkerProcess } from './worker-process.ts'

/** Ticks for each timeout, and the shortest and the longest time between two, in milliseconds. */
const TICKS = 20
const SHORTEST = 50
const LONGEST = 250

/** What was seen of a worker that does not answer. */
export interface Sighting {
  readonly verdict: Verdict
  /** Milliseconds. */
  readonly silentMs: number
  /** Undefined where /proc does not tell: the kernel's state of its main thread, and the processor time that it took since it fell silent. */
  readonly state: string | undefined
  readonly cpuMs: number | undefined
}

export interface WatchmanHost {
  readonly workers: Iterable<WorkerProcess>
  /** Milliseconds. */
  workerTimeout(): number
  /** After each look at a worker. */
  seen(worker: WorkerProcess, sighting: Sighting): void
}

interface Watched {
  readonly vigil: Vigil
  heard: number
  /** When it was last known to answer, and the last time. */
  first: ProcessSight | undefined
  last: ProcessSight | undefined
}

/** Pings workers, and looks closer at one that does not answer. */
export class Watchman {
  readonly #host: WatchmanHost
  readonly #watched = new WeakMap<WorkerProcess, Watched>()
  /** Whether they answer pings at all. */
  readonly #asked = new WeakSet<WorkerProcess>()
  #timer: NodeJS.Timeout | undefined

  constructor(host: WatchmanHost) {
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
    const interval = Math.min(LONGEST, Math.max(SHORTEST, this.#host.workerTimeout() / TICKS))
    const time = new RunningTime(2 * interval)
    this.#timer = setTimeout(() => {
      const elapsed = time.step()
      for (const worker of this.#host.workers) if (worker.alive) this.#look(worker, elapsed)
      this.#schedule()
    }, interval).unref()
  }

  #look(worker: WorkerProcess, elapsed: number): void {
    if (worker.answers) return this.#tick(worker, elapsed)
    if (this.#asked.has(worker)) return
    this.#asked.add(worker)
    worker.send({ type: 'ping' })
  }

  #tick(worker: WorkerProcess, elapsed: number): void {
    let watched = this.#watched.get(worker)
    if (watched === undefined) {
      watched = { vigil: new Vigil(), heard: -1, first: undefined, last: undefined }
      this.#watched.set(worker, watched)
    }
    const heard = worker.heard !== watched.heard
    watched.heard = worker.heard
    let sight: ProcessSight | undefined
    if (!heard) sight = lookAt(worker.pid)
    const starved = !heard && wasStarved(watched.last, sight, elapsed)
    watched.first = heard ? undefined : (watched.first ?? sight)
    watched.last = sight
    const verdict = watched.vigil.tick({ elapsed, heard, starved }, this.#host.workerTimeout())
    // One at a time: a worker that goes on answers that one.
    if (heard) worker.send({ type: 'ping' })
    this.#host.seen(worker, {
      verdict,
      silentMs: Math.round(watched.vigil.silent),
      state: sight?.state,
      cpuMs: sight && Math.round(sight.running - (watched.first?.running ?? sight.running)),
    })
  }
}
