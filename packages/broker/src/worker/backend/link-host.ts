import type { GivenBackReason, HandBackKind, NackReason } from '@baton/backend-sdk/protocol'
import type { Socket } from 'node:net'
import type { ListenerConfig } from '../../config/index.ts'
import type { ClientConnection, ParkedClient } from '../connection/connection.ts'
import type { Failure } from '../connection/failure.ts'

/** Who a backend is: from HELLO, from the kernel (pid, uid), and what the registry gave it. */
export interface BackendIdentity {
  readonly ulid: string
  /** Small and reused, such as `web-1`: labels its metrics. */
  readonly slot: string
  readonly service: string
  readonly pid: number
  readonly uid: number
  /** When its process started, as `PeerProcess` has it. */
  readonly started?: string | null
  /** ULID of the managed process that it is, or comes from; null or missing when Baton did not start it. */
  readonly owner?: string | null
  readonly version: string | null
  readonly weight: number
  readonly registeredAt: Date
  /** The Unix socket on which it takes relays; null when it takes none. */
  readonly reconnect: string | null
}

/** What becomes of the connections that a link was given. Each comes back exactly once. */
export interface LinkHost {
  /** ACK: the backend owns them. */
  handedOff(connections: readonly ClientConnection[]): void
  /** ACK of a relay: `upstream` is connected to the backend, and the host's from now on. */
  relayed(connection: ClientConnection, upstream: Socket): void
  /** Proven untouched: they may go elsewhere. In any order. */
  returned(connections: readonly ClientConnection[], failure: Failure, by: string): void
  /** Nobody can prove anything, and the bound is reached: it is let go. */
  relinquished(connection: ClientConnection): void
  /**
   * Whether this may be a connection of one of the service's listeners, by the local address of the socket that was sent; the listener
   * that it came in at. Nothing is taken by asking.
   */
  listenerOf(fd: number, name: string): HandBackOrigin
  /** Why no idle connection is taken back now; undefined when they are. */
  handBackRefusal(): GivenBackReason | undefined
  /** TAKEN is in the kernel: they are the host's. */
  parked(connections: readonly ParkedClient[]): void
  /** So many were given back, or refused because the backend broke the rules. */
  notTaken(kind: HandBackKind, result: 'given_back' | 'refused', times: number): void
  tokenRejected(reason: NackReason): void
  /** An answer that crossed the settlement of its offer. */
  lateAnswer(): void
  /** There may be room again, or a backend again. */
  available(): void
  /** The link is over; everything it held has come back. */
  ended(link: EndedLink): void
}

/** Where a socket that is handed back comes from. `foreign`: not from here; `gone`: from a listener that is there no more. */
export type HandBackOrigin = Pick<ListenerConfig, 'name' | 'protocol'> | 'foreign' | 'gone'

/** A link by its slot; it holds nothing any more. */
export interface EndedLink {
  readonly id: string
  readonly identity: BackendIdentity
}
