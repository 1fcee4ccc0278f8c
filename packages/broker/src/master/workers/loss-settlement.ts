import type { FromWorker } from '../../ipc/messages.ts'
import type { Counters } from './counters.ts'
import { countedAsLost, movedOf } from './last-accounts.ts'
import type { WorkerProcess } from './worker-process.ts'

/** Counts what dead workers have lost once nothing moves any more (`Losses`), which the only worker that is left has to confirm. */
export class LossSettlement {
  readonly #counters: Counters
  /** The worker that was asked last, and has not answered. */
  #asked: WorkerProcess | undefined
  #asks = 0

  constructor(counters: Counters) {
    this.#counters = counters
  }

  /** Nothing moves, except perhaps to this worker from those that have ended. Settled with its answer, if it has all of it by then. */
  ask(worker: WorkerProcess): void {
    const { areOpen, isBlind } = this.#counters.losses
    // Of one that writes nothing, no answer says more.
    const mayTell = () => worker.pairs && worker.accounts !== undefined
    if (this.#asked === worker || (!areOpen && !(isBlind && mayTell()))) return
    // It was built before moves were written down.
    if (!worker.pairs) return this.#settle(worker)
    this.#asked = worker
    worker.send({ type: 'pairs', ask: (this.#asks += 1) })
  }

  /** Something moves again. The answer that is due says nothing about it. */
  postpone(): void {
    this.#asked = undefined
  }

  answered(worker: WorkerProcess, { ask, open }: Extract<FromWorker, { type: 'pairs' }>): void {
    if (this.#asked !== worker || this.#asks !== ask) return
    this.#asked = undefined
    if (open === 0) this.#settle(worker)
  }

  #settle(worker: WorkerProcess): void {
    const { accounts } = worker
    const moved = accounts && movedOf(accounts)
    // It has not written yet.
    if (worker.pairs && accounts !== undefined && moved === undefined) return
    const lost = this.#counters.losses.settle(moved)
    if (lost.size > 0) this.#counters.keep(countedAsLost(lost))
    else this.#counters.onChange()
  }
}
