import type { Outcome } from '../metrics/index.ts'
import { OUTCOMES } from '../metrics/index.ts'

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
