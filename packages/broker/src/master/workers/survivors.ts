import { NativeError, OwnedFd, type Poller, socketpair } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { Channel } from '../../ipc/channel.ts'
import type { Copy } from '../../ipc/copies.ts'
import type { HeldClient, HeldClients } from '../../ipc/messages.ts'
import type { Survivor } from './kept-copy.ts'
import { closeCopies } from './worker-copies.ts'
import type { WorkerProcess } from './worker-process.ts'

/** Maximum clients per message, as between workers. */
const MAX_CLIENTS = 32

/** How many connections a worker was given here, by service, and by listener where the service is not chosen yet. */
export interface Passed {
  readonly services: Map<string, number>
  readonly listeners: Map<string, number>
}

/** The survivors that cross the master's exec. */
export type SurvivorsState = readonly (Omit<Survivor, 'fd'> & { readonly fd: number })[]

/**
 * Connections that have outlived their worker, until the next one serves: then they go there as from a predecessor. Owns them until the kernel
 * has them. Those that can go to no worker are lost.
 */
export class Survivors {
  readonly #poller: Poller
  readonly #logger: Logger
  readonly #onLost: (survivors: readonly Survivor[]) => void
  #waiting: Survivor[] = []
  /** See `Remains.release`. */
  #releases: (() => void)[] = []
  readonly #passing = new Map<Channel<never, HeldClients>, WorkerProcess>()
  readonly #passed = new Map<WorkerProcess, Passed>()

  /** @param onLost called with those that were closed here: no worker counts their outcome */
  constructor(poller: Poller, logger: Logger, onLost: (survivors: readonly Survivor[]) => void) {
    this.#poller = poller
    this.#logger = logger
    this.#onLost = onLost
  }

  /** Owns the descriptors. */
  static restore(state: SurvivorsState): Survivor[] {
    return state.map((survivor) => ({ ...survivor, fd: new OwnedFd(survivor.fd) }))
  }

  /** Nothing else keeps them any more. */
  release(): void {
    for (const release of this.#releases.splice(0)) release()
  }

  /** The descriptors must stay open. */
  get state(): SurvivorsState {
    return this.#waiting.map((survivor) => ({ ...survivor, fd: survivor.fd.fd }))
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

  /** To a worker that serves, in order of arrival. */
  pass(worker: WorkerProcess): void {
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
    const channel: Channel<never, HeldClients> = new Channel<never, HeldClients>(ours, this.#poller, {
      message: () => {},
      ended: () => void this.#passing.delete(channel),
    })
    this.#passing.set(channel, worker)
    const survivors = this.#waiting.splice(0)
    const now = Number(process.hrtime.bigint()) / 1e6
    for (let from = 0; from < survivors.length; from += MAX_CLIENTS) {
      const batch = survivors.slice(from, from + MAX_CLIENTS)
      channel.give(
        { type: 'held', clients: batch.map(({ copy }) => clientOf(copy, now)) },
        batch.map(({ fd }) => fd),
        // The worker died before: the next one gets them.
        (fds) => {
          this.#count(worker, batch, -1)
          this.add(batch.map((survivor, index) => ({ ...survivor, fd: fds[index] as OwnedFd })))
        },
      )
      this.#count(worker, batch, 1)
    }
    this.#logger.info(
      { clients: survivors.length, workerPid: worker.pid },
      'waiting clients of the dead worker go to the next one',
    )
    void this.#end(channel)
  }

  /** The worker has ended: what it was not sent yet comes back in a microtask. */
  reclaim(worker: WorkerProcess): void {
    for (const [channel, receiver] of this.#passing) {
      if (receiver !== worker) continue
      channel.close()
      this.#passing.delete(channel)
    }
  }

  /** Connections that the kernel has taken for this worker, read or not. */
  passedTo(worker: WorkerProcess): Passed | undefined {
    return this.#passed.get(worker)
  }

  /** It has ended, and its accounts are read. */
  forget(worker: WorkerProcess): void {
    this.#passed.delete(worker)
  }

  #count(worker: WorkerProcess, survivors: readonly Survivor[], by: 1 | -1): void {
    const passed = this.#passed.get(worker) ?? { services: new Map(), listeners: new Map() }
    this.#passed.set(worker, passed)
    for (const { copy } of survivors) {
      const { client } = copy
      const [counts, name] =
        client.peeked === undefined
          ? [passed.services, client.resume?.service ?? client.service]
          : [passed.listeners, client.listener]
      counts.set(name, (counts.get(name) ?? 0) + by)
    }
  }

  /** Once the kernel has all of them. */
  async #end(channel: Channel<never, HeldClients>): Promise<void> {
    await channel.sent()
    channel.close()
    this.#passing.delete(channel)
  }

  /** Closes those that no worker will take. */
  close(): void {
    this.release()
    const lost = this.#waiting.splice(0)
    closeCopies(lost)
    if (lost.length > 0) this.#onLost(lost)
  }
}

function clientOf({ client, idleUntil }: Copy, now: number): HeldClient {
  if (idleUntil === undefined) return client
  return { ...client, idleFor: idleUntil === null ? null : Math.max(0, idleUntil - now) }
}
