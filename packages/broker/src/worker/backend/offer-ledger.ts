import { randomFillSync, timingSafeEqual } from 'node:crypto'
import { type Offer, type OfferKind, TOKEN_LENGTH } from '@baton/backend-sdk/protocol'
import type { ClientConnection } from '../connection/connection.ts'
import { metaOf } from '../connection/proxied.ts'

/** Tokens per call of the system's CSPRNG: a call costs more than a token. */
const TOKENS_DRAWN = 256

let drawn = Buffer.alloc(0)
let used = 0

/** A one-time token, which proves that a descriptor and an offer belong together. Never logged or shown. */
export function createToken(): Buffer {
  if (used === drawn.length) {
    drawn = randomFillSync(Buffer.allocUnsafeSlow(TOKEN_LENGTH * TOKENS_DRAWN))
    used = 0
  }
  used += TOKEN_LENGTH
  return drawn.subarray(used - TOKEN_LENGTH, used)
}

/**
 * The offers made over one control connection: which client was offered under which sequence, and its state. No I/O; the clock
 * is an argument.
 *
 *     offered -- ACK ------------------------------------------> handed off
 *             -- NACK, read back from the lane, end without ACK -> free to go elsewhere
 *             -- deadline passed, no longer on the lane --------> taken
 *     taken   -- ACK, NACK, end of control ---------------------> as above
 *             -- more than `maxStuck` of them ------------------> relinquished (never offered again)
 *
 * A late, missing or wrong answer alone never returns a connection (I3).
 */
export interface OpenOffer {
  readonly sequence: number
  readonly token: Buffer
  readonly connection: ClientConnection
  /** Milliseconds of performance.now(): when the ACK is due. */
  readonly due: number
  /** `relay`: nothing is on the lane, and the client's descriptor never leaves the broker. */
  readonly kind: OfferKind
  state: 'offered' | 'taken'
}

/**
 * `settled`: the offer is already settled, so the answer crossed that. `given-up`: the same, and it is the first answer to an offer
 * that was given up without one. `never-made`: the peer invented it.
 */
export type Unmatched = 'settled' | 'given-up' | 'never-made'

/** Maximum offers remembered after they were given up, so that a late ACK of each counts once. */
const MAX_GIVEN_UP = 4096

export class OfferLedger {
  /** By sequence, in the order of the offers, so the first that is not taken is due first. */
  readonly #open = new Map<number, OpenOffer>()
  #lastSequence = 0
  #taken = 0
  /** The offer of a health check; there is at most one at a time. */
  #probe: OpenOffer | undefined
  /** Sequences that were given up without an answer, oldest first. */
  readonly #givenUp = new Set<number>()

  get size(): number {
    return this.#open.size
  }

  /** Open offers without that of a health check. */
  get clients(): number {
    return this.#open.size - (this.#probe === undefined ? 0 : 1)
  }

  /** Offers past their deadline that the backend has taken from the lane and not answered. */
  get taken(): number {
    return this.#taken
  }

  open(
    connection: ClientConnection,
    token: Buffer,
    due: number,
    kind: OfferKind = connection.resume === undefined ? 'descriptor' : 'resumed',
  ): OpenOffer {
    const offer: OpenOffer = {
      sequence: ++this.#lastSequence,
      token,
      connection,
      due,
      kind,
      state: 'offered',
    }
    this.#open.set(offer.sequence, offer)
    if (connection.probe !== undefined) this.#probe = offer
    return offer
  }

  /** The offer that an ACK settles. An ACK that names another connection answers an offer that was never made. */
  acked(sequence: number, id: Buffer): OpenOffer | Unmatched {
    const offer = this.#open.get(sequence)
    // Rule: LATE_ACK_IGNORED (docs/internals/model)
    if (offer === undefined) return this.#unmatched(sequence)
    if (!offer.connection.id.equals(id)) return 'never-made'
    return this.#close(offer)
  }

  /** The offer that a NACK settles: by sequence, or, if that is 0, by the token that came with the descriptor. */
  nacked(sequence: number, token: Buffer): OpenOffer | Unmatched {
    if (sequence === 0) return this.readBack(token) ?? 'settled'
    const offer = this.#open.get(sequence)
    return offer === undefined ? this.#unmatched(sequence) : this.#close(offer)
  }

  /** Settles the offer whose message was read back from the lane. */
  readBack(token: Buffer): OpenOffer | undefined {
    // Oldest first: messages are on the lane in the order of their offers.
    for (const offer of this.#open.values()) {
      if (token.length === offer.token.length && timingSafeEqual(offer.token, token))
        return this.#close(offer)
    }
    return undefined
  }

  /** When the next ACK is due, in milliseconds of performance.now(). */
  nextDue(): number | undefined {
    for (const offer of this.#open.values()) if (offer.state === 'offered') return offer.due
    return undefined
  }

  /** After the lane was read back: offers past their deadline that were not on it have been taken. Returns how many. */
  noteTaken(now: number): number {
    let found = 0
    for (const offer of this.#open.values()) {
      if (offer.state === 'taken' || offer.kind === 'relay') continue
      if (offer.due > now) break
      offer.state = 'taken'
      found += 1
    }
    this.#taken += found
    return found
  }

  /** Gives up the offer of a relay that has failed. False if it is settled already. */
  cancel(offer: OpenOffer): boolean {
    return this.#open.get(offer.sequence) === offer && this.#giveUp(offer) === offer
  }

  /** Gives up and returns relays without an ACK by their deadline. Only the broker can have touched their clients. */
  overdueRelays(now: number): OpenOffer[] {
    const overdue = [...this.#open.values()].filter(({ kind, due }) => kind === 'relay' && due <= now)
    for (const offer of overdue) this.#giveUp(offer)
    return overdue
  }

  /**
   * Gives up the oldest taken offer while there are more than `bound`; its connection is never offered again. The offer of a health
   * check goes first, whatever the bound: no client is lost with it.
   */
  relinquish(bound: number): OpenOffer | undefined {
    if (this.#probe?.state === 'taken') return this.#giveUp(this.#probe)
    if (this.#taken <= bound) return undefined
    for (const offer of this.#open.values()) if (offer.state === 'taken') return this.#giveUp(offer)
    return undefined
  }

  /** Removes and returns all open offers, in order. */
  end(): OpenOffer[] {
    const rest = [...this.#open.values()]
    this.#open.clear()
    this.#taken = 0
    this.#probe = undefined
    this.#givenUp.clear()
    return rest
  }

  #close(offer: OpenOffer): OpenOffer {
    this.#open.delete(offer.sequence)
    if (offer.state === 'taken') this.#taken -= 1
    if (offer === this.#probe) this.#probe = undefined
    return offer
  }

  #giveUp(offer: OpenOffer): OpenOffer {
    this.#givenUp.add(offer.sequence)
    if (this.#givenUp.size > MAX_GIVEN_UP) this.#givenUp.delete(this.#givenUp.values().next().value as number)
    return this.#close(offer)
  }

  #unmatched(sequence: number): Unmatched {
    if (this.#givenUp.delete(sequence)) return 'given-up'
    return sequence <= this.#lastSequence ? 'settled' : 'never-made'
  }
}

/** The wire form of an open offer. `deadline`: CLOCK_MONOTONIC, in nanoseconds. `now`: milliseconds of `os.now()`. */
export function toWire(offer: OpenOffer, deadline: bigint, now: number): Offer {
  return {
    sequence: offer.sequence,
    token: offer.token,
    connection: offer.connection.id,
    deadline,
    kind: offer.kind,
    listener: offer.connection.listener.name,
    meta: metaOf(offer.connection, now),
    resumed: offer.connection.resume?.block,
  }
}
