import type {
  GivenBackReason,
  HandBack,
  HandBackKind,
  NackReason,
  SettledOutcome,
} from '@baton/backend-sdk/protocol'
import type { Socket } from 'node:net'
import type { OwnedFd } from '@baton/native-sendmsg'
import type { ListenerConfig } from '../../config/config.ts'
import type { ClientConnection, ParkedClient } from '../connection/connection.ts'
import type { Failure } from '../connection/failure.ts'
import type { NotTakenReason } from '../../metrics/labels.ts'
import type { HandBackCounts } from './hand-back-tally.ts'

/** Identity of a backend: from HELLO, from the kernel (pid, uid), and assigned by the registry. */
export interface BackendIdentity {
  readonly ulid: string
  /** A short, reused name such as `web-1`, which labels its metrics. */
  readonly slot: string
  readonly service: string
  readonly pid: number
  readonly uid: number
  /** When its process started, as in `PeerProcess`. */
  readonly started?: string | null
  /** ULID of the managed process that it is, or descends from; null or missing if Baton did not start it. */
  readonly owner?: string | null
  readonly version: string | null
  readonly weight: number
  readonly registeredAt: Date
  /** Path of the Unix socket on which it takes relays; null if it takes none. */
  readonly reconnect: string | null
}

/** Outcomes of offered connections. Each connection is reported exactly once. */
export interface LinkHost {
  /** ACK: the backend owns them. `version`: the backend's. */
  handedOff(connections: readonly ClientConnection[], version: string | null): void
  /** ACK of a relay. `upstream` is connected to the backend; the host now owns it. */
  relayed(connection: ClientConnection, upstream: Socket, version: string | null): void
  /** Proven untouched, so they may go elsewhere. In any order. `by`: id of the backend or upstream that returns them. */
  returned(connections: readonly ClientConnection[], failure: Failure, by: string): void
  /** Taken and not answered, without proof that it is untouched: close it, and never offer it again. */
  relinquished(connection: ClientConnection): void
  /**
   * Whether this may be a connection of one of the service's listeners, by the local address of the socket that was sent; the listener
   * that it came in at. Nothing is taken by asking.
   */
  listenerOf(fd: number, name: string): HandBackOrigin
  /**
   * Why this connection is not taken back now; undefined when it is.
   *
   * @param giver ULID of the backend that hands it back
   * @param before bytes of state that come with it and are not kept yet
   */
  handBackRefusal(entry: HandBack, giver: string, before: number): GivenBackReason | undefined
  /** Reserves what a connection with state needs. The descriptor is the caller's until `taken`. */
  toResume(hand: ResumableHandBack): ClientConnection
  /** TAKEN is in the kernel: they are the host's. */
  parked(connections: readonly ParkedClient[], giver: BackendIdentity): void
  /** The same for connections with state. */
  taken(connections: readonly ClientConnection[]): void
  /** `times` connections were given back, or refused because the backend broke the protocol. */
  notTaken(kind: HandBackKind, reason: NotTakenReason, times: number, giver: BackendIdentity): void
  /** A backend that handed connections back in its drain has drained, or has gone. */
  drainOver(giver: BackendIdentity, counts: HandBackCounts): void
  tokenRejected(reason: NackReason): void
  /** An answer to an offer that was settled already. */
  lateAnswer(): void
  /** The backend has said how many connections it has. */
  reported(): void
  /** The backend may have room again, or may be eligible again. */
  available(): void
  /** The backend in this slot has said that it resumes other states than before: what it has refused may be offered to it again. */
  resumable(slot: string): void
  /** The link has ended. Connections that it still returns follow this call. */
  ended(link: EndedLink): void
}

/** A connection with state, as a backend hands it back. */
export interface ResumableHandBack {
  readonly fd: OwnedFd
  readonly entry: HandBack
  readonly listener: ClientConnection['listener']
  readonly giver: string
  /** Called once: what became of it. */
  readonly settled: (outcome: SettledOutcome) => void
}

/** Where a socket that is handed back comes from. `foreign`: not from here; `gone`: from a listener that is there no more. */
export type HandBackOrigin = Pick<ListenerConfig, 'name' | 'protocol'> | 'foreign' | 'gone'

/** A link that has ended. `id`: its slot. */
export interface EndedLink {
  readonly id: string
  readonly identity: BackendIdentity
}
