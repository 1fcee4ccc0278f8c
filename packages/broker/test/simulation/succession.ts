import { OwnedFd } from '@baton/native-sendmsg'
import { InheritedClient, type ParkedClient } from '../../src/worker/connection/connection.ts'
import type { Waiting } from '../../src/worker/service/hand-over.ts'
import type { Service } from '../../src/worker/service/service.ts'
import type { Client } from './client.ts'
import { File, type Process } from './kernel.ts'

interface Moved {
  readonly client: Client
  readonly connection: Waiting
}

/** The successor's end of the channel between two workers of a reload: what is on its way is lost with the successor alone. */
export class Succession extends File {
  readonly #successor: Process
  readonly #queue: Moved[] = []
  readonly #fd: number

  constructor(successor: Process) {
    super(`channel to ${successor.name}`)
    this.#successor = successor
    this.#fd = successor.open(this)
  }

  get waiting(): boolean {
    return this.#queue.length > 0
  }

  /** Sends what waits at `from`, as a `Successor` does. @returns false: the successor is gone */
  pass(from: Process, connections: readonly Waiting[]): boolean {
    if (!this.#successor.alive) return false
    for (const connection of connections) {
      const client = from.file(connection.fd.fd) as Client
      client.assertUnshared(from, 'passes on')
      // It does nothing more with its own descriptor.
      client.left.add(from)
      from.call(`passes ${client.label} on`, () => {
        // Into a socket whose reader has just died: lost with it.
        client.keeper = this.#successor
        if (!this.open) return
        client.inFlight += 1
        this.#queue.push({ client, connection })
      })
      from.close(connection.fd.release())
      client.left.delete(from)
    }
    return true
  }

  /** @param order of the connection among those that arrive */
  receive(service: Service, order: () => number): void {
    const got = this.#successor.call('receives a connection of its predecessor', () => {
      const moved = this.#queue.shift() as Moved
      moved.client.inFlight -= 1
      return { ...moved, fd: new OwnedFd(this.#successor.open(moved.client)) }
    })
    const { client, connection, fd } = got
    client.spent.delete(this.#successor)
    if (isParked(connection)) {
      const { listener, id, idleUntil } = connection
      service.inheritParked([{ fd, listener, id, idleUntil }])
    } else {
      client.arrival = order()
      service.inherit([new InheritedClient(fd, { ...fieldsOf(connection), order: client.arrival })])
    }
    service.flush()
  }

  close(): void {
    this.#successor.close(this.#fd)
  }

  override released(): void {
    for (const { client } of this.#queue.splice(0)) {
      client.inFlight -= 1
      if (!client.open) client.released(undefined)
    }
  }
}

function isParked(connection: Waiting): connection is ParkedClient {
  return 'idleUntil' in connection
}

function fieldsOf({ listener, peer, id, acceptedAt, handedBack }: Exclude<Waiting, ParkedClient>) {
  return { listener, peer, id, acceptedAt, ...(handedBack !== undefined && { handedBack }) }
}
