import { ulidFromBytes, ulidTime } from '@baton/backend-sdk/protocol'
import { PACKED_ADDRESS, packAddress, unpackAddress } from '@baton/native-sendmsg'
import { type ClientConnection, FIRST_INHERITED } from '../connection/connection.ts'
import { FALLBACK_REASONS, REJECTION_REASONS } from '../../metrics/labels.ts'
import {
  type FlightRecord,
  type FlightRecords,
  type RecordedOutcome,
  type RecordedStep,
  type RecordQuery,
  type Step,
  type StepReason,
  STEPS,
} from '../../api/flight-record.ts'
import type { Recipient, Recorder } from './recorder.ts'

const ID_BYTES = 16

/** Steps that fit into every record: a client that was held, refused once and then handed off has seven. */
const ROOM = 8

/** Maximum steps of a record, for connections that go from backend to backend until `holdTimeout`. */
const MAX_STEPS = 64

const REASONS: readonly StepReason[] = [...FALLBACK_REASONS, ...REJECTION_REASONS]
/** 0 means no reason. */
const REASON_CODES = new Map(REASONS.map((reason, index) => [reason, index + 1]))
const STEP_CODES = Object.fromEntries(STEPS.map((step, code) => [step, code])) as Record<Step, number>

/** Steps that need no connection id. It is made on first use, so that held clients do not have one. */
const NAMELESS: readonly Step[] = ['chosen', 'held', 'returned']
const isNameless = STEPS.map((step) => NAMELESS.includes(step))

/** A step that did not fit into `ROOM`. */
interface FurtherStep {
  readonly at: number
  readonly code: number
  readonly reason: number
  readonly recipient: Recipient | undefined
}

/**
 * Records the last connections of a worker, with their steps: a ring buffer, stored in columns. A connection's slot follows from its
 * order of arrival, so connections hold no recorder state. On the fast path (chosen, offered, acknowledged, released) nothing is
 * allocated, and no object of the connection is kept.
 *
 * Until a connection is offered, its record refers to it, for its id (`live`); after that the record is independent. If a slot is
 * reused while its connection is still here, the older record is lost.
 */
export class FlightRecorder implements Recorder, FlightRecords {
  readonly capacity: number
  /** Arrival order; NaN if the slot is unused. */
  readonly #order: Float64Array
  /** performance.now(), milliseconds. */
  readonly #acceptedAt: Float64Array
  readonly #ids: Buffer
  readonly #peers: Buffer
  readonly #services: string[]
  readonly #listeners: string[]
  readonly #live: (ClientConnection | undefined)[]
  /** Steps after `accepted`. */
  readonly #count: Uint8Array
  /** Milliseconds since accept. */
  readonly #stepAt: Float32Array
  readonly #stepCode: Uint8Array
  readonly #stepReason: Uint8Array
  readonly #recipients: (Recipient | undefined)[]
  readonly #further = new Map<number, FurtherStep[]>()
  #recorded = 0

  /** @param capacity connections, at least 1 */
  constructor(capacity: number) {
    this.capacity = capacity
    // Filled, so that all pages are allocated now, and none while a connection is being served.
    this.#order = new Float64Array(capacity).fill(Number.NaN)
    this.#acceptedAt = new Float64Array(capacity).fill(Number.NaN)
    this.#ids = Buffer.alloc(capacity * ID_BYTES, 0xff)
    this.#peers = Buffer.alloc(capacity * PACKED_ADDRESS, 0xff)
    this.#services = Array<string>(capacity).fill('')
    this.#listeners = Array<string>(capacity).fill('')
    this.#live = Array<ClientConnection | undefined>(capacity).fill(undefined)
    this.#count = new Uint8Array(capacity).fill(0xff)
    this.#stepAt = new Float32Array(capacity * ROOM).fill(Number.NaN)
    this.#stepCode = new Uint8Array(capacity * ROOM).fill(0xff)
    this.#stepReason = new Uint8Array(capacity * ROOM).fill(0xff)
    this.#recipients = Array<Recipient | undefined>(capacity * ROOM).fill(undefined)
  }

  get recorded(): number {
    return this.#recorded
  }

  accepted(connection: ClientConnection, service: string): void {
    const { order, acceptedAt } = connection
    const slot = this.#slotOf(order)
    if (this.#recorded < this.capacity && Number.isNaN(this.#order[slot])) this.#recorded += 1
    this.#order[slot] = order
    this.#acceptedAt[slot] = acceptedAt
    this.#services[slot] = service
    this.#live[slot] = connection
    this.#count[slot] = 0
    if (this.#further.size > 0) this.#further.delete(slot)
  }

  note(
    step: Step,
    connections: readonly ClientConnection[],
    at: number,
    recipient?: Recipient,
    reason?: StepReason,
  ): void {
    const code = STEP_CODES[step]
    const why = reason === undefined ? 0 : (REASON_CODES.get(reason) ?? 0)
    const nameless = isNameless[code] === true
    for (const connection of connections) {
      const { order } = connection
      const slot = this.#slotOf(order)
      if (this.#order[slot] !== order) continue
      if (!nameless && this.#live[slot] !== undefined) this.#writeDown(slot, connection)
      const count = this.#count[slot] as number
      const since = at - connection.acceptedAt
      if (count < ROOM) {
        const entry = slot * ROOM + count
        this.#stepAt[entry] = since
        this.#stepCode[entry] = code
        this.#stepReason[entry] = why
        this.#recipients[entry] = recipient
        this.#count[slot] = count + 1
      } else this.#noteFurther(slot, { at: since, code, reason: why, recipient })
    }
  }

  list({ service, outcome, slowest, limit }: RecordQuery): FlightRecord[] {
    const now = performance.now()
    const found: { slot: number; rank: number }[] = []
    for (let slot = 0; slot < this.capacity; slot++) {
      const order = this.#order[slot] as number
      if (Number.isNaN(order)) continue
      if (service !== undefined && this.#services[slot] !== service) continue
      const end = outcome !== undefined || slowest ? this.#endOf(slot) : undefined
      if (outcome !== undefined && end?.outcome !== outcome) continue
      // Connections without an outcome rank by their age.
      const rank = slowest ? (end?.at ?? now - (this.#acceptedAt[slot] as number)) : order
      found.push({ slot, rank })
    }
    return found
      .toSorted((a, b) => b.rank - a.rank)
      .slice(0, limit)
      .map(({ slot }) => this.#read(slot))
  }

  find(id: Uint8Array): FlightRecord | undefined {
    for (let at = this.#ids.indexOf(id); at !== -1; at = this.#ids.indexOf(id, nextPlace(at))) {
      const slot = at / ID_BYTES
      // While a slot refers to a live connection, these bytes belong to its previous record.
      if (Number.isInteger(slot) && !Number.isNaN(this.#order[slot]) && this.#live[slot] === undefined)
        return this.#read(slot)
    }
    return undefined
  }

  /** Inherited connections fill the ring from the opposite end, so nothing is evicted while there is free space. */
  #slotOf(order: number): number {
    const { capacity } = this
    return order < 0 ? capacity - 1 - ((order - FIRST_INHERITED) % capacity) : (order - 1) % capacity
  }

  /** Makes the record independent of the connection. */
  #writeDown(slot: number, connection: ClientConnection): void {
    const { id } = connection
    const at = slot * ID_BYTES
    for (let byte = 0; byte < ID_BYTES; byte++) this.#ids[at + byte] = id[byte] as number
    packAddress(connection.peer, this.#peers, slot * PACKED_ADDRESS)
    this.#listeners[slot] = connection.listener.name
    this.#live[slot] = undefined
  }

  /** At the limit, the new step replaces the last one, so that the outcome is always recorded. */
  #noteFurther(slot: number, step: FurtherStep): void {
    const further = this.#further.get(slot)
    if (further === undefined) this.#further.set(slot, [step])
    else if (further.length < MAX_STEPS - ROOM) further.push(step)
    else further[further.length - 1] = step
  }

  *#stepsOf(slot: number): Iterable<FurtherStep> {
    const from = slot * ROOM
    for (let entry = from; entry < from + (this.#count[slot] as number); entry++) {
      yield {
        at: this.#stepAt[entry] as number,
        code: this.#stepCode[entry] as number,
        reason: this.#stepReason[entry] as number,
        recipient: this.#recipients[entry],
      }
    }
    yield* this.#further.get(slot) ?? []
  }

  /** Derives the outcome from the steps: some can only be the last, and an ACK is followed by `released` or `relayed`. */
  #endOf(slot: number): { outcome: RecordedOutcome; at: number; reason: number } | undefined {
    let end: { outcome: RecordedOutcome; at: number; reason: number } | undefined
    let acknowledgedAt = 0
    for (const { at, code, reason } of this.#stepsOf(slot)) {
      const step = STEPS[code] as Step
      if (step === 'acknowledged') acknowledgedAt = at
      else if (step === 'released') end = { outcome: 'handed_off', at: acknowledgedAt, reason }
      else if (isOutcome(step)) end = { outcome: step, at, reason }
      // Not the outcome after all: it had moved here from another worker.
      else if (step !== 'closed') end = undefined
    }
    return end
  }

  #read(slot: number): FlightRecord {
    const live = this.#live[slot]
    if (live !== undefined) this.#writeDown(slot, live)
    const id = this.#ids.subarray(slot * ID_BYTES, (slot + 1) * ID_BYTES)
    const steps: RecordedStep[] = [{ at: 0, step: 'accepted' }]
    let current: Recipient | undefined
    for (const { at, code, reason, recipient } of this.#stepsOf(slot)) {
      const step = STEPS[code] as Step
      if (recipient !== undefined) current = recipient
      // A relay to a backend starts with its ACK; an upstream is only connected to.
      if (step === 'relayed' && current?.ulid) {
        steps.push({ at: round(at), step: 'acknowledged', backend: current.slot })
      }
      steps.push({
        at: round(at),
        step,
        ...(current !== undefined && { backend: current.slot }),
        ...(reason > 0 && { reason: REASONS[reason - 1] as StepReason }),
      })
      if (step === 'returned') current = undefined
    }
    const end = this.#endOf(slot)
    return {
      id: ulidFromBytes(id),
      service: this.#services[slot] as string,
      listener: this.#listeners[slot] as string,
      peer: formatPeer(this.#peers, slot * PACKED_ADDRESS),
      // The id contains the time of accept.
      acceptedAt: new Date(ulidTime(id)).toISOString(),
      outcome: end?.outcome ?? null,
      reason: (end !== undefined && REASONS[end.reason - 1]) || null,
      backend: current?.ulid ? { id: current.ulid, slot: current.slot } : null,
      durationMs: end === undefined ? null : round(end.at),
      steps,
    }
  }
}

/** Position of the next id after `at`, which may be inside an id. */
function nextPlace(at: number): number {
  return at - (at % ID_BYTES) + ID_BYTES
}

function isOutcome(step: Step): step is Step & RecordedOutcome {
  return ['relayed', 'rejected', 'client_gone', 'relinquished', 'moved'].includes(step)
}

/** Rounds to microseconds. */
function round(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000
}

function formatPeer(peers: Buffer, at: number): string {
  const { family, address, port } = unpackAddress(peers, at)
  if (family === 'unix') return 'unix'
  return family === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`
}
