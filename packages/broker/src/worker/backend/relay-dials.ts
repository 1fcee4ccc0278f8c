import type { Logger } from 'pino'
import { type Failure, failureOf } from '../connection/failure.ts'
import type { OpenOffer } from './offer-ledger.ts'
import type { Os } from '../os.ts'
import { type BackendEndpoint, type PendingDial, relayHeader } from '../relay/dial.ts'

/**
 * A cleaner of temporary folders may remove the endpoint's file, and the SDK creates it again within a second: milliseconds in which that
 * is no failure of an endpoint that worked before.
 */
const RESTORE_TIMEOUT_MS = 3000

/**
 * The connections to one backend's relay endpoint whose offers are not acknowledged yet. Owner of their sockets, until `take`.
 */
export class RelayDials {
  readonly #os: Pick<Os, 'dialBackend' | 'now'>
  /** Logs with the backend's name. */
  readonly #logger: Pick<Logger, 'warn'>
  readonly #failed: (offer: OpenOffer, failure: Failure) => void
  /** By sequence. */
  readonly #dials = new Map<number, PendingDial>()
  /** The endpoint is out of bounds, and the log says so: once, for it stays so until somebody changes that. */
  #denied = false
  #reached = false
  #missingSince: number | undefined

  /** @param failed the endpoint could not be reached, or what was connected broke before `take` */
  constructor(
    os: Pick<Os, 'dialBackend' | 'now'>,
    logger: Pick<Logger, 'warn'>,
    failed: (offer: OpenOffer, failure: Failure) => void,
  ) {
    this.#os = os
    this.#logger = logger
    this.#failed = failed
  }

  /** Connects, and says where the client comes from and whose offer this is. */
  dial(offer: OpenOffer, endpoint: BackendEndpoint): void {
    const pending = this.#os.dialBackend(endpoint, {
      connected: () => {
        this.#reached = true
        this.#missingSince = undefined
        pending.socket.write(relayHeader(offer.connection, offer.token))
      },
      failed: (error) => {
        this.take(offer)
        if (this.#isBeingRestored(error)) this.#failed(offer, { code: 'WouldBlock' })
        else this.#fail(offer, failureOf(error, endpoint.path, -1), error.message)
      },
    })
    this.#dials.set(offer.sequence, pending)
  }

  /** The caller settles or cancels it. Undefined when that offer was none of a relay. */
  take({ sequence }: OpenOffer): PendingDial | undefined {
    const pending = this.#dials.get(sequence)
    this.#dials.delete(sequence)
    return pending
  }

  #isBeingRestored({ code }: NodeJS.ErrnoException): boolean {
    if (code !== 'ENOENT' || !this.#reached) return false
    const now = this.#os.now()
    this.#missingSince ??= now
    return now - this.#missingSince < RESTORE_TIMEOUT_MS
  }

  #fail(offer: OpenOffer, failure: Failure, reason: string): void {
    if (failure.code === 'PermissionDenied' && !this.#denied) {
      this.#denied = true
      this.#logger.warn({ failure: failure.code, reason }, 'relay endpoint of a backend cannot be used')
    }
    this.#failed(offer, failure)
  }
}
