import { AsyncLocalStorage } from 'node:async_hooks'
import type { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { close as closeFd, dup } from '@baton/native-sendmsg'
import type { Attachment } from './attach/index.ts'
import { ConnectionInfo, type Described as DescribedOffer } from './connection-info.ts'
import { channels, publishAdopted } from './diagnostics.ts'
import { readState } from './migrate/app-state.ts'
import { MigrationError } from './migrate/errors.ts'
import type { Packed } from './migrate/mover.ts'
import { Replay } from './migrate/replay.ts'
import { takeUnread } from './migrate/socket-state.ts'
import { Upgrade } from './migrate/upgrade.ts'
import { descriptorOf, openSocket } from './open-socket.ts'
import type { ResolvedOptions } from './options.ts'
import { NO_KEEP_ALIVE_LIMIT, type Offer, type ResumedBlock } from './protocol/index.ts'
import { copyAddresses, isProxied, presentAsClient, presentProxied } from './relay/relayed-socket.ts'
import { throwLater, uninterrupted } from './throw-later.ts'
import type { Delivery, Departure } from './broker-session.ts'

/**
 * Key of the metadata on an adopted socket. One for all backends of the process: V8 would take the sockets of each for objects of another kind. Not a
 * WeakMap: its entries cost the garbage collector more than the sockets do.
 */
const metadata = Symbol('baton connection')

/** A socket with its metadata. */
interface Described {
  [metadata]?: { readonly connection: ConnectionInfo; readonly owner: Adoption }
}

/** Takes up the connections of an attached `net.Server`, each after the server has received it. */
interface RawAdoptions {
  adopted(socket: Socket): void
}

/** Receives `adopt` during each adoption. */
type AdoptionEvents = Pick<EventEmitter<{ adopt: [socket: Socket, connection: ConnectionInfo] }>, 'emit'>

const EMPTY = Buffer.alloc(0)

/**
 * Turns a descriptor or a relay into a socket, gives it to the server as if the server had accepted it, and keeps the metadata of
 * adopted sockets.
 */
export class Adoption {
  readonly #options: Pick<ResolvedOptions, 'service' | 'logger'>
  readonly #events: AdoptionEvents
  /** On TLS servers: the connection of the current adoption, in the asynchronous context of its handshake. */
  readonly #handshake = new AsyncLocalStorage<{ socket: Socket; connection: ConnectionInfo }>()

  /** Moves the connections of an attached `net.Server`. */
  #raw: RawAdoptions | undefined

  constructor(options: Pick<ResolvedOptions, 'service' | 'logger'>, events: AdoptionEvents) {
    this.#options = options
    this.#events = events
  }

  set raw(mover: RawAdoptions) {
    this.#raw = mover
  }

  /** Takes ownership of `delivery`; its ACK is in the kernel (I2). */
  adopt(attachment: Attachment, offer: Offer, delivery: Delivery): void {
    const described = withoutIdleFor(offer)
    const { idleFor } = described
    const connection = new ConnectionInfo(described, this.#options.service)
    const { allowHalfOpen } = attachment
    const socket =
      typeof delivery === 'number'
        ? this.#open(delivery, allowHalfOpen, connection)
        : presentAsClient(delivery, allowHalfOpen)
    if (socket === undefined) return
    this.#describe(socket, connection)
    if (offer.resumed !== undefined) return this.#resume(attachment, socket, connection, offer.resumed)
    if (idleFor !== undefined && attachment.kind === 'http' && connection.via === 'handoff')
      return this.#adoptIdle(attachment, socket, connection, idleFor)
    if (attachment.kind === 'tls' || attachment.kind === 'https') {
      this.#handshake.run({ socket, connection }, () => attachment.adopt(socket))
    } else attachment.adopt(socket)
    this.#raw?.adopted(socket)
    // A relay was paused after its header; a descriptor's socket reads from the start.
    if (connection.via === 'relay') goOn(socket)
    publishAdopted(connection, socket)
    this.#events.emit('adopt', socket, connection)
  }

  /** Whether this connection came as a descriptor, and has it still, so that it can leave as one. */
  canLeave(socket: Socket): boolean {
    const connection = this.connection(socket)
    return connection?.via === 'handoff' && !connection.stays && descriptorOf(socket) !== undefined
  }

  /**
   * A connection that may leave: with a duplicate of its descriptor, which the caller owns.
   *
   * @param resumed what the next process needs, but for the prefix; undefined for an idle one
   * @throws {NativeError} EMFILE
   */
  departure(
    socket: Socket,
    keepAlive: number,
    resumed?: Omit<ResumedBlock, 'prefix'>,
  ): Departure | undefined {
    const connection = this.connection(socket)
    const fd = descriptorOf(socket)
    if (connection === undefined || fd === undefined) return undefined
    const { idBytes, listener, meta, givenBack } = connection
    return {
      fd: dup(fd),
      described: { connection: idBytes, listener, meta },
      keepAlive,
      givenBack,
      ...(resumed && { resumed: { ...resumed, prefix: EMPTY } }),
    }
  }

  /**
   * This process touches the socket no more: its descriptor is closed without a word to the client (close(2), no
   * shutdown(2)), and the connection lives on with the duplicate. The app's `close` listeners find `movedOn`.
   *
   * Throws nothing, whatever code of the app it comes to: the broker must be told in this step that the connection has left.
   *
   * @param packed of one with state
   * @returns what was read and not consumed
   */
  letGo(socket: Socket, packed?: Packed): Buffer {
    const connection = this.connection(socket)
    if (connection !== undefined) {
      connection.movedOn = true
      if (channels.handedBack.hasSubscribers) channels.handedBack.publish({ connection, socket })
    }
    const prefix = packed === undefined ? EMPTY : leave(socket, packed)
    try {
      socket.destroy()
    } catch (error) {
      throwLater(error)
    }
    // The app may have put its own `destroy` over the socket's.
    if (!socket.destroyed) Socket.prototype.destroy.call(socket)
    return prefix
  }

  /** It stayed because no backend took it. */
  mayLeaveAgain(socket: Socket): void {
    const connection = this.connection(socket)
    if (connection !== undefined) connection.stays = false
  }

  /**
   * One that was handed back and is this process's again. Owns its descriptor.
   *
   * @param stays it is not handed back again
   * @returns its metadata; undefined if it could not be adopted
   */
  adoptAgain(attachment: Attachment, departure: Departure, stays: boolean): ConnectionInfo | undefined {
    const { fd, described, keepAlive, resumed } = departure
    const connection = new ConnectionInfo({ ...described, kind: 'descriptor' }, this.#options.service)
    connection.stays = stays
    const socket = this.#open(fd.release(), attachment.allowHalfOpen, connection)
    if (socket === undefined) return undefined
    this.#describe(socket, connection)
    if (resumed === undefined) {
      this.#adoptIdle(attachment, socket, connection, keepAlive)
      return connection
    }
    try {
      this.#resume(attachment, socket, connection, resumed)
    } catch (error) {
      // A listener of the app's: the connection is adopted all the same.
      throwLater(error)
    }
    return connection
  }

  /** A client upgrades an adopted connection to a WebSocket, which may be moved: what that takes is recorded. */
  upgraded(request: IncomingMessage, socket: Socket): void {
    const connection = this.connection(socket)
    if (connection?.via !== 'handoff' || request.headers.upgrade?.toLowerCase() !== 'websocket') return
    connection.upgrade = new Upgrade(request, socket, connection.replay)
  }

  /** @param keepAlive as on the wire: milliseconds, or `NO_KEEP_ALIVE_LIMIT` */
  #adoptIdle(attachment: Attachment, socket: Socket, connection: ConnectionInfo, keepAlive: number): void {
    const left = keepAlive === NO_KEEP_ALIVE_LIMIT ? Number.POSITIVE_INFINITY : keepAlive
    attachment.adoptIdle(socket, left, () => {
      publishAdopted(connection, socket)
      this.#events.emit('adopt', socket, connection)
    })
  }

  /** Another process had this connection, or this one had handed it back. */
  #resume(attachment: Attachment, socket: Socket, connection: ConnectionInfo, block: ResumedBlock): void {
    const failed = (error: MigrationError) =>
      this.#options.logger.error(
        { connection: connection.id, error, ...(error.cause ? { cause: error.cause } : {}) },
        'cannot resume a connection',
      )
    const { kind, schema } = block
    if (kind === 'replay') connection.replay = new Replay(socket, block, failed)
    else if (block.prefix.length > 0) socket.unshift(block.prefix)
    let state: unknown
    try {
      state = readState(block.state)
    } catch (error) {
      if (connection.replay !== undefined) connection.replay.fail(error as MigrationError)
      else {
        failed(error as MigrationError)
        socket.destroy()
      }
    }
    connection.resumed = { schema, state }
    attachment.adopt(socket, true)
    if (kind === 'raw') this.#raw?.adopted(socket)
    publishAdopted(connection, socket)
    this.#events.emit('adopt', socket, connection)
  }

  /** The metadata of an adopted socket; undefined for any other. */
  connection(socket: Socket): ConnectionInfo | undefined {
    try {
      // Untyped programs pass null: `response.socket`, once the response has ended.
      const described = (socket as (Described & Socket) | null)?.[metadata]
      return described?.owner === this ? described.connection : undefined
    } catch {
      // The `socket` of an HTTP/2 session is a proxy, and throws at every access once the session has ended.
      return undefined
    }
  }

  /**
   * Gives a TLSSocket, which is what apps see, the metadata of the socket below it. No public API leads from one to the other,
   * but the handshake runs in the asynchronous context of the adoption. Over a relay, and behind a load balancer, it gets the client's
   * addresses too: by itself it would report the broker's Unix socket, or the load balancer, as its peer.
   */
  linkSecure(secure: TLSSocket): void {
    const handshake = this.#handshake.getStore()
    if (handshake === undefined) return
    this.#describe(secure, handshake.connection)
    if (handshake.connection.via === 'relay' || isProxied(handshake.connection.meta))
      copyAddresses(handshake.socket, secure)
  }

  #describe(socket: Socket & Described, connection: ConnectionInfo): void {
    socket[metadata] = { connection, owner: this }
  }

  /** Owns `fd` until the socket does. */
  #open(fd: number, allowHalfOpen: boolean, connection: ConnectionInfo): Socket | undefined {
    try {
      const socket = openSocket(fd, allowHalfOpen)
      presentProxied(socket, connection.meta)
      return socket
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

/**
 * Takes what was read, whatever listeners of the app throw: the descriptor is on its way, and these bytes belong to it.
 *
 * @returns what was read and not consumed
 */
function leave(socket: Socket, packed: Packed): Buffer {
  return uninterrupted(socket, () => {
    try {
      return packed.leave()
    } catch (error) {
      throwLater(error)
      return takeUnread(socket).unread
    }
  })
}

/** Of a relay that the broker's end had left before it was adopted, `end` has been emitted already, which its server would wait for. */
function goOn(relayed: Socket): void {
  if (relayed.readableEnded) relayed.destroy()
  else relayed.resume()
}

/** Takes `idleFor` from the meta: it holds at this moment, and is not for the app, nor for the broker that gets the connection back. */
function withoutIdleFor(offer: Offer): DescribedOffer & { idleFor?: number } {
  // Nearly always: no copy for those.
  if (typeof offer.meta?.['idleFor'] !== 'number') return offer
  const { connection, kind, listener, meta } = offer
  const { idleFor, ...rest } = meta as { idleFor: number }
  return { connection, kind, listener, meta: Object.keys(rest).length === 0 ? undefined : rest, idleFor }
}
