import type { OwnedFd, Poller } from '@baton/native-sendmsg'
import { MAX_CLIENTS } from '../../ipc/messages.ts'
import { Transfer } from '../../ipc/transfer.ts'
import { stateBytes } from '../connection/resume-state.ts'
import { heldClient } from '../copies/held-client.ts'
import { systemOs } from '../os.ts'
import type { Successor, Waiting } from '../service/hand-over.ts'
import type { ReplaceableWorker } from '../replaceable-worker.ts'

/** Maximum bytes of state per message, unless one connection has more. The successor reads other sockets between two messages. */
const MAX_STATE_BYTES = 1024 * 1024

/** Connections that move to a successor in one turn of the event loop: a few milliseconds of work. */
export const MOVED_AT_A_TIME = 128

/** Where the connections of a worker that leaves go: to its successor, and to each that followed because the one before has died. */
export class Successors {
  readonly #poller: Poller
  readonly #worker: () => ReplaceableWorker | undefined
  readonly #counted: () => void
  readonly #transfers: Transfer[] = []
  /** No more clients will be sent. */
  #hasEnded = false
  /** Messages whose connections have come back, and how many of them `settled` has told of. */
  #returned = 0
  #told = 0

  /** @param counted writes down what the worker has counted */
  constructor(poller: Poller, worker: () => ReplaceableWorker | undefined, counted: () => void) {
    this.#poller = poller
    this.#worker = worker
    this.#counted = counted
  }

  /** Whether there has been one, and there may be another. */
  get mayFollow(): boolean {
    return this.#transfers.length > 0 && !this.#hasEnded
  }

  /**
   * Owns `socket`.
   *
   * @param confirms see `Transfer`
   * @param settle called when the successor has said that it goes on without a master, or is gone
   */
  connect(socket: OwnedFd, confirms: boolean, settle = (_isSucceeded: boolean): void => {}): Transfer {
    return new Transfer(socket, this.#poller, confirms, {
      goesOn: () => settle(true),
      ended: () => settle(false),
    })
  }

  /** Connections of each service go there from now on. Owns `transfer`. */
  follow(transfer: Transfer): (service: string) => Successor {
    this.#transfers.push(transfer)
    return (service) => ({
      slice: MOVED_AT_A_TIME,
      get hasRoom() {
        return transfer.hasRoom
      },
      pass: (connections, taken) => this.#pass(transfer, service, connections, taken),
      whenReady: (callback) => void transfer.room().then(() => setImmediate(callback)),
    })
  }

  /**
   * Resolves when nothing is on its way any more. If all of it was taken, no more clients will be sent.
   *
   * @returns false if some have come back since the last call: they wait here, or are on their way to the next one
   */
  async settled(): Promise<boolean> {
    for (const transfer of this.#transfers) await transfer.settled()
    const before = this.#told
    this.#told = this.#returned
    // Meanwhile more may have been sent.
    if (this.#told !== before || this.#transfers.some(({ pending }) => pending)) return false
    this.end()
    return true
  }

  /** No more clients will be sent. */
  end(): void {
    this.#hasEnded = true
    for (const transfer of this.#transfers) transfer.close()
  }

  #pass(
    successor: Transfer,
    service: string,
    connections: readonly Waiting[],
    taken: (count: number) => void,
  ): boolean {
    if (!successor.open) return false
    // First: if this process is killed now, the successor must not have connections that were never accepted.
    this.#counted()
    for (const batch of batches(connections)) {
      const clients = batch.map((connection) => heldClient(service, connection))
      successor.send(
        clients,
        batch.map(({ fd }) => fd),
        {
          taken: (fds) => {
            systemOs.closeClients(fds.map((fd) => ({ fd, peer: systemOs.peer(fd.fd) })))
            taken(batch.length)
          },
          back: (fds) => {
            this.#returned += 1
            this.#worker()?.takeBack(service, batch, fds)
          },
        },
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
