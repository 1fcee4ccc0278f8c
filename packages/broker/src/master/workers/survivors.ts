import { NativeError, OwnedFd, type Poller, socketpair } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { Copy } from '../../ipc/copies.ts'
import type { HeldClient } from '../../ipc/messages.ts'
import { Transfer } from '../../ipc/transfer.ts'
import type { Survivor } from './kept-copy.ts'
import { closeCopies } from './worker-copies.ts'
import type { WorkerProcess } from './worker-process.ts'

/** Maximum clients per message, as between workers. */
const MAX_CLIENTS = 32

/**
 * After this long, in ms, those that still wait go to the worker that serves: they have come back from one that lives, which could not take them, or no
 * other worker has followed.
 */
const AGAIN_MS = 1000

/** The survivors that cross the master's exec. */
export type SurvivorsState = readonly (Omit<Survivor, 'fd'> & { readonly fd: number })[]

/**
 * Connections that have outlived their worker, until the next one serves: then they go there as from a predecessor. Owns them until it has
 * taken them. Those that can go to no worker are lost.
 */
export class Survivors {
  readonly #poller: Poller
  readonly #logger: Logger
  readonly #onPassed: () => void
  readonly #serving: () => WorkerProcess | undefined
  #waiting: Survivor[] = []
  /** See `Remains.release`. */
  #releases: (() => void)[] = []
  readonly #passing = new Map<Transfer, WorkerProcess>()
  /** Of workers that have ended, while what they have taken is not read yet. */
  readonly #reclaiming: (() => void)[] = []
  #again: NodeJS.Timeout | undefined

  /**
   * @param onPassed called when a worker has those that were passed to it, or has ended
   * @param serving the worker that serves, if there is one
   */
  constructor(
    poller: Poller,
    logger: Logger,
    onPassed: () => void,
    serving: () => WorkerProcess | undefined,
  ) {
    this.#poller = poller
    this.#logger = logger
    this.#onPassed = onPassed
    this.#serving = serving
  }

  /** Those of the program before. Usually another worker follows, and gets them. Owns the descriptors. */
  adopt(state: SurvivorsState): void {
    this.add(state.map((survivor) => ({ ...survivor, fd: new OwnedFd(survivor.fd) })))
    this.#passLater()
  }

  /** Nothing else keeps them any more. */
  release(): void {
    for (const release of this.#releases.splice(0)) release()
  }

  /** The descriptors must stay open. */
  get state(): SurvivorsState {
    return this.#waiting.map((survivor) => ({ ...survivor, fd: survivor.fd.fd }))
  }

  /** Some are here, or on their way. */
  get any(): boolean {
    return this.#waiting.length > 0 || this.#passing.size > 0
  }

  /** The worker to which some are being passed. */
  get receiver(): WorkerProcess | undefined {
    return [...this.#passing.values()].find(({ alive }) => alive)
  }

  /** @param release see `Remains.release` */
  add(survivors: readonly Survivor[], release?: () => void): void {
    if (release !== undefined && survivors.length === 0) return release()
    if (release !== undefined) this.#releases.push(release)
    // Not push(): there may be more than a call takes arguments.
    this.#waiting = [...this.#waiting, ...survivors]
  }

  /** To a worker that serves, in order of arrival: some may have come back from another worker, which was older than those that waited there. */
  pass(worker: WorkerProcess): void {
    clearTimeout(this.#again)
    if (this.#waiting.length === 0) return
    this.release()
    let ends: [OwnedFd, OwnedFd]
    try {
      ends = socketpair('stream')
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#logger.error({ err: error, clients: this.#waiting.length }, 'clients of a dead worker were lost')
      return this.close()
    }
    const [theirs, ours] = ends
    // Itself, not a duplicate, for which there may be no room.
    worker.give({ type: 'peer' }, [theirs])
    const transfer = new Transfer(ours, this.#poller, worker.succeeds, {
      ended: () => this.#over(transfer),
    })
    this.#passing.set(transfer, worker)
    const survivors = this.#waiting
      .splice(0)
      .toSorted((a, b) => a.copy.client.acceptedAt - b.copy.client.acceptedAt)
    const now = Number(process.hrtime.bigint()) / 1e6
    for (let from = 0; from < survivors.length; from += MAX_CLIENTS) {
      const batch = survivors.slice(from, from + MAX_CLIENTS)
      transfer.send(
        batch.map(({ copy }) => clientOf(copy, now)),
        batch.map(({ fd }) => fd),
        {
          taken: (fds) => closeCopies(withDescriptors(batch, fds)),
          // The next one gets them.
          back: (fds) => this.add(withDescriptors(batch, fds)),
        },
      )
    }
    this.#logger.info(
      { clients: survivors.length, workerPid: worker.pid },
      'waiting clients of the dead worker go to the next one',
    )
    void this.#end(transfer)
  }

  async #end(transfer: Transfer): Promise<void> {
    await transfer.settled()
    transfer.close()
    this.#over(transfer)
  }

  /** The worker has ended. @param reclaimed called, never within this call, once what it has not taken is here again */
  reclaim(worker: WorkerProcess, reclaimed: () => void): void {
    if (![...this.#passing.values()].includes(worker)) return queueMicrotask(reclaimed)
    this.#reclaiming.push(() => this.reclaim(worker, reclaimed))
  }

  #over(transfer: Transfer): void {
    const worker = this.#passing.get(transfer)
    if (worker === undefined) return
    this.#passing.delete(transfer)
    for (const again of this.#reclaiming.splice(0)) again()
    this.#onPassed()
    this.#passLater()
  }

  /** If none serves by then, they go to the next one as soon as it does. */
  #passLater(): void {
    if (this.#waiting.length === 0) return
    clearTimeout(this.#again)
    this.#again = setTimeout(() => {
      const worker = this.#serving()
      if (worker?.alive === true) this.pass(worker)
    }, AGAIN_MS)
  }

  /** Closes those that no worker will take. */
  close(): void {
    clearTimeout(this.#again)
    this.release()
    closeCopies(this.#waiting.splice(0))
  }
}

/** @param fds in the same order. None: all are closed */
function withDescriptors(survivors: readonly Survivor[], fds: readonly OwnedFd[]): Survivor[] {
  return fds.map((fd, index) => ({ ...(survivors[index] as Survivor), fd }))
}

function clientOf({ client, idleUntil }: Copy, now: number): HeldClient {
  if (idleUntil === undefined) return client
  return { ...client, idleFor: idleUntil === null ? null : Math.max(0, idleUntil - now) }
}
