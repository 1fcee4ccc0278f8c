import type { NackReason } from '@baton/backend-sdk/protocol'
import { type Poller, setNonblocking } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { type Candidate, type Chooser, createChooser } from '../choose/index.ts'
import type { ServiceConfig } from '../config/index.ts'
import type { ClientConnection } from '../connection.ts'
import { decide, type Failure } from '../handoff/failure.ts'
import type { Farewell } from '../farewell.ts'
import { HoldQueue } from '../hold/hold-queue.ts'
import type { FallbackReason, Metrics, RejectionReason } from '../metrics/index.ts'
import { BACKEND_STATES } from '../metrics/index.ts'
import type { BackendLink, LinkHost } from '../registry/backend-link.ts'
import { Tally } from './tally.ts'

/** So many held clients are offered to each ready backend at once; its ACK asks for more. */
const PUMP_BATCH = 64

/** A backend as the choice sees it: what this round has promised it already counts as load. */
interface Choosable extends Candidate {
  readonly link: BackendLink
  load: number
}

/** What all services of a worker share. */
interface Surroundings {
  readonly poller: Poller
  readonly farewell: Farewell
  readonly metrics: Metrics
  readonly logger: Logger
}

/**
 * The connections of one service between accept and outcome: chooses a backend for each, offers, and goes down the
 * ladder (next backend, hold, reject) with what comes back. Owner of every client descriptor on that way, of the order in
 * which clients wait, and of the counts.
 *
 * At rest: accepted = sum of outcomes + held + in flight (invariant I4).
 */
export class Service implements LinkHost {
  readonly name: string
  readonly config: ServiceConfig
  readonly tally = new Tally()
  readonly #links = new Map<string, BackendLink>()
  readonly #chooser: Chooser
  readonly #hold: HoldQueue
  readonly #farewell: Farewell
  readonly #metrics: Metrics
  readonly #logger: Logger
  readonly #fresh: ClientConnection[] = []
  readonly #idle: (() => void)[] = []
  #stopped = false

  constructor(name: string, config: ServiceConfig, surroundings: Surroundings) {
    this.name = name
    this.config = config
    const { poller, farewell, metrics, logger } = surroundings
    this.#farewell = farewell
    this.#metrics = metrics
    this.#logger = logger
    this.#chooser = createChooser(config.balance)
    this.#hold = new HoldQueue(poller, config.holdTimeout, {
      clientGone: (connection) => {
        this.tally.outcomes.client_gone += 1
        connection.fd.close()
        this.#noteIdle()
      },
      timedOut: (connection) => this.#reject(connection, 'hold_timeout', this.#whyNobody()),
    })
  }

  get links(): Iterable<BackendLink> {
    return this.#links.values()
  }

  get held(): number {
    return this.#hold.size
  }

  get inFlight(): number {
    let sum = this.#fresh.length
    for (const link of this.#links.values()) sum += link.counts.inFlight
    return sum
  }

  get stuck(): number {
    let sum = 0
    for (const link of this.#links.values()) sum += link.counts.stuck
    return sum
  }

  /** A client was accepted. It is offered with all the others of this wake-up, in `flush`. */
  arrive(connection: ClientConnection): void {
    this.#fresh.push(connection)
  }

  flush(): void {
    if (this.#fresh.length === 0) return
    const fresh = this.#fresh.splice(0)
    if (this.#hold.size === 0) return this.#place(fresh)
    // First come, first served: nobody overtakes those who wait.
    for (const connection of fresh) this.#wait(connection, this.#whyNobody())
    this.available()
  }

  link(slot: string): BackendLink | undefined {
    return this.#links.get(slot)
  }

  joined(link: BackendLink): void {
    this.#links.set(link.id, link)
    this.available()
  }

  /** Resolves when no client is on its way or waits any more. Those that wait go on hoping for a backend until `close`. */
  async drained(): Promise<void> {
    this.flush()
    if (this.held + this.inFlight > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /** Gives up: who still waits is rejected, the backends are let go. */
  close(): void {
    this.#stopped = true
    for (const connection of this.#hold.take(this.#hold.size))
      this.#reject(connection, 'shutdown', 'NoReadyBackend')
    for (const link of this.#links.values()) link.close()
    this.#hold.close()
  }

  publish(): void {
    const service = this.name
    const metrics = this.#metrics
    this.tally.publish(service, metrics)
    metrics.connectionsHeld.set({ service }, this.held)
    metrics.handoffsInFlight.set({ service }, this.inFlight)
    const states = Object.fromEntries(BACKEND_STATES.map((state) => [state, 0]))
    for (const link of this.#links.values()) {
      states[link.state] = (states[link.state] ?? 0) + 1
      metrics.backendConnections.set({ service, backend: link.id }, link.load)
    }
    for (const state of BACKEND_STATES) metrics.backends.set({ service, state }, states[state] ?? 0)
  }

  // What the links say.

  handedOff(connection: ClientConnection): void {
    this.tally.outcomes.handed_off += 1
    connection.fd.close()
    const seconds = (performance.now() - connection.acceptedAt) / 1000
    this.#metrics.handoffDuration.observe({ service: this.name }, seconds)
    this.#noteIdle()
  }

  returned(connections: readonly ClientConnection[], failure: Failure): void {
    this.tally.failed(failure.code, connections.length)
    // Status flags belong to the description that the backend shared: it may have made the socket blocking (I8).
    for (const { fd } of connections) setNonblocking(fd.fd, true)
    const { next } = decide(failure.code)
    if (next === 'never-reoffered') connections.forEach((connection) => this.relinquished(connection))
    else if (next === 'next-backend') this.#place(connections, failure.code)
    else for (const connection of connections) this.#wait(connection, failure.code)
    this.#noteIdle()
  }

  relinquished(connection: ClientConnection): void {
    this.tally.outcomes.relinquished += 1
    connection.fd.close()
    this.#noteIdle()
  }

  tokenRejected(reason: NackReason): void {
    this.tally.refusedBy(reason)
  }

  lateAnswer(): void {
    this.tally.lateAnswers += 1
  }

  /** Somebody may have room: offers to those who wait, in their order. */
  available(): void {
    if (this.#hold.size === 0) return
    const ready = this.#ready().length
    if (ready > 0) this.#place(this.#hold.take(ready * PUMP_BATCH))
  }

  ended(link: BackendLink): void {
    this.#links.delete(link.id)
    this.#metrics.removeBackend(this.name, link.id)
    this.#logger.info(
      { backend: link.identity.ulid, slot: link.id, service: this.name },
      'backend deregistered',
    )
  }

  /** Offers each connection to a backend that it was not offered to yet, until all are on their way or nobody is left. */
  #place(connections: readonly ClientConnection[], after?: FallbackReason): void {
    let why = after
    let rest = connections
    while (rest.length > 0) {
      const groups = this.#assign(rest, why)
      const failed: ClientConnection[] = []
      for (const [link, group] of groups) {
        const refused = link.offer(group)
        if (refused === undefined) continue
        const unsent = group.slice(refused.from)
        why = refused.failure.code
        this.tally.failed(why, unsent.length)
        const { next } = decide(why)
        if (next === 'next-backend') failed.push(...unsent)
        else for (const connection of unsent) this.#wait(connection, why)
      }
      rest = failed
    }
  }

  /** One backend for each connection; those for which there is none go to wait. */
  #assign(connections: readonly ClientConnection[], why: FallbackReason | undefined) {
    const ready = this.#ready()
    const groups = new Map<BackendLink, ClientConnection[]>()
    for (const connection of connections) {
      const chosen = this.#choose(ready, connection)
      if (chosen === undefined) {
        this.#wait(connection, why ?? this.#whyNobody())
        continue
      }
      if (why !== undefined) this.tally.fellBack('next_backend', why)
      chosen.load += 1
      connection.tried ??= new Set()
      connection.tried.add(chosen.id)
      const group = groups.get(chosen.link)
      if (group) group.push(connection)
      else groups.set(chosen.link, [connection])
    }
    return groups
  }

  #choose(ready: readonly Choosable[], { tried, peer }: ClientConnection): Choosable | undefined {
    const untried = tried === undefined ? ready : ready.filter(({ id }) => !tried.has(id))
    const key =
      this.config.balance === 'source-hash' && peer.family !== 'unix' ? { source: peer.address } : {}
    return this.#chooser.choose(untried, key)
  }

  #ready(): Choosable[] {
    if (this.#stopped || this.config.handoff === 'off') return []
    const ready: Choosable[] = []
    for (const link of this.#links.values()) {
      if (link.state !== 'ready') continue
      ready.push({ id: link.id, weight: link.weight, load: link.load, link })
    }
    return ready
  }

  #whyNobody(): FallbackReason {
    if (this.config.handoff === 'off') return 'ServicePolicyDisabled'
    for (const link of this.#links.values()) if (link.state === 'paused') return 'FailedAttemptRateLimited'
    return 'NoReadyBackend'
  }

  /** Keeps the client, unread, until somebody can take it, or its time or the room is spent. */
  #wait(connection: ClientConnection, why: FallbackReason): void {
    connection.tried = undefined
    if (this.#stopped) return this.#reject(connection, 'shutdown', why)
    if (performance.now() - connection.acceptedAt >= this.config.holdTimeout) {
      return this.#reject(connection, 'hold_timeout', why)
    }
    if (this.#hold.size >= this.config.maxHeld) return this.#reject(connection, 'hold_full', why)
    this.tally.fellBack('hold', why)
    this.#hold.add(connection)
  }

  #reject(connection: ClientConnection, reason: RejectionReason, why: FallbackReason): void {
    this.tally.rejected(reason)
    this.tally.fellBack('reject', why)
    this.#farewell.reject(connection)
    this.#noteIdle()
  }

  #noteIdle(): void {
    if (this.#idle.length > 0 && this.held + this.inFlight === 0)
      for (const resolve of this.#idle.splice(0)) resolve()
  }
}
