import type { OwnedFd, Poller } from '@baton/native-sendmsg'
import { Channel } from '../../ipc/channel.ts'
import { type HeldClients, type Heir, MAX_CLIENTS } from '../../ipc/messages.ts'
import { stateBytes } from '../connection/resume-state.ts'
import { heldClient } from '../copies/held-client.ts'
import type { Successor, Waiting } from '../service/hand-over.ts'
import type { ReplaceableWorker } from '../replaceable-worker.ts'

/** Maximum bytes of state per message, unless one connection has more. The successor reads other sockets between two messages. */
const MAX_STATE_BYTES = 1024 * 1024

/** Parked connections that move to a successor in one turn of the event loop: a few milliseconds of work. */
export const PARKED_AT_A_TIME = 128

/** Where the connections of a worker that leaves go: to its successor, and to each that followed because the one before has died. */
export class Successors {
  readonly #poller: Poller
  readonly #worker: () => ReplaceableWorker | undefined
  readonly #channels: Channel<Heir, HeldClients>[] = []
  /** No more clients will be sent. */
  #hasEnded = false

  constructor(poller: Poller, worker: () => ReplaceableWorker | undefined) {
    this.#poller = poller
    this.#worker = worker
  }

  /** Whether there has been one, and there may be another. */
  get mayFollow(): boolean {
    return this.#channels.length > 0 && !this.#hasEnded
  }

  /** Owns `socket`. @param settle called once, when the successor has said that it goes on (`Heir`), or is gone */
  connect(socket: OwnedFd, settle = (_isSucceeded: boolean): void => {}): Channel<Heir, HeldClients> {
    return new Channel<Heir, HeldClients>(socket, this.#poller, {
      message: () => settle(true),
      ended: () => settle(false),
    })
  }

  /** Connections of each service go there from now on. Owns `channel`. */
  follow(channel: Channel<Heir, HeldClients>): (service: string) => Successor {
    this.#channels.push(channel)
    return (service) => ({
      slice: PARKED_AT_A_TIME,
      pass: (connections) => this.#pass(channel, service, connections),
      whenReady: (callback) => void channel.sent().then(() => setImmediate(callback)),
    })
  }

  /** No more clients will be sent: closes the channels once everything queued has been written. */
  async end(): Promise<void> {
    this.#hasEnded = true
    for (const channel of this.#channels) {
      await channel.sent()
      channel.close()
    }
  }

  #pass(successor: Channel<Heir, HeldClients>, service: string, connections: readonly Waiting[]): boolean {
    if (!successor.open) return false
    for (const batch of batches(connections)) {
      const clients = batch.map((connection) => heldClient(service, connection))
      // The descriptors themselves, because there may be no room for duplicates.
      successor.give(
        { type: 'held', clients },
        batch.map(({ fd }) => fd),
        (fds) => this.#worker()?.takeBack(service, batch, fds),
      )
    }
    return true
  }
}

/** In as few messages as their size allows. */
function* batches(connections: readonly Waiting[]): Generator<readonly Waiting[]> {
  let batch: Waiting[] = []
  let bytes = 0
  for (const connection of connections) {
    const size = 'resume' in connection && connection.resume ? stateBytes(connection.resume.block) : 0
    if (batch.length === MAX_CLIENTS || (batch.length > 0 && bytes + size > MAX_STATE_BYTES)) {
      yield batch
      batch = []
      bytes = 0
    }
    batch.push(connection)
    bytes += size
  }
  if (batch.length > 0) yield batch
}
