import { AsyncLocalStorage } from 'node:async_hooks'
import type { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { close as closeFd, dup } from '@baton/native-sendmsg'
import type { Attachment, IdleConnection } from './attach/index.ts'
import { ConnectionInfo } from './connection-info.ts'
import { descriptorOf, openSocket } from './open-socket.ts'
import type { ResolvedOptions } from './options.ts'
import { NO_KEEP_ALIVE_LIMIT, type Offer } from './protocol/index.ts'
import { copyAddresses, presentAsClient } from './relay/relayed-socket.ts'
import type { Delivery, Departure } from './broker-session.ts'

/** A socket with its metadata, under the symbol of its backend. */
interface Described {
  [key: symbol]: ConnectionInfo | undefined
}

/** Receives `adopt` during each adoption. */
type AdoptionEvents = Pick<EventEmitter<{ adopt: [socket: Socket, connection: ConnectionInfo] }>, 'emit'>

/**
 * Turns a descriptor or a relay into a socket, gives it to the server as if the server had accepted it, and keeps the metadata of
 * adopted sockets.
 */
export class Adoption {
  readonly #options: Pick<ResolvedOptions, 'service' | 'logger'>
  readonly #events: AdoptionEvents
  /** Key of the metadata on an adopted socket. Not a WeakMap: its entries cost the garbage collector more than the sockets do. */
  readonly #metadata = Symbol('baton connection')
  /** On TLS servers: the connection of the current adoption, in the asynchronous context of its handshake. */
  readonly #handshake = new AsyncLocalStorage<{ socket: Socket; connection: ConnectionInfo }>()

  constructor(options: Pick<ResolvedOptions, 'service' | 'logger'>, events: AdoptionEvents) {
    this.#options = options
    this.#events = events
  }

  /** Takes ownership of `delivery`; its ACK is in the kernel (I2). */
  adopt(attachment: Attachment, offer: Offer, delivery: Delivery): void {
    const connection = new ConnectionInfo(offer, this.#options.service)
    const { allowHalfOpen } = attachment
    const socket =
      typeof delivery === 'number'
        ? this.#open(delivery, allowHalfOpen, connection)
        : presentAsClient(delivery, allowHalfOpen)
    if (socket === undefined) return
    ;(socket as Described & Socket)[this.#metadata] = connection
    if (attachment.kind === 'tls' || attachment.kind === 'https') {
      this.#handshake.run({ socket, connection }, () => attachment.adopt(socket))
    } else attachment.adopt(socket)
    // A relay was paused after its header; a descriptor's socket reads from the start.
    if (connection.via === 'relay') socket.resume()
    this.#events.emit('adopt', socket, connection)
  }

  /** Whether this connection came as a descriptor, so that it can leave as one. */
  canLeave(socket: Socket): boolean {
    const connection = this.connection(socket)
    return connection?.via === 'handoff' && !connection.stays && !socket.destroyed
  }

  /**
   * An idle connection that may leave: with a duplicate of its descriptor, which the caller owns.
   *
   * @throws {NativeError} EMFILE
   */
  departure({ socket, left }: IdleConnection): Departure | undefined {
    const connection = this.connection(socket)
    const fd = descriptorOf(socket)
    if (connection === undefined || fd === undefined) return undefined
    const { idBytes, listener, meta } = connection
    const keepAlive = Number.isFinite(left) ? Math.max(1, Math.round(left)) : NO_KEEP_ALIVE_LIMIT
    return {
      fd: dup(fd),
      described: { connection: idBytes, listener, meta },
      keepAlive: Math.min(keepAlive, NO_KEEP_ALIVE_LIMIT),
    }
  }

  /**
   * This process touches the socket no more: its descriptor is closed without a word to the client (close(2), no
   * shutdown(2)), and the connection lives on with the duplicate. The app's `close` listeners find `movedOn`.
   */
  letGo(socket: Socket): void {
    const connection = this.connection(socket)
    if (connection !== undefined) connection.movedOn = true
    socket.destroy()
  }

  /** One that was handed back and is this process's again. Owns its descriptor. `stays`: it is not handed back again. */
  adoptAgain(attachment: Attachment, { fd, described, keepAlive }: Departure, stays: boolean): void {
    const connection = new ConnectionInfo({ ...described, kind: 'descriptor' }, this.#options.service)
    connection.stays = stays
    const socket = this.#open(fd.release(), attachment.allowHalfOpen, connection)
    if (socket === undefined) return
    ;(socket as Described & Socket)[this.#metadata] = connection
    attachment.adoptIdle(socket, keepAlive === NO_KEEP_ALIVE_LIMIT ? Number.POSITIVE_INFINITY : keepAlive)
    this.#events.emit('adopt', socket, connection)
  }

  /** The metadata of an adopted socket; undefined for any other. */
  connection(socket: Socket): ConnectionInfo | undefined {
    try {
      // Untyped programs pass null: `response.socket`, once the response has ended.
      return (socket as (Described & Socket) | null)?.[this.#metadata]
    } catch {
      // The `socket` of an HTTP/2 session is a proxy, and throws at every access once the session has ended.
      return undefined
    }
  }

  /**
   * Gives a TLSSocket, which is what apps see, the metadata of the socket below it. No public API leads from one to the other,
   * but the handshake runs in the asynchronous context of the adoption. Over a relay it gets the client's addresses too: by
   * itself it would report the Unix socket as its peer.
   */
  linkSecure(secure: TLSSocket): void {
    const handshake = this.#handshake.getStore()
    if (handshake === undefined) return
    ;(secure as Described & TLSSocket)[this.#metadata] = handshake.connection
    if (handshake.connection.via === 'relay') copyAddresses(handshake.socket, secure)
  }

  /** Owns `fd` until the socket does. */
  #open(fd: number, allowHalfOpen: boolean, connection: ConnectionInfo): Socket | undefined {
    try {
      return openSocket(fd, allowHalfOpen)
    } catch (error) {
      closeFd(fd)
      this.#options.logger.error(
        { connection: connection.id, error: error as Error },
        'cannot adopt a connection',
      )
      return undefined
    }
  }
}
