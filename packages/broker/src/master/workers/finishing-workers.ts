import { closeSync } from 'node:fs'
import type { Poller } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { type FinishingWorker, readAccounts } from '../../ipc/copies.ts'
import type { MetricSnapshot } from '../../metrics/snapshot.ts'
import { Child } from '../../supervise/child.ts'
import { type LastAccounts, lastAccounts } from './last-accounts.ts'

interface Watched {
  readonly worker: FinishingWorker
  readonly child: Child
}

/**
 * Workers that were finishing when their master was killed. They finish without one, and have no other to report to: their last report and their
 * memory file say what each has counted, alive or not. Owns the files.
 */
export class FinishingWorkers {
  readonly #poller: Poller
  readonly #logger: Logger
  readonly #ended: (reported: MetricSnapshot, last: LastAccounts) => void
  readonly #watched = new Set<Watched>()

  /** @param ended called when one has exited, with its last report and all that it has counted since */
  constructor(poller: Poller, logger: Logger, ended: (reported: MetricSnapshot, last: LastAccounts) => void) {
    this.#poller = poller
    this.#logger = logger
    this.#ended = ended
  }

  /**
   * Owns the descriptors.
   *
   * @param own pids of workers that report to this master: they are counted there, and the estate may be from before they were taken over
   */
  adopt(workers: readonly FinishingWorker[], own: ReadonlySet<number>): void {
    for (const worker of workers) {
      const { pid, startedAt, file } = worker
      if (own.has(pid)) {
        closeSync(file)
        continue
      }
      const numbers = { pid, stdout: null, stderr: null, exit: null }
      const child = Child.adopt(
        numbers,
        { poller: this.#poller, leader: false, foreign: startedAt },
        { output: () => {}, exited: () => this.#exited(watched) },
      )
      const watched: Watched = { worker, child }
      this.#watched.add(watched)
    }
  }

  /** Those that have not exited. Their files must stay open. */
  get state(): readonly FinishingWorker[] {
    return [...this.#watched].map(({ worker }) => worker)
  }

  /** The counts of those that have not exited. */
  get snapshots(): readonly MetricSnapshot[] {
    return this.state.flatMap((worker) => [worker.snapshot, accountsOf(worker).counts])
  }

  /** Stops watching. They go on. */
  close(): void {
    for (const watched of this.#watched) this.#forget(watched)
  }

  #exited(watched: Watched): void {
    const { worker } = watched
    const last = accountsOf(worker)
    this.#forget(watched)
    this.#logger.info({ workerPid: worker.pid, code: null, signal: null }, 'worker has finished')
    this.#ended(worker.snapshot, last)
  }

  #forget(watched: Watched): void {
    this.#watched.delete(watched)
    watched.child.close()
    closeSync(watched.worker.file)
  }
}

function accountsOf({ snapshot, layout, file }: FinishingWorker): LastAccounts {
  return lastAccounts(readAccounts(file, layout), snapshot)
}
