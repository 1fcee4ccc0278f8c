import { ulidToBytes } from '@baton/backend-sdk/protocol'
import type { OwnedFd, Poller } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { Channel } from '../../ipc/channel.ts'
import { type FromReceiver, type HeldClients, MAX_CLIENTS } from '../../ipc/messages.ts'
import { FIRST_INHERITED, IdleClient, InheritedClient } from '../connection/connection.ts'
import { arrivalOf, quietUntilOf } from '../copies/held-client.ts'
import { blockOf } from '../copies/held-state.ts'
import { sharedReserve } from '../listen/descriptor-reserve.ts'
import { systemOs } from '../os.ts'
import type { ReplaceableWorker } from '../replaceable-worker.ts'

type Held = HeldClients['clients'][number]
type Listening = InheritedClient['listener']

/** Workers that leave, and what this one receives from them: connections that are held, looked at or parked. */
export class Predecessors {
  readonly #poller: Poller
  readonly #logger: Logger
  readonly #worker: () => ReplaceableWorker | undefined
  readonly #counted: () => void
  /** Pending until each has sent its last client. */
  readonly #leaving = new Map<Channel<HeldClients, FromReceiver>, Promise<void>>()
  /** Of their connections: one object for all of a listener, because thousands may be parked. */
  readonly #listeners = new Map<string, Listening>()
  #inherited = FIRST_INHERITED

  /** @param counted called when the worker has counted what it has received: if it is killed now, that is to be known */
  constructor(
    poller: Poller,
    logger: Logger,
    worker: () => ReplaceableWorker | undefined,
    counted: () => void,
  ) {
    this.#counted = counted
    this.#poller = poller
    this.#logger = logger
    this.#worker = worker
  }

  /** Those that may still send connections. */
  get size(): number {
    return this.#leaving.size
  }

  /** Settles when each of those connected so far has sent its last client. */
  async gone(): Promise<void> {
    await Promise.all(this.#leaving.values())
  }

  /** This worker goes on without a master: one that was about to be told to finish finishes now. */
  succeed(): void {
    for (const predecessor of this.#leaving.keys()) predecessor.send({ type: 'heir' })
  }

  /** Owns `socket`. The worker at the other end closes it when it has no more connections. */
  connect(socket: OwnedFd): void {
    let over!: (inherited: Promise<void>) => void
    const end = new Promise<void>((resolve) => (over = resolve))
    const reserve = sharedReserve()
    /** Everything received so far is inherited. */
    let inherited = Promise.resolve()
    /** Messages that wait until the other end can know. */
    let delayed = 0
    /** This end has given up, and the other one goes on with all that it does not know to be taken. */
    let isCut = false
    const say = (number: number | undefined) =>
      number === undefined || channel.sendNow({ type: 'taken', number }, [])
    /** One message at a time, so that each is known to be said or not. */
    const inheritLater = async (
      before: Promise<void>,
      { clients, number }: HeldClients,
      fds: readonly OwnedFd[],
    ) => {
      await before
      if (!isCut && !say(number)) {
        channel.send({ type: 'taken', number: number as number })
        await channel.sent()
      }
      delayed -= 1
      if (isCut) for (const fd of fds) fd.close()
      else this.#inheritAll(clients, fds)
    }
    const channel: Channel<HeldClients, FromReceiver> = new Channel(socket, this.#poller, {
      // Clients accepted here may have filled the descriptor table.
      room: () => reserve.fits(channel.fd, MAX_CLIENTS),
      message: (held, fds) => {
        if (delayed === 0 && say(held.number)) return this.#inheritAll(held.clients, fds)
        // The other end has not read for long, or is gone: nothing is done with them before it can know that it does not have them any more.
        delayed += 1
        inherited = inheritLater(inherited, held, fds)
      },
      ended: (error) => {
        if (error !== undefined) {
          isCut = true
          this.#logger.error(
            { error: error.message },
            'the previous worker keeps the rest of its held clients',
          )
        }
        channel.close()
        over(this.#forget(channel, inherited))
      },
    })
    this.#leaving.set(channel, end)
  }

  /** Once everything that it had sent is inherited. */
  async #forget(channel: Channel<HeldClients, FromReceiver>, inherited: Promise<void>): Promise<void> {
    await inherited
    this.#leaving.delete(channel)
  }

  #inheritAll(clients: readonly Held[], fds: readonly OwnedFd[]): void {
    for (const [index, client] of clients.entries()) this.#inherit(client, fds[index] as OwnedFd)
    this.#counted()
    this.#worker()?.flush()
  }

  #inherit(client: Held, fd: OwnedFd): void {
    const worker = this.#worker()
    const { service, protocol } = client.resume ?? client
    const listener = this.#listenerNamed(client.listener, protocol)
    const id = ulidToBytes(client.id)
    const { proxied, routed, peeked, unjudged } = client
    if (client.idleFor !== undefined) {
      const idleUntil =
        client.idleFor === null ? Number.POSITIVE_INFINITY : performance.now() + client.idleFor
      worker?.inheritParked(client.service, [new IdleClient({ fd, listener, id, idleUntil, proxied })])
      return
    }
    const quietUntil = quietUntilOf(client)
    const connection = new InheritedClient(fd, {
      // Behind earlier inherited connections, and before all accepted here.
      order: this.#inherited++,
      listener,
      // Without an address if the client has already disconnected; the end is seen when the socket is read.
      peer: systemOs.peer(fd.fd),
      id,
      acceptedAt: arrivalOf(client),
      ...(client.handedBack !== undefined && { handedBack: client.handedBack }),
      ...(quietUntil !== undefined && { quietUntil }),
      ...(peeked !== undefined && { peeked }),
      ...(unjudged !== undefined && { unjudged }),
      proxied,
      routed,
      ...(client.resume !== undefined &&
        worker !== undefined && {
          resume: worker.inheritState(service, blockOf(client.resume), client.resume.giver),
        }),
    })
    worker?.inherit(service, [connection])
  }

  #listenerNamed(name: string, protocol: Listening['protocol']): Listening {
    const key = `${name}/${protocol}`
    const known = this.#listeners.get(key) ?? { name, protocol }
    this.#listeners.set(key, known)
    return known
  }
}
