import type { Step, StepReason } from '../../api/flight-record.ts'
import type { ClientConnection } from '../connection/connection.ts'

/** Target of an offer: a backend, or an upstream (no ULID; `slot` is its address). */
export interface Recipient {
  readonly ulid: string | null
  readonly slot: string
}

/** Records what happens to connections. Called for every step of every connection, so it must cost next to nothing. */
export interface Recorder {
  accepted(connection: ClientConnection, service: string): void
  /**
   * Records the same step for all `connections`.
   *
   * @param at performance.now(), milliseconds
   * @param recipient with `chosen` and `relay_offered`; the steps that follow have the same one
   */
  note(
    step: Step,
    connections: readonly ClientConnection[],
    at: number,
    recipient?: Recipient,
    reason?: StepReason,
  ): void
}

/** Records nothing. */
export const noRecorder: Recorder = { accepted: () => {}, note: () => {} }
