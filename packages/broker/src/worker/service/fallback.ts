import { NativeError } from '@baton/native-sendmsg'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { Logger } from 'pino'
import { createBalancer } from '../balance/balancer.ts'
import type { Candidate, Balancer } from '../balance/candidate.ts'
import type { ServiceConfig } from '../../config/config.ts'
import type { ClientConnection } from '../connection/connection.ts'
import type { LingeringClose } from '../reject/lingering-close.ts'
import { HoldQueue, type Watcher } from '../hold/hold-queue.ts'
import type { FallbackReason, RejectionReason } from '../../metrics/labels.ts'
import type { Os } from '../os.ts'
import type { Recorder } from '../recorder/recorder.ts'
import type { BackendLink } from '../backend/backend-link.ts'
import type { Upstream } from '../relay/upstream.ts'
import { type RelayCandidate, relayCandidates, balanceKey, markTried, relayMark } from './candidates.ts'
import { isPressure, nextRung } from './fallback-ladder.ts'
import type { ServiceStats } from './service-stats.ts'

/** While upstreams refuse, those who wait ask them again this often, in milliseconds: nobody tells when one is back. */
const UPSTREAM_RETRY_MS = 250

export interface FallbackDeps {
  readonly service: string
  readonly config: ServiceConfig
  /** By slot. The service's. */
  readonly links: ReadonlyMap<string, BackendLink>
  readonly upstreams: readonly Upstream[]
  readonly poller: Watcher
  readonly lingeringClose: Pick<LingeringClose, 'reject'>
  readonly serviceStats: ServiceStats
  readonly recorder: Recorder
  readonly logger: Logger
  readonly os: Os
  /** Called when held connections may be offered again: upstreams do not announce that they are back. */
  readonly retry: () => void
  /** Called after each outcome: one connection less is held or in flight. */
  readonly settled: () => void
}

/**
 * Where a client goes whom no backend takes the descriptor of: a relay, the queue of those who wait, a rejection
 * (`fallback-ladder.ts` decides which).
 *
 * Owner of the queue, and of the descriptors in it.
 */
export class Fallback {
  /** Who waits. */
  readonly held: HoldQueue
  readonly #parts: FallbackDeps
  /** Its own memory: who takes bytes is another list than who takes descriptors. */
  readonly #balancer: Balancer
  #retry: Timer | undefined
  #stopped = false
  /** Set while a successor takes what nothing here can: connections are then left to the caller, and no relay begins. */
  leaving = false

  constructor(parts: FallbackDeps) {
    this.#parts = parts
    const { poller, config, serviceStats, recorder, os } = parts
    this.#balancer = createBalancer(config.balance, os.random)
    this.held = new HoldQueue(
      poller,
      config.holdTimeout,
      {
        clientGone: (connection) => {
          serviceStats.outcomes.client_gone += 1
          recorder.note('client_gone', [connection], os.now())
          os.closeClients([connection])
          parts.settled()
        },
        timedOut: (connection) => this.#reject(connection, 'hold_timeout', this.noBackendReason()),
      },
      os,
    )
  }

  /** Who may be asked to take bytes. */
  relayCandidates(): RelayCandidate[] {
    const { links, upstreams } = this.#parts
    return this.leaving ? [] : relayCandidates(links.values(), upstreams)
  }

  /** Why no backend takes descriptors now. */
  noBackendReason(): FallbackReason {
    if (this.#parts.config.handoff === 'off') return 'ServicePolicyDisabled'
    for (const link of this.#parts.links.values())
      if (link.eligibility.state === 'paused') return 'FailedAttemptRateLimited'
    return 'NoReadyBackend'
  }

  /**
   * No backend takes the descriptor of this connection: relays, holds or rejects it.
   *
   * @returns false when this worker is leaving: the connection is still the caller's, for the successor
   */
  fallBack(connection: ClientConnection, why: FallbackReason): boolean {
    if (this.leaving) {
      connection.tried = undefined
      return false
    }
    const { config, serviceStats, recorder, os } = this.#parts
    const now = os.now()
    if (isPressure(why)) connection.pressedSince ??= now
    const { tried, acceptedAt, pressedSince } = connection
    const able = this.relayCandidates().filter(({ mark }) => !tried?.has(mark))
    const rung = nextRung(
      {
        why,
        waited: now - acceptedAt,
        pressed: now - (pressedSince ?? now),
        carrier: able.length > 0,
        held: this.held.size,
        stopped: this.#stopped,
      },
      config,
    )
    if (rung.action === 'reject') {
      this.#reject(connection, rung.reason, why)
      return true
    }
    if (rung.action === 'hold') {
      this.#wait(connection, why)
      return true
    }
    const carrier = this.#balancer.choose(able, balanceKey(config.balance, connection)) as RelayCandidate
    serviceStats.fellBack('reconnect', why)
    markTried(connection, carrier.mark)
    recorder.note('relay_offered', [connection], now, carrier.recipient)
    const failure = carrier.connect(connection)
    if (failure === undefined) return true
    recorder.note('returned', [connection], os.now(), undefined, failure.code)
    serviceStats.failed(failure.code, 1)
    return this.fallBack(connection, failure.code)
  }

  /**
   * Holds it behind those that wait already, if there is room.
   *
   * @returns as `fallBack`
   */
  queue(connection: ClientConnection): boolean {
    const why = this.noBackendReason()
    if (this.held.size >= this.#parts.config.maxHeld) this.#reject(connection, 'hold_full', why)
    else if (this.leaving) {
      connection.tried = undefined
      return false
    } else this.#wait(connection, why)
    return true
  }

  /**
   * Before another attempt: forgets what has refused each connection once every backend has. While one takes descriptors, relays do not
   * count: a backend that answers again is offered the descriptor, not a relay.
   */
  startOver(connections: readonly ClientConnection[], takers: readonly Candidate[]): void {
    const marks =
      takers.length > 0 ? takers.map(({ id }) => id) : this.relayCandidates().map(({ mark }) => mark)
    for (const connection of connections) {
      const { tried } = connection
      if (tried !== undefined && marks.every((mark) => tried.has(mark))) connection.tried = undefined
    }
  }

  /** A backend that has just registered has refused no client, whatever the previous one in its slot did. */
  joined(slot: string): void {
    for (const { tried } of this.held.connections()) {
      tried?.delete(slot)
      tried?.delete(relayMark(slot))
    }
  }

  /** Gives up: who still waits is rejected. */
  close(): void {
    this.#stopped = true
    for (const connection of this.held.take(this.held.size))
      this.#reject(connection, 'shutdown', 'NoReadyBackend')
    this.#parts.os.clear(this.#retry)
    this.held.close()
  }

  /** Keeps the client, unread, until somebody can take it. */
  #wait(connection: ClientConnection, why: FallbackReason): void {
    const { service, serviceStats, recorder, logger, os } = this.#parts
    // Lack of room passes by itself; a backend that has refused it is not asked again before the others (`startOver`).
    if (isPressure(why)) connection.tried = undefined
    try {
      this.held.add(connection)
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      // Unwatched it could not be held: nobody would notice when it leaves.
      logger.error({ service, code: error.code }, 'a client cannot be watched')
      return this.#reject(connection, 'hold_full', why)
    }
    serviceStats.fellBack('hold', why)
    recorder.note('held', [connection], os.now(), undefined, why)
    this.#armRetry()
  }

  #reject(connection: ClientConnection, reason: RejectionReason, why: FallbackReason): void {
    const { lingeringClose, serviceStats, recorder, os } = this.#parts
    serviceStats.rejected(reason)
    serviceStats.fellBack('reject', why)
    recorder.note('rejected', [connection], os.now(), undefined, reason)
    lingeringClose.reject(connection)
    this.#parts.settled()
  }

  #armRetry(): void {
    const { links, upstreams, os } = this.#parts
    if (this.#retry !== undefined || (upstreams.length === 0 && links.size === 0)) return
    this.#retry = os.setTimeout(() => {
      this.#retry = undefined
      this.#parts.retry()
      if (this.held.size > 0) this.#armRetry()
    }, UPSTREAM_RETRY_MS)
  }
}
