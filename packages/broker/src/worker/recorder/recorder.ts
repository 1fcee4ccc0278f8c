import type { Step, StepReason } from '../../api/flight-record.ts'
import type { ClientConnection } from '../connection/connection.ts'

/** Who is to get a connection: a backend, or (without a ULID) an upstream by its address. */
export interface Recipient {
  readonly ulid: string | null
  readonly slot: string
}

/** What a service tells of its clients. It happens for each of them, so it must cost next to nothing. */
export interface Recorder {
  accepted(connection: ClientConnection, service: string): void
  /**
   * The same has happened to all of `connections`.
   *
   * @param at performance.now(), milliseconds
   * @param recipient with `chosen` and `relay_offered`: those that follow are of the same one
   */
  note(
    step: Step,
    connections: readonly ClientConnection[],
    at: number,
    recipient?: Recipient,
    reason?: StepReason,
  ): void
}

/** Keeps nothing. */
export const noRecorder: Recorder = { accepted: () => {}, note: () => {} }
