import type { Step, StepReason } from '../../api/flight-record.ts'
import type { ClientConnection, ParkedClient } from '../connection/connection.ts'

/** Target of an offer: a backend, or an upstream (no ULID; `slot` is its address). */
export interface Recipient {
  readonly ulid: string | null
  readonly slot: string
}

/** Records what happens to connections. Called for every step of every connection, so it must cost next to nothing. */
export interface Recorder {
  /** Begins a record, which `connection` then refers to. */
  accepted(connection: ClientConnection, service: string): void
  /**
   * Idle connections are here again: handed back by a backend (`by`), or moved here from another worker. Their records go on; where
   * there is none, one begins while the recorder has room.
   *
   * @param at performance.now(), milliseconds
   */
  returned(
    step: 'handed_back' | 'moved',
    clients: readonly ParkedClient[],
    service: string,
    at: number,
    by?: Recipient,
  ): void
  /**
   * A connection that was handed back arrives like a new one: its record goes on, or one begins; with its state (`handed_back`), only while
   * the recorder has room.
   *
   * @param at performance.now(), milliseconds
   */
  again(step: 'awake' | 'handed_back', connection: ClientConnection, service: string, at: number): void
  /**
   * Records the same step for all `connections`.
   *
   * @param at performance.now(), milliseconds
   * @param recipient with `chosen` and `relay_offered`; the steps that follow have the same one
   */
  note(
    step: Step,
    connections: readonly Recorded[],
    at: number,
    recipient?: Recipient,
    reason?: StepReason,
  ): void
}

/** A connection, or a parked one, with its record; see `ClientConnection`. */
export interface Recorded {
  readonly record?: number | undefined
}

/** Records nothing. */
export const noRecorder: Recorder = {
  accepted: () => {},
  returned: () => {},
  again: () => {},
  note: () => {},
}
