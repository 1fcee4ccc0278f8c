import { NativeError } from '@baton/native-sendmsg'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { Logger } from 'pino'
import { Balancers } from '../balance/balancers.ts'
import type { Candidate } from '../balance/candidate.ts'
import type { ServiceConfig } from '../../config/config.ts'
import type { ClientConnection } from '../connection/connection.ts'
import type { LingeringClose } from '../reject/lingering-close.ts'
import type { Keeper } from '../copies/keeper.ts'
import { maintenanceAnswer } from '../reject/maintenance-answer.ts'
import { type HoldHost, HoldQueue } from '../hold/hold-queue.ts'
import { type Control, NO_CONTROL } from '../../ipc/controls.ts'
import type { FallbackReason, RejectionReason } from '../../metrics/labels.ts'
import type { Os, Watcher } from '../os.ts'
import type { Recorder } from '../recorder/recorder.ts'
import type { BackendLink } from '../backend/backend-link.ts'
import type { Upstream } from '../relay/upstream.ts'
import {
  type HandoffCandidate,
  type RelayCandidate,
  relayCandidates,
  balanceKey,
  inOrder,
  isOfVersion,
  isParticular,
  markTried,
  relayMark,
  suits,
} from './candidates.ts'
import { isPressure, nextRung } from './fallback-ladder.ts'
import type { ServiceStats } from './service-stats.ts'
import type { Shifting } from './shifting.ts'

/** Retry interval while connections are held, in milliseconds: upstreams do not announce recovery. */
const UPSTREAM_RETRY_MS = 250

export interface FallbackDeps {
  readonly service: string
  readonly config: ServiceConfig
  /** By slot. Owned by the service. */
  readonly links: ReadonlyMap<string, BackendLink>
  readonly upstreams: readonly Upstream[]
  readonly poller: Watcher
  readonly lingeringClose: Pick<LingeringClose, 'reject'>
  readonly serviceStats: ServiceStats
  readonly shifting: Shifting
  readonly recorder: Recorder
  readonly logger: Logger
  readonly os: Os
  readonly keeper?: Keeper | undefined
  /** Called every `UPSTREAM_RETRY_MS` while connections are held: offers them again. */
  readonly retry: () => void
  /** Called after each outcome: one connection less is held or in flight. */
  readonly settled: () => void
}

/**
 * Fallback for connections whose descriptor no backend takes: relay, hold or reject (`fallback-ladder.ts` decides which).
 *
 * Owns the hold queue, and the descriptors in it.
 */
export class Fallback {
  readonly held: HoldQueue
  /** Those that wait for certain backends only (`isParticular`): others must not queue behind them. */
  readonly heldForCertain: HoldQueue
  readonly #deps: FallbackDeps
  /** Not the service's, because relay candidates differ from handoff candidates. */
  readonly #balancers: Balancers
  #retry: Timer | undefined
  #stopped = false
  /** This worker is leaving: connections without a backend are left to the caller, for the successor, and no relay begins. */
  leaving = false
  #control = NO_CONTROL
  /** While the service is in maintenance. */
  #page: Buffer | undefined

  constructor(deps: FallbackDeps) {
    this.#deps = deps
    const { poller, config, serviceStats, recorder, os, keeper } = deps
    this.#balancers = new Balancers(config.balance, os.random)
    const host: HoldHost = {
      clientGone: (connection) => {
        serviceStats.outcomes.client_gone += 1
        recorder.note('client_gone', [connection], os.now())
        os.closeClients([connection])
        connection.resume?.settled('ended')
        deps.settled()
      },
      timedOut: (connection) => this.#reject(connection, 'hold_timeout', this.noBackendReason()),
    }
    this.held = new HoldQueue(poller, config.holdTimeout, host, os, keeper)
    this.heldForCertain = new HoldQueue(poller, config.holdTimeout, host, os, keeper)
  }

  /** Connections that wait for a backend, of both kinds. */
  get size(): number {
    return this.held.size + this.heldForCertain.size
  }

  /** When the client arrived that was held first; undefined if none is held. */
  get heldSince(): number | undefined {
    const [first] = this.held.connections()
    const [certain] = this.heldForCertain.connections()
    if (first === undefined || certain === undefined) return (first ?? certain)?.acceptedAt
    return Math.min(first.acceptedAt, certain.acceptedAt)
  }

  /** Orders of operators that apply. */
  get control(): Control {
    return this.#control
  }

  /** New connections are held, whatever the backends do. */
  get isPaused(): boolean {
    return this.#control.paused !== null
  }

  /** Connections that are held are refused if the service is in maintenance from now on. */
  set control(control: Control) {
    this.#control = control
    this.#page = control.maintenance === null ? undefined : maintenanceAnswer(control.maintenance)
    if (this.#page === undefined) return
    const certain = this.heldForCertain.takeWhere(this.size, ({ resume }) => resume === undefined)
    this.refuse(inOrder([...this.held.take(this.held.size), ...certain]))
  }

  /**
   * Answers connections while the service is in maintenance.
   *
   * @returns those that are not refused: all of them if it is not, or those in the middle of a conversation
   */
  refuse(connections: readonly ClientConnection[]): readonly ClientConnection[] {
    if (this.#page === undefined) return connections
    return connections.filter((connection) => {
      if (connection.resume !== undefined) return true
      this.#reject(connection, 'maintenance', 'ServiceMaintenance')
      return false
    })
  }

  /** All of them, in order of arrival. */
  takeAll(): readonly ClientConnection[] {
    return inOrder([...this.held.take(this.held.size), ...this.heldForCertain.take(this.heldForCertain.size)])
  }

  /** Up to `count` of them, in order of arrival. */
  take(count: number): readonly ClientConnection[] {
    if (this.heldForCertain.size === 0) return this.held.take(count)
    const certain = new Set(firstOf(this.heldForCertain.connections(), count))
    const all = inOrder([...firstOf(this.held.connections(), count), ...certain]).slice(0, count)
    const ofCertain = all.filter((connection) => certain.has(connection)).length
    this.heldForCertain.take(ofCertain)
    this.held.take(all.length - ofCertain)
    return all
  }

  /**
   * While this worker is leaving: lets a connection wait with the others until its turn comes to move.
   *
   * @returns false: it has waited too long already, or cannot be watched
   */
  wait(connection: ClientConnection): boolean {
    const { config, os } = this.#deps
    if (os.now() - connection.acceptedAt >= config.holdTimeout) return false
    try {
      const queue = isParticular(connection) ? this.heldForCertain : this.held
      queue.add(connection)
      return true
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      return false
    }
  }

  /** Backends and upstreams eligible for a relay. */
  relayCandidates(): RelayCandidate[] {
    const { links, upstreams } = this.#deps
    return this.leaving || this.isPaused ? [] : relayCandidates(links.values(), upstreams)
  }

  /** Why no backend takes descriptors now. */
  noBackendReason(): FallbackReason {
    if (this.isPaused) return 'ServicePaused'
    if (this.#deps.config.handoff === 'off') return 'ServicePolicyDisabled'
    for (const link of this.#deps.links.values())
      if (link.eligibility.state === 'paused') return 'FailedAttemptRateLimited'
    return 'NoReadyBackend'
  }

  /**
   * No backend takes the descriptor of this connection: relays, holds or rejects it.
   *
   * @returns false when this worker is leaving: the caller still owns the connection, and passes it to the successor
   */
  fallBack(connection: ClientConnection, why: FallbackReason): boolean {
    if (this.leaving) {
      connection.tried = undefined
      return false
    }
    if (this.refuse([connection]).length === 0) return true
    const { config, serviceStats, shifting, recorder, os } = this.#deps
    const now = os.now()
    if (isPressure(why)) connection.pressedSince ??= now
    const { tried, acceptedAt, pressedSince } = connection
    // A relay would give the next backend bytes without the state that they belong to.
    const relays = connection.resume === undefined ? this.relayCandidates() : []
    const able = relays.filter(({ mark, version }) => isOfVersion(version, connection) && !tried?.has(mark))
    const rung = nextRung(
      {
        why,
        waited: now - acceptedAt,
        pressed: now - (pressedSince ?? now),
        canRelay: able.length > 0,
        held: this.size,
        stopped: this.#stopped,
      },
      config,
    )
    if (rung.action === 'reject') {
      this.#reject(connection, rung.reason, why)
      return true
    }
    if (rung.action === 'hold') {
      this.#hold(connection, why)
      return true
    }
    const { set, candidates } = shifting.among(able, connection)
    const key = balanceKey(config.balance, connection)
    const candidate = this.#balancers.of(set).choose(candidates, key) as RelayCandidate
    serviceStats.fellBack('reconnect', why)
    markTried(connection, candidate.mark)
    recorder.note('relay_offered', [connection], now, candidate.recipient)
    const failure = candidate.connect(connection)
    if (failure === undefined) return true
    recorder.note('returned', [connection], os.now(), undefined, failure.code)
    serviceStats.failed(failure.code, 1)
    return this.fallBack(connection, failure.code)
  }

  /**
   * Holds a connection behind those already held, or rejects it if the queue is full.
   *
   * @returns as `fallBack`
   */
  queue(connection: ClientConnection): boolean {
    if (this.leaving) {
      connection.tried = undefined
      return false
    }
    const why = this.noBackendReason()
    if (this.size >= this.#deps.config.maxHeld) this.#reject(connection, 'hold_full', why)
    else this.#hold(connection, why)
    return true
  }

  /**
   * Before another attempt: lets a connection that every candidate has refused start over. While a backend takes descriptors,
   * relays do not count: a backend that answers again is offered the descriptor, not a relay.
   */
  startOver(connections: readonly ClientConnection[], candidates: readonly Candidate[]): void {
    const marks =
      candidates.length > 0 ? candidates.map(({ id }) => id) : this.relayCandidates().map(({ mark }) => mark)
    for (const connection of connections) startOver(connection, marks)
  }

  /** Removes up to `count` held connections for which some of these, or a relay, will do, wherever they are in the queue. */
  takeForCertain(ready: readonly HandoffCandidate[], count: number): ClientConnection[] {
    if (this.heldForCertain.size === 0) return []
    const relays = this.relayCandidates()
    const find = (connection: ClientConnection) => {
      const links = ready.filter(({ link }) => suits(link, connection))
      if (links.length > 0 || connection.resume !== undefined) return links.map(({ id }) => id)
      return relays.filter(({ version }) => isOfVersion(version, connection)).map(({ mark }) => mark)
    }
    // Found once for all that wait for a version: they may be many thousands, and this runs with every ACK.
    const byVersion = new Map<string, readonly string[]>()
    const marksFor = (connection: ClientConnection) => {
      const version = connection.resume === undefined ? connection.routed?.version : undefined
      if (version === undefined) return find(connection)
      const marks = byVersion.get(version) ?? find(connection)
      byVersion.set(version, marks)
      return marks
    }
    const connections = this.heldForCertain.takeWhere(count, (connection) => marksFor(connection).length > 0)
    for (const connection of connections) startOver(connection, marksFor(connection))
    return connections
  }

  /** The backend in this slot is new, or takes other connections than before: what was refused there may be offered to it again. */
  forgetRefusals(slot: string): void {
    for (const queue of [this.held, this.heldForCertain]) {
      for (const { tried } of queue.connections()) {
        tried?.delete(slot)
        tried?.delete(relayMark(slot))
      }
    }
  }

  /** Rejects all held connections. */
  close(): void {
    this.#stopped = true
    for (const connection of this.takeAll()) this.#reject(connection, 'shutdown', 'NoReadyBackend')
    this.#deps.os.clear(this.#retry)
    this.held.close()
    this.heldForCertain.close()
  }

  #hold(connection: ClientConnection, why: FallbackReason): void {
    const { service, serviceStats, recorder, logger, os } = this.#deps
    // Pressure passes by itself. After a refusal the other backends are tried first (`startOver`).
    if (isPressure(why)) connection.tried = undefined
    try {
      const queue = isParticular(connection) ? this.heldForCertain : this.held
      queue.add(connection)
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      // Without a watch we could not detect that a held client disconnected.
      logger.error({ service, code: error.code }, 'cannot watch a client; rejecting it')
      return this.#reject(connection, 'hold_full', why)
    }
    serviceStats.fellBack('hold', why)
    recorder.note('held', [connection], os.now(), undefined, why)
    this.#armRetry()
  }

  #reject(connection: ClientConnection, reason: RejectionReason, why: FallbackReason): void {
    const { lingeringClose, serviceStats, recorder, os } = this.#deps
    if (connection.handedBack === 'idle' && !this.#asks(connection)) return this.#closeIdle(connection)
    serviceStats.rejected(reason)
    serviceStats.fellBack('reject', why)
    recorder.note('rejected', [connection], os.now(), undefined, reason)
    // In the middle of a conversation: an answer of the broker would be taken for one of the backend's.
    if (connection.resume === undefined)
      lingeringClose.reject(connection, reason === 'maintenance' ? this.#page : undefined)
    else {
      os.closeClients([connection])
      connection.resume.settled('ended')
    }
    this.#deps.settled()
  }

  /** An idle connection that was offered without a request of its own: an answer now would be taken for one to the next request. */
  #closeIdle(connection: ClientConnection): void {
    const { serviceStats, recorder, os, settled } = this.#deps
    serviceStats.outcomes.idle_closed += 1
    recorder.note('idle_closed', [connection], os.now())
    os.closeClients([connection])
    settled()
  }

  /** Whether bytes of a request are there. */
  #asks({ fd }: ClientConnection): boolean {
    try {
      return (this.#deps.os.peek(fd.fd, 1)?.length ?? 0) > 0
    } catch (error) {
      if (error instanceof NativeError) return false
      throw error
    }
  }

  #armRetry(): void {
    const { links, upstreams, os } = this.#deps
    if (this.#retry !== undefined || (upstreams.length === 0 && links.size === 0)) return
    this.#retry = os.setTimeout(() => {
      this.#retry = undefined
      this.#deps.retry()
      if (this.size > 0) this.#armRetry()
    }, UPSTREAM_RETRY_MS)
  }
}

function firstOf(connections: Iterable<ClientConnection>, count: number): ClientConnection[] {
  const found: ClientConnection[] = []
  for (const connection of connections) {
    if (found.length === count) break
    found.push(connection)
  }
  return found
}

/** Forgets which candidates a connection was refused by, if these are all that there are. */
function startOver(connection: ClientConnection, marks: readonly string[]): void {
  const { tried } = connection
  if (tried !== undefined && marks.every((mark) => tried.has(mark))) connection.tried = undefined
}
