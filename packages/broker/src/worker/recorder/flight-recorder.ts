import { ulidFromBytes, ulidTime } from '@baton/backend-sdk/protocol'
import { PACKED_ADDRESS, packAddress, type SocketAddress, unpackAddress } from '@baton/native-sendmsg'
import type { ClientConnection, ParkedClient } from '../connection/connection.ts'
import { FALLBACK_REASONS, REJECTION_REASONS } from '../../metrics/labels.ts'
import {
  type FlightRecord,
  type FlightRecords,
  RECORDED_OUTCOMES,
  type RecordedOutcome,
  type RecordedStep,
  type RecordQuery,
  type Step,
  type StepReason,
  STEPS,
} from '../../api/flight-record.ts'
import { RecordIndex } from './record-index.ts'
import { RecordedSteps } from './recorded-steps.ts'
import type { Recipient, Recorded, Recorder } from './recorder.ts'

const REASONS: readonly StepReason[] = [...FALLBACK_REASONS, ...REJECTION_REASONS]
/** 0 means no reason. */
const REASON_CODES = new Map(REASONS.map((reason, index) => [reason, index + 1]))
const STEP_CODES = Object.fromEntries(STEPS.map((step, code) => [step, code])) as Record<Step, number>

/** Steps that need no connection id. It is made on first use, so that held clients do not have one. */
const NAMELESS: readonly Step[] = ['chosen', 'held', 'returned']
const isNameless = STEPS.map((step) => NAMELESS.includes(step))

/** In the first byte of a packed address: no family. */
const UNKNOWN_PEER = 0xff

/** Derived from the steps of a record. */
interface Account {
  /** Undefined while the connection is parked, held or in flight. */
  readonly outcome: RecordedOutcome | undefined
  readonly reason: number
  /** Idle, and the broker's; or it was when it ended. */
  readonly isIdle: boolean
  /** When it arrived last: at accept, with its next request, or with its state. Milliseconds since accept. */
  readonly arrivedAt: number
  /** From the last arrival with an outcome to that outcome, in milliseconds. */
  readonly duration: number | undefined
}

/**
 * Records the last connections of a worker, with their steps: a ring buffer, stored in columns. A connection refers to its record by
 * number, and its slot follows from that. On the fast path (chosen, offered, acknowledged, released) nothing is allocated, and no
 * object of the connection is kept.
 *
 * Until a connection is offered, its record refers to it, for its id (`live`); after that the record is independent. If a slot is
 * reused while its connection is still here, the older record is lost. A connection that comes back from a backend is found by its id.
 */
export class FlightRecorder implements Recorder, FlightRecords {
  readonly capacity: number
  /** Number of the record; NaN if the slot is unused. */
  readonly #numbers: Float64Array
  /** performance.now(), milliseconds. */
  readonly #acceptedAt: Float64Array
  readonly #index: RecordIndex
  readonly #peers: Buffer
  readonly #services: string[]
  readonly #listeners: string[]
  readonly #live: (ClientConnection | undefined)[]
  readonly #steps: RecordedSteps
  /** Records begun so far. */
  #begun = 0

  /** @param capacity connections, at least 1 */
  constructor(capacity: number) {
    this.capacity = capacity
    // Filled, so that all pages are allocated now, and none while a connection is being served.
    this.#numbers = new Float64Array(capacity).fill(Number.NaN)
    this.#acceptedAt = new Float64Array(capacity).fill(Number.NaN)
    this.#index = new RecordIndex(capacity)
    this.#peers = Buffer.alloc(capacity * PACKED_ADDRESS, 0xff)
    this.#services = Array<string>(capacity).fill('')
    this.#listeners = Array<string>(capacity).fill('')
    this.#live = Array<ClientConnection | undefined>(capacity).fill(undefined)
    this.#steps = new RecordedSteps(capacity)
  }

  get recorded(): number {
    return Math.min(this.#begun, this.capacity)
  }

  accepted(connection: ClientConnection, service: string): void {
    const slot = this.#begin(service, connection.acceptedAt)
    this.#live[slot] = connection
    connection.record = this.#begun
  }

  returned(
    step: 'handed_back' | 'moved',
    clients: readonly ParkedClient[],
    service: string,
    at: number,
    by?: Recipient,
  ): void {
    for (const client of clients) {
      client.record = this.#settledRecord(client.id, service)
      // The records of idle connections that were lost do not replace those of others.
      if (client.record === undefined && this.#begun < this.capacity)
        client.record = this.#beginLate(client, undefined, service, at)
    }
    this.note(step, clients, at, by)
    this.note('parked', clients, at)
  }

  again(step: 'awake' | 'handed_back', connection: ClientConnection, service: string, at: number): void {
    const { peer } = connection
    if (step === 'handed_back') connection.record ??= this.#settledRecord(connection.id, service)
    const slot = this.#slotOf(connection.record)
    if (slot === undefined) {
      // A backend can hand back many at once: like idle ones, they do not replace the records of others.
      if (step === 'handed_back' && this.#begun >= this.capacity) return
      connection.record = this.#beginLate(connection, peer, service, at)
    } else if (this.#peers[slot * PACKED_ADDRESS] === UNKNOWN_PEER)
      packAddress(peer, this.#peers, slot * PACKED_ADDRESS)
    this.note(step, [connection], at)
  }

  note(
    step: Step,
    connections: readonly Recorded[],
    at: number,
    recipient?: Recipient,
    reason?: StepReason,
  ): void {
    const code = STEP_CODES[step]
    const why = reason === undefined ? 0 : (REASON_CODES.get(reason) ?? 0)
    const nameless = isNameless[code] === true
    for (const { record } of connections) {
      const slot = this.#slotOf(record)
      if (slot === undefined) continue
      if (!nameless) this.#writeDown(slot)
      this.#steps.add(slot, at - (this.#acceptedAt[slot] as number), code, why, recipient)
    }
  }

  list({ service, outcome, slowest, limit }: RecordQuery): FlightRecord[] {
    const now = performance.now()
    const found: { slot: number; rank: number; number: number }[] = []
    for (let slot = 0; slot < this.capacity; slot++) {
      const number = this.#numbers[slot] as number
      if (Number.isNaN(number)) continue
      if (service !== undefined && this.#services[slot] !== service) continue
      const account = outcome !== undefined || slowest ? this.#accountOf(slot) : undefined
      if (outcome !== undefined && account?.outcome !== outcome) continue
      const acceptedAt = this.#acceptedAt[slot] as number
      const rank = account !== undefined && slowest ? slownessOf(account, now - acceptedAt) : acceptedAt
      found.push({ slot, rank, number })
    }
    return found
      .toSorted((a, b) => b.rank - a.rank || b.number - a.number)
      .slice(0, limit)
      .map(({ slot }) => this.#read(slot))
  }

  find(id: Uint8Array): FlightRecord | undefined {
    const slot = this.#index.find(id)
    return slot === undefined ? undefined : this.#read(slot)
  }

  /** @returns the slot of the new record, whose number is `#begun` */
  #begin(service: string, acceptedAt: number): number {
    const slot = this.#begun % this.capacity
    this.#begun += 1
    this.#index.remove(slot)
    this.#numbers[slot] = this.#begun
    this.#acceptedAt[slot] = acceptedAt
    this.#services[slot] = service
    this.#steps.clear(slot)
    return slot
  }

  /** Begins the record of a connection that was accepted some time ago: its id says when. @returns its number */
  #beginLate(
    { id, listener }: Pick<ClientConnection, 'id' | 'listener'>,
    peer: SocketAddress | undefined,
    service: string,
    at: number,
  ): number {
    const slot = this.#begin(service, at - Math.max(0, Date.now() - ulidTime(id)))
    this.#live[slot] = undefined
    this.#describe(slot, id, listener.name, peer)
    return this.#begun
  }

  #slotOf(record: number | undefined): number | undefined {
    if (record === undefined) return undefined
    const slot = (record - 1) % this.capacity
    return this.#numbers[slot] === record ? slot : undefined
  }

  /** The record of a connection that a backend has: the id came from a backend, which can be wrong. */
  #settledRecord(id: Uint8Array, service: string): number | undefined {
    const slot = this.#index.find(id)
    if (slot === undefined || this.#services[slot] !== service) return undefined
    return this.#steps.last(slot) === STEP_CODES.released ? this.#numbers[slot] : undefined
  }

  /** Makes the record independent of the connection. */
  #writeDown(slot: number): void {
    const live = this.#live[slot]
    if (live === undefined) return
    this.#live[slot] = undefined
    this.#describe(slot, live.id, live.listener.name, live.peer)
  }

  #describe(slot: number, id: Uint8Array, listener: string, peer: SocketAddress | undefined): void {
    this.#index.add(slot, id)
    if (peer === undefined) this.#peers[slot * PACKED_ADDRESS] = UNKNOWN_PEER
    else packAddress(peer, this.#peers, slot * PACKED_ADDRESS)
    this.#listeners[slot] = listener
  }

  /** Derives the outcome from the steps: some can only be the last, and an ACK is followed by `released` or `relayed`. */
  #accountOf(slot: number): Account {
    let outcome: RecordedOutcome | undefined
    let why = 0
    let isIdle = false
    let arrivedAt = 0
    let acknowledgedAt = 0
    let duration: number | undefined
    let durationBefore: number | undefined
    for (const { at, code, reason } of this.#steps.of(slot)) {
      const step = STEPS[code] as Step
      if (step === 'acknowledged') acknowledgedAt = at
      else if (step === 'released') {
        outcome = 'handed_off'
        duration = acknowledgedAt - arrivedAt
      } else if (isOutcome(step)) {
        outcome = step
        why = reason
        durationBefore = duration
        if (!isIdle) duration = at - arrivedAt
      } else if (step !== 'closed' && step !== 'resumed') {
        // Not the outcome after all: it had moved here from another worker, or has come back from a backend.
        if (outcome === 'moved') duration = durationBefore
        outcome = undefined
        isIdle = step === 'handed_back' || step === 'parked'
        if (step === 'handed_back' || step === 'awake') arrivedAt = at
      }
    }
    return { outcome, reason: outcome === undefined ? 0 : why, isIdle, arrivedAt, duration }
  }

  #read(slot: number): FlightRecord {
    this.#writeDown(slot)
    const id = this.#index.idOf(slot)
    const steps: RecordedStep[] = [{ at: 0, step: 'accepted' }]
    let current: Recipient | undefined
    for (const { at, code, reason, recipient, omitted } of this.#steps.of(slot)) {
      const step = STEPS[code] as Step
      if (recipient !== undefined) current = recipient
      if (step === 'parked' || step === 'awake') current = undefined
      // A relay to a backend starts with its ACK; an upstream is only connected to.
      if (step === 'relayed' && current?.ulid) {
        steps.push({ at: round(at), step: 'acknowledged', backend: current.slot })
      }
      steps.push({
        at: round(at),
        step,
        ...(current !== undefined && { backend: current.slot }),
        ...(reason > 0 && { reason: REASONS[reason - 1] as StepReason }),
        ...(omitted > 0 && { omitted }),
      })
      if (step === 'returned') current = undefined
    }
    const { outcome, reason, isIdle, duration } = this.#accountOf(slot)
    const hasDuration = duration !== undefined && (outcome !== undefined || isIdle)
    return {
      id: ulidFromBytes(id),
      service: this.#services[slot] as string,
      listener: this.#listeners[slot] as string,
      peer: formatPeer(this.#peers, slot * PACKED_ADDRESS),
      // The id contains the time of accept.
      acceptedAt: new Date(ulidTime(id)).toISOString(),
      outcome: outcome ?? null,
      reason: REASONS[reason - 1] ?? null,
      backend: current?.ulid ? { id: current.ulid, slot: current.slot } : null,
      durationMs: hasDuration ? round(duration) : null,
      steps,
    }
  }
}

/** Connections that wait or are in flight rank by the time since they arrived; idle ones wait for nothing. */
function slownessOf({ outcome, isIdle, arrivedAt, duration }: Account, age: number): number {
  return outcome === undefined && !isIdle ? age - arrivedAt : (duration ?? -1)
}

function isOutcome(step: Step): step is Step & RecordedOutcome {
  return (RECORDED_OUTCOMES as readonly string[]).includes(step)
}

/** Rounds to microseconds. */
function round(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000
}

function formatPeer(peers: Buffer, at: number): string {
  if (peers[at] === UNKNOWN_PEER) return 'unknown'
  const { family, address, port } = unpackAddress(peers, at)
  if (family === 'unix') return 'unix'
  return family === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`
}
