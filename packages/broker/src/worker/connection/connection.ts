import type { Socket } from 'node:net'
import type { OwnedFd, SocketAddress } from '@baton/native-sendmsg'
import { createConnectionId } from './connection-id.ts'
import type { Failure } from './failure.ts'
import type { ResumeState } from './resume-state.ts'
import type { Proxied } from './proxied.ts'
import type { Routed } from './routed.ts'
import type { ListenerConfig } from '../../config/config.ts'
import type { HandBackKind } from '../../metrics/labels.ts'

/** Order of the first inherited connection: inherited ones sort before all that are accepted here. */
export const FIRST_INHERITED = -1_000_000_000

/**
 * One client, from accept to its outcome. The broker owns `fd`: a backend that is offered the connection gets a duplicate, and
 * the broker closes its own at the ACK.
 */
export interface ClientConnection {
  /** Arrival order: counts up from 1 for connections accepted by this process, from `FIRST_INHERITED` for inherited ones. */
  readonly order: number
  readonly fd: OwnedFd
  /** The listener that accepted it. */
  readonly listener: Pick<ListenerConfig, 'name' | 'protocol'>
  readonly peer: SocketAddress
  /** The 16 bytes of the connection's ULID. */
  readonly id: Buffer
  /** It waits, and so do many others: keeps what it knows in less memory from now on. */
  compact?(): void
  /** performance.now() at accept, milliseconds. */
  readonly acceptedAt: number
  /** Candidates tried since it last started over (`markTried`). Most connections never need the set. */
  tried: Set<string> | undefined
  /** performance.now() of the first attempt that failed under pressure (`isPressure`). */
  pressedSince: number | undefined
  /** Was offered to a backend, here or at a predecessor: the backend may still hold a duplicate. */
  shared?: boolean
  /** Set for a health-check connection. Outcomes are reported here, not to the service. */
  readonly probe?: ProbeHost
  /** A backend has handed it back: what it was then. */
  readonly handedBack?: HandBackKind
  /** Number of its flight record. Set and read by the recorder only. */
  record?: number | undefined
  /** Not `idleUntil`, which only parked ones have. It was handed back idle, and its next request has not come: performance.now() at which it is to be closed; Infinity for never. */
  readonly quietUntil?: number
  /** It was handed back with its state: only a backend that resumes such states can go on, and the broker never writes to it. */
  readonly resume?: ResumeState
  /** From a PROXY header. `peer` stays the real peer, the load balancer. */
  proxied?: Proxied | undefined
  /** Set where its first bytes were looked at. */
  routed?: Routed | undefined
  /** Of a connection that moves to another worker before its service is chosen: what it has to show next. */
  peeked?: 'proxy' | 'content' | undefined
  /** Of such a connection: its listener's limits do not admit it yet, because open connections were being counted. */
  unjudged?: boolean | undefined
}

/** The client's address: behind a load balancer, what its PROXY header says. */
export function clientAddress({ peer, proxied }: Pick<ClientConnection, 'peer' | 'proxied'>): SocketAddress {
  return proxied?.source ?? peer
}

let arrivals = 0

/** The `order` of a client that arrives now. */
export function nextArrival(): number {
  return ++arrivals
}

/** Outcome of a health-check connection: one of these is called, once. The connection is never offered again. */
export interface ProbeHost {
  handedOff(): void
  relayed(upstream: Socket): void
  returned(failure: Failure): void
  relinquished(): void
}

/**
 * A client's id: the 16 bytes of its ULID. Once it waits, a string of 16 characters, which takes 32 bytes: a Buffer takes 104, and keeps the memory
 * that it was cut from, 64 KiB at a time on Node 24.
 */
abstract class WithId {
  abstract readonly acceptedAt: number
  #id: Buffer | string | undefined

  /** @param id default: made on first use; its timestamp is the time of accept, by the current wall clock */
  constructor(id?: Buffer) {
    this.#id = id
  }

  get id(): Buffer {
    const id = (this.#id ??= createConnectionId(Date.now() - Math.round(performance.now() - this.acceptedAt)))
    return typeof id === 'string' ? Buffer.from(id, 'latin1') : id
  }

  compact(): void {
    this.#id = this.id.toString('latin1')
  }
}

/** A client accepted by a listener here. Its id, which only an offer or a copy needs, is made on first use. */
export class AcceptedClient extends WithId implements ClientConnection {
  readonly order: number
  readonly fd: OwnedFd
  readonly listener: ClientConnection['listener']
  readonly peer: SocketAddress
  readonly acceptedAt = performance.now()
  tried: Set<string> | undefined
  pressedSince: number | undefined
  shared = false
  record: number | undefined
  proxied?: Proxied | undefined
  routed?: Routed | undefined
  peeked?: 'proxy' | 'content' | undefined
  unjudged?: boolean | undefined

  /** Owns `fd`. */
  constructor(order: number, fd: OwnedFd, peer: SocketAddress, listener: ClientConnection['listener']) {
    super()
    this.order = order
    this.fd = fd
    this.peer = peer
    this.listener = listener
  }
}

/** An idle connection that a backend has handed back, until its next request comes: then it arrives like a new one. */
export interface ParkedClient {
  readonly fd: OwnedFd
  readonly listener: ClientConnection['listener']
  /** The 16 bytes of the connection's ULID. */
  readonly id: Buffer
  /** performance.now() at which it is closed, milliseconds; Infinity for never. */
  readonly idleUntil: number
  readonly proxied?: Proxied | undefined
  /** As of a `ClientConnection`. */
  record?: number | undefined
}

/** A `ParkedClient`, and small, since there may be many thousands. */
export class IdleClient implements ParkedClient {
  readonly fd: OwnedFd
  readonly listener: ClientConnection['listener']
  /** A string of 16 characters takes a third of a Buffer. */
  readonly #id: string
  /** In whole milliseconds, because V8 keeps small integers in the object itself; -1 for never. */
  readonly #idleUntil: number
  readonly proxied: Proxied | undefined
  record: number | undefined = undefined

  /** Owns `fd`. */
  constructor({ fd, listener, id, idleUntil, proxied }: Omit<ParkedClient, 'record'>) {
    this.fd = fd
    this.listener = listener
    this.#id = id.toString('latin1')
    this.#idleUntil = Number.isFinite(idleUntil) ? Math.max(0, Math.ceil(idleUntil)) : -1
    this.proxied = proxied
  }

  get id(): Buffer {
    return Buffer.from(this.#id, 'latin1')
  }

  get idleUntil(): number {
    return this.#idleUntil === -1 ? Number.POSITIVE_INFINITY : this.#idleUntil
  }
}

/** A client held by a predecessor, or handed back by a backend, with the id that it got before. */
export class InheritedClient extends WithId implements ClientConnection {
  readonly order: number
  readonly fd: OwnedFd
  readonly listener: ClientConnection['listener']
  readonly peer: SocketAddress
  readonly acceptedAt: number
  tried: Set<string> | undefined
  pressedSince: number | undefined
  shared = true
  record: number | undefined
  readonly handedBack?: HandBackKind
  readonly quietUntil?: number
  readonly resume?: ResumeState
  proxied?: Proxied | undefined
  routed?: Routed | undefined
  peeked?: 'proxy' | 'content' | undefined
  unjudged?: boolean | undefined

  /** Owns `fd`. */
  constructor(
    fd: OwnedFd,
    {
      order,
      listener,
      peer,
      id,
      acceptedAt,
      handedBack,
      quietUntil,
      record,
      resume,
      proxied,
      routed,
      peeked,
      unjudged,
    }: Omit<ClientConnection, 'fd' | 'tried' | 'pressedSince' | 'compact'>,
  ) {
    super(id)
    this.order = order
    this.fd = fd
    this.listener = listener
    this.peer = peer
    this.acceptedAt = acceptedAt
    this.record = record
    if (handedBack !== undefined) this.handedBack = handedBack
    if (quietUntil !== undefined) this.quietUntil = quietUntil
    if (resume !== undefined) this.resume = resume
    if (proxied !== undefined) this.proxied = proxied
    if (routed !== undefined) this.routed = routed
    if (peeked !== undefined) this.peeked = peeked
    if (unjudged !== undefined) this.unjudged = unjudged
  }
}
