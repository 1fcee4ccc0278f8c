/* oxlint-disable no-underscore-dangle -- names of socket.io */
import { type AnySocket, type Client, PACKET, type SioPacket, type SocketParts } from './parts.ts'

/** Work of one namespace of a client that is under way. */
interface Namespaced {
  readonly socket: AnySocket
  readonly parts: SocketParts
  /** Packets that have come and were not given to the app yet: `socket.use()` may be asynchronous. */
  inHand: number
  /** Events of the client that the app has not acknowledged yet. */
  readonly owed: Set<number>
}

/**
 * Work of socket.io and of the app that is under way for one client: a session cannot leave in the middle of it. Owned by the client; it ends
 * with it.
 */
export class Work {
  readonly client: Client
  /** Answers whether a packet to the client is to be dropped. */
  filter: ((packet: SioPacket) => boolean) | undefined
  readonly #onDone: () => void
  /** Namespaces that the client wants to be connected to. */
  readonly #connecting = new Set<string>()
  readonly #namespaces = new Map<string, Namespaced>()

  /** @param onDone called when something is over */
  constructor(client: Client, onDone: () => void) {
    this.client = client
    this.#onDone = onDone
    const connect = client.connect.bind(client)
    client.connect = (namespace, auth) => {
      this.connecting(namespace)
      connect(namespace, auth)
    }
    const packet = client._packet.bind(client)
    client._packet = (sent, options) => {
      this.#sent(sent)
      if (this.filter?.(sent) !== true) packet(sent, options)
    }
    client.decoder.on('decoded', (received) => this.#received(received))
  }

  /** The sockets of this client, connected ones only. */
  get sockets(): AnySocket[] {
    return [...this.#namespaces.values()].map(({ socket }) => socket).filter(({ connected }) => connected)
  }

  /** Something came and is not dealt with, or an answer is due. */
  get isBusy(): boolean {
    const { reconstructor } = this.client.decoder
    if (this.#connecting.size > 0 || (reconstructor !== undefined && reconstructor !== null)) return true
    return [...this.#namespaces.values()].some(
      ({ parts, inHand, owed }) => inHand > 0 || owed.size > 0 || parts.acks.size > 0,
    )
  }

  connecting(namespace: string): void {
    this.#connecting.add(namespace)
  }

  /** It is not connected yet. */
  created(socket: AnySocket, parts: SocketParts): void {
    const { name } = socket.nsp
    const own: Namespaced = { socket, parts, inHand: 0, owed: new Set() }
    this.#namespaces.set(name, own)
    socket.on('disconnect', () => {
      if (this.#namespaces.get(name) === own) this.#namespaces.delete(name)
      this.#onDone()
    })
    const run = parts.run.bind(parts)
    parts.run = (event, next) => {
      let passed = false
      run(event, (error) => {
        next(error)
        // The event is emitted in the next tick. A middleware may call back twice.
        if (!passed) process.nextTick(() => this.#handled(own))
        passed = true
      })
    }
  }

  #sent({ type, nsp, id }: SioPacket): void {
    if (type === PACKET.CONNECT || type === PACKET.CONNECT_ERROR) this.#connecting.delete(nsp)
    else if ((type === PACKET.ACK || type === PACKET.BINARY_ACK) && id !== undefined)
      this.#namespaces.get(nsp)?.owed.delete(id)
    else return
    this.#onDone()
  }

  /** socket.io has seen it before, and gives it to the socket in the next tick. */
  #received({ type, nsp, id }: SioPacket): void {
    const own = this.#namespaces.get(nsp)
    if (own === undefined || type === PACKET.CONNECT) return
    own.inHand += 1
    if (type !== PACKET.EVENT && type !== PACKET.BINARY_EVENT)
      process.nextTick(() => process.nextTick(() => this.#handled(own)))
    else if (typeof id === 'number') own.owed.add(id)
  }

  #handled(own: Namespaced): void {
    own.inHand -= 1
    this.#onDone()
  }
}
