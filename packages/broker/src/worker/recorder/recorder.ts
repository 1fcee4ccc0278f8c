import type { ClientConnection } from '../connection/connection.ts'
import type { FallbackReason, RejectionReason } from '../../metrics/index.ts'

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
