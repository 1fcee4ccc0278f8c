import { channel } from 'node:diagnostics_channel'
import { ulidFromBytes } from '@baton/backend-sdk/protocol'
import type { Step, StepReason } from '../../api/flight-record.ts'
import type { ClientConnection, ParkedClient } from '../connection/connection.ts'
import type { Recipient, Recorded, Recorder } from './recorder.ts'

/** Channel of `node:diagnostics_channel` with every step of every connection; the name is stable. */
const steps = channel('baton:broker:connection')

/** A message of the channel. */
interface PublishedStep {
  /** ULID, the same in the backend. */
  readonly id: string
  readonly step: Step
  /** Milliseconds since the Unix epoch. */
  readonly at: number
  /** Undefined for a connection that another worker has begun. */
  readonly service: string | undefined
  /** Slot of the backend that it goes to or comes from, or address of the upstream. */
  readonly backend: string | undefined
  readonly reason: StepReason | undefined
}

/** Publishes what is recorded, if a subscriber is there when the worker starts: without one, nothing is between a step and its record. */
export function publishing(recorder: Recorder): Recorder {
  return steps.hasSubscribers ? new PublishedRecorder(recorder) : recorder
}

class PublishedRecorder implements Recorder {
  readonly #recorder: Recorder
  readonly #services = new WeakMap<Recorded, string>()

  constructor(recorder: Recorder) {
    this.#recorder = recorder
  }

  accepted(connection: ClientConnection, service: string): void {
    this.#recorder.accepted(connection, service)
    this.#publish('accepted', [connection], connection.acceptedAt, service)
  }

  returned(
    step: 'handed_back' | 'moved',
    clients: readonly ParkedClient[],
    service: string,
    at: number,
    by?: Recipient,
  ): void {
    this.#recorder.returned(step, clients, service, at, by)
    this.#publish(step, clients, at, service, by)
    this.#publish('parked', clients, at)
  }

  again(step: 'awake' | 'handed_back', connection: ClientConnection, service: string, at: number): void {
    this.#recorder.again(step, connection, service, at)
    this.#publish(step, [connection], at, service)
  }

  note(
    step: Step,
    connections: readonly Recorded[],
    at: number,
    recipient?: Recipient,
    reason?: StepReason,
  ): void {
    this.#recorder.note(step, connections, at, recipient, reason)
    this.#publish(step, connections, at, undefined, recipient, reason)
  }

  #publish(
    step: Step,
    connections: readonly Recorded[],
    at: number,
    service?: string,
    recipient?: Recipient,
    reason?: StepReason,
  ): void {
    for (const connection of connections) {
      // All that are recorded have an id; making it costs something, so the recorder's type does not promise it.
      const id: unknown = Reflect.get(connection, 'id')
      if (!Buffer.isBuffer(id)) continue
      if (service !== undefined) this.#services.set(connection, service)
      const message: PublishedStep = {
        id: ulidFromBytes(id),
        step,
        at: performance.timeOrigin + at,
        service: service ?? this.#services.get(connection),
        backend: recipient?.slot,
        reason,
      }
      steps.publish(message)
    }
  }
}
