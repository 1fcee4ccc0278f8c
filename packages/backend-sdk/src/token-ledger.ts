import { timingSafeEqual } from 'node:crypto'
import { OfferQueue } from './offer-queue.ts'
import { type NackReason, type Offer, TOKEN_LENGTH } from './protocol/index.ts'
import { SpentTokens } from './spent-tokens.ts'

/**
 * The backend's record of the tokens of one control connection, without any I/O.
 *
 * Each token arrives twice: in an OFFER on control, and with a descriptor on the lane. The two channels are independent, and
 * either may be read first:
 *
 *     OFFER read      -> waiting  -- its descriptor arrives with the same token, in time --> accepted (token spent)
 *                                 -- REVOKE, or no descriptor until long after the deadline --> dropped silently
 *     descriptor read -> parked   -- its OFFER is read --> as above
 *                                 -- no OFFER within tokenTtl, or control ends --> refused
 *
 * The ledger never closes a descriptor: every one that goes in comes out in exactly one verdict (`accept` or `refuse`), and
 * the caller that receives the verdict owns it.
 */
export type Verdict<D = number> =
  | { readonly kind: 'accept'; readonly offer: Offer; readonly fd: D }
  | {
      readonly kind: 'refuse'
      /** 0 when the descriptor belongs to no known offer. */
      readonly sequence: number
      readonly reason: NackReason
      /** The token as received on the lane, cut or zero-padded to 16 bytes. */
      readonly token: Buffer
      /** All descriptors that came with it, for the caller to close. */
      readonly fds: readonly D[]
    }

/** One lane message as `ReceiveBatch` delivers it, or a relay, which takes the place of the descriptor. */
export interface Arrival<D = number> {
  /** Borrowed: the ledger copies what it keeps. */
  readonly bytes: Buffer
  readonly length: number
  readonly fds: readonly D[]
  readonly controlTruncated: boolean
}

interface Parked<D> {
  readonly token: Buffer
  readonly fd: D
  readonly until: bigint
}

/** A lane with default buffers holds 278 messages, so a correct broker cannot have more than that parked. */
const MAX_PARKED = 512

export class TokenLedger<D = number> {
  readonly #tokenTtl: bigint
  readonly #waiting = new OfferQueue()
  readonly #parked: Parked<D>[] = []
  readonly #spent: SpentTokens

  /** @param tokenTtl nanoseconds */
  constructor(tokenTtl: bigint) {
    this.#tokenTtl = tokenTtl
    this.#spent = new SpentTokens(tokenTtl * 2n)
  }

  /** Offers whose descriptor has not arrived: the number of messages to expect on the lane. */
  get waiting(): number {
    return this.#waiting.size
  }

  get parked(): number {
    return this.#parked.length
  }

  /** An OFFER was read. Returns a verdict if its descriptor has already arrived. */
  offered(offer: Offer, now: bigint): Verdict<D> | undefined {
    if (this.#spent.has(offer.token)) return undefined
    const index = this.#parked.findIndex((parked) => timingSafeEqual(parked.token, offer.token))
    if (index === -1) {
      this.#waiting.push(offer)
      return undefined
    }
    const [parked] = this.#parked.splice(index, 1) as [Parked<D>]
    return this.#match(offer, parked.fd, now)
  }

  /** A message was received from the lane. `undefined`: its descriptor is parked, and owned by the ledger. */
  arrived(arrival: Arrival<D>, now: bigint): Verdict<D> | undefined {
    const { bytes, fds } = arrival
    if (arrival.length === 0) return refuse(0, 'TokenMissing', bytes, fds)
    if (arrival.length !== TOKEN_LENGTH) return refuse(0, 'TokenInvalidLength', bytes, fds)

    // Descriptors arrive in the order of their offers, so the first comparison nearly always matches; the offers skipped are
    // the revoked ones.
    // Rule: TOKEN_MATCH (docs/internals/model)
    const offer = this.#waiting.takeFirst(({ token }) => timingSafeEqual(token, bytes))
    const [fd] = fds
    if (fds.length !== 1 || fd === undefined || arrival.controlTruncated) {
      this.#spent.add(bytes, now)
      return refuse(offer?.sequence ?? 0, 'ControlTruncated', bytes, fds)
    }
    if (offer !== undefined) return this.#match(offer, fd, now)
    if (this.#spent.has(bytes) || this.#parked.length >= MAX_PARKED) {
      return refuse(0, 'TokenNotPending', bytes, fds)
    }
    this.#parked.push({ token: Buffer.from(bytes), fd, until: now + this.#tokenTtl })
    return undefined
  }

  /** REVOKE was read: the broker has taken these offers' descriptors back. Unknown sequences crossed an answer. */
  revoked(sequences: readonly number[]): void {
    for (const revoked of sequences) this.#waiting.takeFirst(({ sequence }) => sequence === revoked)
  }

  /**
   * Drops offers and descriptors whose time is over. An offer is kept for one `tokenTtl` after its deadline, so that a late
   * descriptor is refused as `TokenExpired` and not as an unknown one.
   */
  expire(now: bigint): Verdict<D>[] {
    this.#spent.forget(now)
    const refused: Verdict<D>[] = []
    while (this.#parked[0] !== undefined && this.#parked[0].until <= now) {
      const parked = this.#parked.shift() as Parked<D>
      refused.push(refuse(0, this.#whyUnclaimed(now), parked.token, [parked.fd]))
    }
    while (this.#waiting.takeFirst(({ deadline }) => deadline + this.#tokenTtl <= now) !== undefined);
    return refused
  }

  /** Control has ended: no OFFER can arrive for the parked descriptors. */
  end(): Verdict<D>[] {
    this.#waiting.clear()
    return this.#parked.splice(0).map(({ token, fd }) => refuse(0, 'TokenNotPending', token, [fd]))
  }

  #match(offer: Offer, fd: D, now: bigint): Verdict<D> {
    this.#spent.add(offer.token, now)
    if (now > offer.deadline) return refuse(offer.sequence, 'TokenExpired', offer.token, [fd])
    return { kind: 'accept', offer, fd }
  }

  /**
   * Why no offer matched a descriptor within `tokenTtl`. If an offer has been waiting past its deadline, the two probably belong
   * together and the token was wrong. Each such offer accounts for one descriptor.
   */
  #whyUnclaimed(now: bigint): NackReason {
    const overdue = this.#waiting.takeFirst(({ deadline }) => deadline <= now)
    return overdue === undefined ? 'TokenNotPending' : 'TokenMismatch'
  }
}

function refuse<D>(sequence: number, reason: NackReason, bytes: Buffer, fds: readonly D[]): Verdict<D> {
  const token = Buffer.alloc(TOKEN_LENGTH)
  bytes.copy(token, 0, 0, TOKEN_LENGTH)
  return { kind: 'refuse', sequence, reason, token, fds }
}
