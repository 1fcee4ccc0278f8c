import type { Socket } from 'node:net'
import type { OwnedFd, SocketAddress } from '@baton/native-sendmsg'
import { createConnectionId } from './connection-id.ts'
import type { Failure } from './failure.ts'
import type { ListenerConfig } from '../../config/config.ts'

/** Order of the first client that comes from a predecessor: each of those came before everybody who is accepted here. */
export const FIRST_INHERITED = -1_000_000_000

/**
 * One client, from accept to its outcome. While it exists the broker owns `fd`: a backend that is offered the
 * connection gets a duplicate, and the broker closes its own at ACK.
 */
export interface ClientConnection {
  /** Arrival order. Counts up from 1 with each accept of this process, and from `FIRST_INHERITED` with what is inherited. */
  readonly order: number
  readonly fd: OwnedFd
  /** Where it came in. */
  readonly listener: Pick<ListenerConfig, 'name' | 'protocol'>
  readonly peer: SocketAddress
  /** The 16 bytes of the connection's ULID. */
  readonly id: Buffer
  /** performance.now() at accept, milliseconds. */
  readonly acceptedAt: number
  /** Backends (slots) that this connection was offered to since it last waited; most never need the set. */
  tried: Set<string> | undefined
  /** performance.now() of the first attempt that failed for want of room. */
  pressedSince: number | undefined
  /** A backend has been offered it, here or at a predecessor, and may still hold a duplicate. */
  shared?: boolean
  /** Set when there is no client behind it but a health check, which hears what becomes of it instead of the service. */
  readonly probe?: ProbeHost
}

/** What becomes of a connection that a health check has made. One of these, once; it is never offered again. */
export interface ProbeHost {
  handedOff(): void
  relayed(upstream: Socket): void
  returned(failure: Failure): void
  relinquished(): void
}

/**
 * A client as its listener accepts it. Ten thousand of them may wait, so what only an offer needs is made when it is first
 * asked for.
 */
export class AcceptedClient implements ClientConnection {
  readonly order: number
  readonly fd: OwnedFd
  readonly listener: ClientConnection['listener']
  readonly peer: SocketAddress
  readonly acceptedAt = performance.now()
  tried: Set<string> | undefined
  pressedSince: number | undefined
  shared = false
  #id: Buffer | undefined

  /** Owns `fd`. */
  constructor(order: number, fd: OwnedFd, peer: SocketAddress, listener: ClientConnection['listener']) {
    this.order = order
    this.fd = fd
    this.peer = peer
    this.listener = listener
  }

  /** Its time is that of accept, by the wall clock as it is now. */
  get id(): Buffer {
    return (this.#id ??= createConnectionId(Date.now() - Math.round(performance.now() - this.acceptedAt)))
  }
}

/** A client that waited at a predecessor, with the id and the time that it was given there. */
export class InheritedClient implements ClientConnection {
  readonly order: number
  readonly fd: OwnedFd
  readonly listener: ClientConnection['listener']
  readonly peer: SocketAddress
  readonly id: Buffer
  readonly acceptedAt: number
  tried: Set<string> | undefined
  pressedSince: number | undefined
  shared = true

  /** Owns `fd`. */
  constructor(
    fd: OwnedFd,
    { order, listener, peer, id, acceptedAt }: Omit<ClientConnection, 'fd' | 'tried' | 'pressedSince'>,
  ) {
    this.order = order
    this.fd = fd
    this.listener = listener
    this.peer = peer
    this.id = id
    this.acceptedAt = acceptedAt
  }
}
