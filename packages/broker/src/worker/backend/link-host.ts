import type { NackReason } from '@baton/backend-sdk/protocol'
import type { Socket } from 'node:net'
import type { ClientConnection } from '../connection/connection.ts'
import type { Failure } from '../connection/failure.ts'
import type { BackendLink } from './backend-link.ts'

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
  tokenRejected(reason: NackReason): void
  /** An answer that crossed the settlement of its offer. */
  lateAnswer(): void
  /** There may be room again, or a backend again. */
  available(): void
  /** The link is over; everything it held has come back. */
  ended(link: BackendLink): void
}
