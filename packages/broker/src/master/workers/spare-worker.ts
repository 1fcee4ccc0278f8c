import type { Poller } from '@baton/native-sendmsg'
import { StartedWorker, type StartedWorkerState } from './started-worker.ts'

/**
 * At most one worker process that was started before it is needed: while the master itself is loading, or before it executes its program.
 * Owns it.
 */
export class SpareWorker {
  readonly #start: () => StartedWorker
  #spare: StartedWorker | undefined

  /** @param start starts a worker with the Node binary that is tried first */
  constructor(start: () => StartedWorker, spare?: StartedWorker) {
    this.#start = start
    this.#spare = spare
  }

  /** For the next program to adopt it. */
  get state(): StartedWorkerState | undefined {
    return this.#spare?.state
  }

  adopt(state: StartedWorkerState | undefined, poller: Poller): void {
    if (state === undefined) return
    this.end()
    this.#spare = StartedWorker.adopt(state, poller)
  }

  /** @throws what starting a worker throws */
  prepare(): void {
    if (this.#spare?.running === true) return
    this.end()
    this.#spare = this.#start()
  }

  /** The caller owns it. It may have ended, like any worker that is starting. */
  take(): StartedWorker | undefined {
    const spare = this.#spare
    this.#spare = undefined
    return spare
  }

  end(): void {
    this.take()?.end()
  }
}
