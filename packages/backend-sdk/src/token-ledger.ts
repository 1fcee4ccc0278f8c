import { timingSafeEqual } from 'node:crypto'
import { OfferQueue } from './offer-queue.ts'
import { type NackReason, type Offer, TOKEN_LENGTH } from './protocol/index.ts'
import { SpentTokens } from './spent-tokens.ts'

/**
 * What the backend knows about the tokens of one control connection, without any I/O.
 *
 * A token comes to the backend twice: in an OFFER on control, and beside a descriptor on the lane. The two channels
 * are independent and either may be read first:
 *
 *     OFFER read      -> waiting  -- its descriptor comes, token equal, in time --> accepted (token spent)
 *                                 -- REVOKE, or no descriptor until long after the deadline --> dropped, no word
 *     descriptor read -> parked   -- its OFFER is read --> as above
 *                                 -- no OFFER within tokenTtl, or control ends --> refused
 *
 * The ledger never closes a descriptor: each one that goes in comes out again in exactly one verdict (`accept` or
 * `refuse`), and who asked for the verdict owns it.
 */
export type Verdict<D = number> =
  | { readonly kind: 'accept'; readonly offer: Offer; readonly fd: D }
  | {
      readonly kind: 'refuse'
      /** 0 when the descriptor belongs to no known offer. */
      readonly sequence: number
      readonly reason: NackReason
      /** The token as it came on the lane, cut or zero-padded to 16 bytes. */
      readonly token: Buffer
      /** All descriptors that came with it; to be closed. */
      readonly fds: readonly D[]
    }

/** One message of the lane, as `ReceiveBatch` delivers it; or a relay that was dialled, in a descriptor's place. */
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

/** A lane with default buffers holds 278 messages, so an honest broker can not have more than that parked. */
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

  /** Offers whose descriptor has not come: as many messages may be taken from the lane. */
  get waiting(): number {
    return this.#waiting.size
  }

  get parked(): number {
    return this.#parked.length
  }

  /** An OFFER was read. Gives a verdict when its descriptor is here already. */
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

  /** A message was taken from the lane. `undefined`: its descriptor is parked and the ledger keeps it. */
  arrived(arrival: Arrival<D>, now: bigint): Verdict<D> | undefined {
    const { bytes, fds } = arrival
    if (arrival.length === 0) return refuse(0, 'TokenMissing', bytes, fds)
    if (arrival.length !== TOKEN_LENGTH) return refuse(0, 'TokenInvalidLength', bytes, fds)

    // Descriptors come in the order of their offers, so the first comparison is nearly always the right one; the offers it
    // skips are those that were revoked.
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

  /** REVOKE was read: the broker has the descriptors of these offers back. Unknown sequences have crossed an answer. */
  revoked(sequences: readonly number[]): void {
    for (const revoked of sequences) this.#waiting.takeFirst(({ sequence }) => sequence === revoked)
  }

  /**
   * Lets go of what will not come. An offer is kept for one `tokenTtl` after its deadline, so that a late descriptor
   * is told `TokenExpired` rather than taken for a stranger's.
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

  /** Control has ended: no OFFER can come any more for what is parked. */
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
   * A descriptor that nobody claimed within `tokenTtl`: if an offer waited in vain for just as long, the two were meant
   * for each other and the token was wrong. That offer is past its deadline and can explain only this one descriptor.
   */
  #whyUnclaimed(now: bigint): NackReason {
    const waitedInVain = this.#waiting.takeFirst(({ deadline }) => deadline <= now)
    return waitedInVain === undefined ? 'TokenNotPending' : 'TokenMismatch'
  }
}

function refuse<D>(sequence: number, reason: NackReason, bytes: Buffer, fds: readonly D[]): Verdict<D> {
  const token = Buffer.alloc(TOKEN_LENGTH)
  bytes.copy(token, 0, 0, TOKEN_LENGTH)
  return { kind: 'refuse', sequence, reason, token, fds }
}
