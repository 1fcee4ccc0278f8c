import type { Recipient } from './recorder.ts'

/** Steps that fit into every record: a client that was held, refused once and then handed off has seven. */
const ROOM = 8

/** Maximum further steps of a record: the latest. A connection can be parked and offered again for days. */
const MAX_FURTHER = 56

export interface StepEntry {
  /** Milliseconds since accept. */
  readonly at: number
  /** Index into `STEPS`. */
  readonly code: number
  /** Index into the reasons, from 1; 0 for none. */
  readonly reason: number
  readonly recipient: Recipient | undefined
  /** Steps before this one that are not kept. */
  readonly omitted: number
}

/** Steps that did not fit into `ROOM`: a ring once there are `MAX_FURTHER`. */
interface Further {
  readonly at: number[]
  /** `code` and `reason`. */
  readonly what: number[]
  readonly recipients: (Recipient | undefined)[]
  noted: number
}

/** The steps of all records after `accepted`, in columns: of each record the first `ROOM`, and the last `MAX_FURTHER` of the others. */
export class RecordedSteps {
  readonly #count: Uint8Array
  readonly #at: Float64Array
  readonly #code: Uint8Array
  readonly #reason: Uint8Array
  readonly #recipients: (Recipient | undefined)[]
  readonly #further = new Map<number, Further>()

  constructor(capacity: number) {
    // Filled, so that all pages are allocated now, and none while a connection is being served.
    this.#count = new Uint8Array(capacity).fill(0xff)
    this.#at = new Float64Array(capacity * ROOM).fill(Number.NaN)
    this.#code = new Uint8Array(capacity * ROOM).fill(0xff)
    this.#reason = new Uint8Array(capacity * ROOM).fill(0xff)
    this.#recipients = Array<Recipient | undefined>(capacity * ROOM).fill(undefined)
  }

  clear(slot: number): void {
    this.#count[slot] = 0
    if (this.#further.size > 0) this.#further.delete(slot)
  }

  add(slot: number, at: number, code: number, reason: number, recipient: Recipient | undefined): void {
    const count = this.#count[slot] as number
    if (count === ROOM) return this.#addFurther(slot, at, code, reason, recipient)
    const entry = slot * ROOM + count
    this.#at[entry] = at
    this.#code[entry] = code
    this.#reason[entry] = reason
    this.#recipients[entry] = recipient
    this.#count[slot] = count + 1
  }

  /** The `code` of the latest step; undefined if there is none. */
  last(slot: number): number | undefined {
    const count = this.#count[slot] as number
    const further = count === ROOM ? this.#further.get(slot) : undefined
    if (further !== undefined) return (further.what[(further.noted - 1) % MAX_FURTHER] as number) & 0xff
    return count === 0 ? undefined : this.#code[slot * ROOM + count - 1]
  }

  *of(slot: number): Iterable<StepEntry> {
    const from = slot * ROOM
    for (let entry = from; entry < from + (this.#count[slot] as number); entry++) {
      yield {
        at: this.#at[entry] as number,
        code: this.#code[entry] as number,
        reason: this.#reason[entry] as number,
        recipient: this.#recipients[entry],
        omitted: 0,
      }
    }
    const further = this.#further.get(slot)
    if (further === undefined) return
    const oldest = Math.max(0, further.noted - MAX_FURTHER)
    for (let index = oldest; index < further.noted; index++) {
      const place = index % MAX_FURTHER
      const what = further.what[place] as number
      yield {
        at: further.at[place] as number,
        code: what & 0xff,
        reason: what >> 8,
        recipient: further.recipients[place],
        omitted: index === oldest ? oldest : 0,
      }
    }
  }

  #addFurther(
    slot: number,
    at: number,
    code: number,
    reason: number,
    recipient: Recipient | undefined,
  ): void {
    let further = this.#further.get(slot)
    if (further === undefined) {
      further = { at: [], what: [], recipients: [], noted: 0 }
      this.#further.set(slot, further)
    }
    const place = further.noted % MAX_FURTHER
    further.at[place] = at
    further.what[place] = code | (reason << 8)
    further.recipients[place] = recipient
    further.noted += 1
  }
}
