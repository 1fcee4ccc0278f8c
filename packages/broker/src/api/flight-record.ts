import { type FallbackReason, type Outcome, OUTCOMES, type RejectionReason } from '../metrics/labels.ts'

/** What can happen to a client in the broker. Where a step is the last one, it is the outcome, too. */
export const STEPS = [
  /** From the kernel's queue. */
  'accepted',
  /** A backend, for its descriptor. */
  'chosen',
  /** The descriptor lies on the backend's lane, and the OFFER on control. */
  'offered',
  /** A backend was asked to take its bytes, or an upstream is dialled. */
  'relay_offered',
  /** The backend has verified the token. */
  'acknowledged',
  /** Proven untouched, it may go elsewhere. */
  'returned',
  /** It waits, unread. */
  'held',
  /** The broker's duplicate is closed. */
  'released',
  /** Its bytes are carried. */
  'relayed',
  'rejected',
  'client_gone',
  'relinquished',
  /** From a worker that leaves to the next: the last step there, an early one here. */
  'moved',
  /** A relay is over. */
  'closed',
] as const
export type Step = (typeof STEPS)[number]

/** Why a step was taken. */
export type StepReason = FallbackReason | RejectionReason

/** How a connection can end for one worker: it may also have gone to the next one. */
export const RECORDED_OUTCOMES = [...OUTCOMES, 'moved'] as const
export type RecordedOutcome = Outcome | 'moved'

/** The way of one connection, as the admin API shows it. */
export interface FlightRecord {
  /** ULID, the same in the backend (`backend.connection(socket).id`). */
  readonly id: string
  readonly service: string
  readonly listener: string
  /** `127.0.0.1:5000`, or `unix`. */
  readonly peer: string
  /** ISO 8601. */
  readonly acceptedAt: string
  /** Null while it is on its way or waits. */
  readonly outcome: RecordedOutcome | null
  readonly reason: StepReason | null
  /** Who has it, or was asked last; null when that is nobody, or an upstream. */
  readonly backend: { readonly id: string; readonly slot: string } | null
  /** Milliseconds from accept to the outcome. */
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
}

/** Which records are wanted. */
export interface RecordQuery {
  readonly service?: string | undefined
  readonly outcome?: RecordedOutcome | undefined
  /** Those that took longest first, rather than the newest. */
  readonly slowest: boolean
  readonly limit: number
}

/** What the admin API reads. */
export interface FlightRecords {
  /** How many it can hold; the oldest makes room for the newest. */
  readonly capacity: number
  /** How many it holds. */
  readonly recorded: number
  list(query: RecordQuery): FlightRecord[]
  /** By the 16 bytes of its ULID. */
  find(id: Uint8Array): FlightRecord | undefined
}
