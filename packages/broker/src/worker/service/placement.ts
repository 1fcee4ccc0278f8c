import { Balancers } from '../balance/balancers.ts'
import type { ServiceConfig } from '../../config/config.ts'
import type { BackendLink } from '../backend/backend-link.ts'
import type { ClientConnection } from '../connection/connection.ts'
import { consequenceOf } from '../connection/failure.ts'
import type { FallbackReason } from '../../metrics/labels.ts'
import type { Os } from '../os.ts'
import type { Recorder } from '../recorder/recorder.ts'
import { Arrivals } from './arrivals.ts'
import { isPressure } from './fallback-ladder.ts'
import { balanceKey, type HandoffCandidate, inOrder, isParticular, markTried, suits } from './candidates.ts'
import type { ServiceStats } from './service-stats.ts'
import type { Shifting } from './shifting.ts'

/** Maximum clients of one wake-up that go to a backend before the next is chosen. Longer runs save hardly anything. */
const MAX_RUN = 8

export interface PlacementHost {
  /** Backends that take descriptors now. */
  candidates(): HandoffCandidate[]
  /** Why there are none. */
  noBackendReason(): FallbackReason
  /** No backend takes the descriptor of this connection: it is the host's again. */
  fallBack(connection: ClientConnection, why: FallbackReason): void
}

export interface PlacementDeps {
  readonly config: ServiceConfig
  readonly serviceStats: ServiceStats
  readonly shifting: Shifting
  readonly recorder: Recorder
  readonly os: Os
}

/** Chooses a backend for each connection, and offers it. What comes back at once is offered to the next; what comes back later is the service's. */
export class Placement {
  readonly #host: PlacementHost
  readonly #deps: PlacementDeps
  readonly #balancers: Balancers
  readonly #arrivals = new Arrivals()

  constructor(host: PlacementHost, deps: PlacementDeps) {
    this.#host = host
    this.#deps = deps
    this.#balancers = new Balancers(deps.config.balance, deps.os.random)
  }

  /** Offers each connection to backends that it was not offered to yet, until it is sent or none is left. */
  place(connections: readonly ClientConnection[], after?: FallbackReason): void {
    const { serviceStats, recorder, os } = this.#deps
    if (after === undefined) this.#arrivals.add(connections.length, os.now())
    let why = after
    let rest = connections
    while (rest.length > 0) {
      const groups = this.#assign(rest, why)
      const failed: ClientConnection[] = []
      for (const [link, group] of groups) {
        recorder.note('chosen', group, os.now(), link.identity)
        const refused = link.offer(group)
        const now = os.now()
        if (refused === undefined) {
          recorder.note('offered', group, now)
          continue
        }
        const unsent = group.slice(refused.from)
        recorder.note('offered', group.slice(0, refused.from), now)
        recorder.note('returned', unsent, now, undefined, refused.failure.code)
        for (const connection of unsent) markTried(connection, link.id)
        why = refused.failure.code
        serviceStats.failed(why, unsent.length)
        const { next } = consequenceOf(why)
        if (next === 'next-backend') failed.push(...unsent)
        else for (const connection of unsent) this.#host.fallBack(connection, why)
      }
      rest = inOrder(failed)
    }
  }

  /** Chooses a backend for each connection; connections without one fall back. */
  #assign(connections: readonly ClientConnection[], why: FallbackReason | undefined) {
    const ready = this.#host.candidates()
    const groups = new Map<BackendLink, ClientConnection[]>()
    const run = this.#runLength(ready)
    let last: HandoffCandidate | undefined
    for (const [index, connection] of connections.entries()) {
      // Rule: ASK_EACH_ONCE (docs/internals/model)
      const again = index % run !== 0 && connection.tried === undefined && !isParticular(connection)
      const chosen: HandoffCandidate | undefined =
        (again ? last : undefined) ?? this.#choose(ready, connection, why !== undefined && isPressure(why))
      last = chosen
      if (chosen === undefined) {
        this.#host.fallBack(connection, why ?? this.#host.noBackendReason())
        continue
      }
      if (why !== undefined) this.#deps.serviceStats.fellBack('next_backend', why)
      chosen.load += 1
      const group = groups.get(chosen.link)
      if (group) group.push(connection)
      else groups.set(chosen.link, [connection])
    }
    return groups
  }

  /**
   * How many connections in a row go to the same backend. More than one if load decides, there are more backends than processors, and
   * connections are short, twice as many in a second as there are at a time: a batch is cheaper than its parts, and spread over more backends
   * than can run at the same time it would not be served sooner. Connections that stay would stay where they are together. `round-robin`,
   * `source-hash` and a shift promise a choice for each connection.
   */
  #runLength(ready: readonly HandoffCandidate[]): number {
    const { config, shifting, os } = this.#deps
    if (shifting.shift !== undefined) return 1
    const byLoad = config.balance === 'least-connections' || config.balance === 'p2c'
    if (!byLoad || ready.length <= os.parallelism) return 1
    const live = ready.reduce((sum, { load }) => sum + load, 0)
    return this.#arrivals.lastSecond(os.now()) > 2 * live ? MAX_RUN : 1
  }

  /** @param pressed the last candidate had no room */
  #choose(
    ready: readonly HandoffCandidate[],
    connection: ClientConnection,
    pressed: boolean,
  ): HandoffCandidate | undefined {
    const { tried } = connection
    const able = isParticular(connection) ? ready.filter(({ link }) => suits(link, connection)) : ready
    // Rule: ASK_EACH_ONCE (docs/internals/model)
    const untried = tried === undefined ? able : able.filter(({ id }) => !tried.has(id))
    const { config, shifting } = this.#deps
    // Pressure passes: meanwhile a client waits for its side.
    const { set, candidates } = shifting.among(untried, connection, pressed ? able : [])
    return this.#balancers.of(set).choose(candidates, balanceKey(config.balance, connection))
  }
}
