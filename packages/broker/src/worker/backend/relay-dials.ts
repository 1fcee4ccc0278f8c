import type { Logger } from 'pino'
import { type Failure, failureOf } from '../connection/failure.ts'
import type { OpenOffer } from './offer-ledger.ts'
import type { Os } from '../os.ts'
import { type BackendEndpoint, type PendingDial, relayHeader } from '../relay/dial.ts'

/**
 * How long a missing file is not a failure of an endpoint that worked before, in milliseconds. A cleaner of temporary folders
 * may remove the file; the SDK recreates it within a second.
 */
const RESTORE_TIMEOUT_MS = 3000

/** Connections to one backend's relay endpoint whose offers are not acknowledged yet. Owns their sockets until `take`. */
export class RelayDials {
  readonly #os: Pick<Os, 'dialBackend' | 'now'>
  /** Logs with the backend's name. */
  readonly #logger: Pick<Logger, 'warn'>
  readonly #failed: (offer: OpenOffer, failure: Failure) => void
  /** By sequence. */
  readonly #dials = new Map<number, PendingDial>()
  /** Access to the endpoint is denied. Logged once, since it lasts until an operator fixes it. */
  #denied = false
  #reached = false
  #missingSince: number | undefined

  /** @param failed the endpoint could not be reached, or the connection to it broke before `take` */
  constructor(
    os: Pick<Os, 'dialBackend' | 'now'>,
    logger: Pick<Logger, 'warn'>,
    failed: (offer: OpenOffer, failure: Failure) => void,
  ) {
    this.#os = os
    this.#logger = logger
    this.#failed = failed
  }

  /** Connects, and sends the client's addresses and the offer's token. */
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

  /** The caller detaches or cancels it. Undefined if the offer is not a relay's. */
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
