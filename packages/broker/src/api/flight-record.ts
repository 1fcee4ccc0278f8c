import { type FallbackReason, type Outcome, OUTCOMES, type RejectionReason } from '../metrics/labels.ts'

/** Steps of a connection in the broker. The last one can be its outcome, too. */
export const STEPS = [
  /** Accepted from the kernel's queue. */
  'accepted',
  /** A backend was chosen for the descriptor. */
  'chosen',
  /** The descriptor is on the backend's lane, and the OFFER on control. */
  'offered',
  /** A relay was offered to a backend, or an upstream is being dialled. */
  'relay_offered',
  /** The backend has verified the token. */
  'acknowledged',
  /** Proven untouched, so it may go elsewhere. */
  'returned',
  /** Waits for a backend, unread. */
  'held',
  /** The broker's descriptor is closed. */
  'released',
  /** A relay has started. */
  'relayed',
  'rejected',
  'client_gone',
  'relinquished',
  /** Sent from a leaving worker to its successor: the last step there, an early one here. */
  'moved',
  /** The relay has ended. */
  'closed',
  /** A backend has handed the connection back, alive. */
  'handed_back',
  /** Idle, and the broker's: waits, unread, for its next request. */
  'parked',
  /** The next request of a parked connection is there: it arrives like a new one. */
  'awake',
  /** The client left while the connection was parked, or the time for which it may be idle was over. */
  'idle_closed',
  /** Another backend has adopted it with its state, and goes on with it. */
  'resumed',
] as const
export type Step = (typeof STEPS)[number]

/** Why a step was taken. */
export type StepReason = FallbackReason | RejectionReason

/** How a connection can end for one worker: it may also have moved to the successor. */
export const RECORDED_OUTCOMES = [...OUTCOMES, 'moved'] as const
export type RecordedOutcome = Outcome | 'moved'

/** The history of one connection, as the admin API shows it. */
export interface FlightRecord {
  /** ULID, the same in the backend (`backend.connection(socket).id`). */
  readonly id: string
  readonly service: string
  readonly listener: string
  /** `127.0.0.1:5000`, or `unix`; `unknown` while a connection from another worker is parked. */
  readonly peer: string
  /** ISO 8601. */
  readonly acceptedAt: string
  /** Null while the connection is in flight, held or parked. */
  readonly outcome: RecordedOutcome | null
  readonly reason: StepReason | null
  /** The backend that owns the connection, or was offered it last; null if there is none, while it is parked, or for an upstream. */
  readonly backend: { readonly id: string; readonly slot: string } | null
  /**
   * Milliseconds from its last arrival (accept, or its next request after it was parked) to the outcome. For a connection that is
   * parked, or ended so, from the arrival before to the ACK.
   */
  readonly durationMs: number | null
  readonly steps: readonly RecordedStep[]
}

export interface RecordedStep {
  /** Milliseconds since accept. */
  readonly at: number
  readonly step: Step
  /** A slot (`web-1`), or the address of an upstream. */
  readonly backend?: string
  readonly reason?: StepReason
  /** Steps before this one that are not kept. */
  readonly omitted?: number
}

/** Selects records. */
export interface RecordQuery {
  readonly service?: string | undefined
  readonly outcome?: RecordedOutcome | undefined
  /** Slowest first, instead of newest first. */
  readonly slowest: boolean
  readonly limit: number
}

/** Read access to the flight recorder, for the admin API. */
export interface FlightRecords {
  /** Maximum records; the newest replaces the oldest. */
  readonly capacity: number
  /** Current number of records. */
  readonly recorded: number
  list(query: RecordQuery): FlightRecord[]
  /** By the 16 bytes of its ULID. */
  find(id: Uint8Array): FlightRecord | undefined
}
