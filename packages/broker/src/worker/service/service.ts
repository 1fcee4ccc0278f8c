import type { Socket } from 'node:net'
import type { GivenBackReason, HandBack, HandBackKind, NackReason } from '@baton/backend-sdk/protocol'
import { NativeError, type OwnedFd, type SocketAddress } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { Change } from '../../api/events.ts'
import type { Control } from '../../ipc/controls.ts'
import type { Shift } from '../../api/shift.ts'
import type { ListenerConfig, ServiceConfig } from '../../config/config.ts'
import {
  type ClientConnection,
  InheritedClient,
  nextArrival,
  type ParkedClient,
} from '../connection/connection.ts'
import type { Keeper } from '../copies/keeper.ts'
import { consequenceOf, type Failure } from '../connection/failure.ts'
import type { ResumeState } from '../connection/resume-state.ts'
import type { LingeringClose } from '../reject/lingering-close.ts'
import { BACKEND_STATES, type FallbackReason, type NotTakenReason } from '../../metrics/labels.ts'
import type { Metrics } from '../../metrics/metrics.ts'
import { type Os, systemOs, type Watcher } from '../os.ts'
import { noRecorder, type Recorder } from '../recorder/recorder.ts'
import type { BackendLink } from '../backend/backend-link.ts'
import type { HandBackCounts } from '../backend/hand-back-tally.ts'
import type {
  BackendIdentity,
  EndedLink,
  HandBackOrigin,
  LinkHost,
  ResumableHandBack,
} from '../backend/link-host.ts'
import { Parking } from '../park/parking.ts'
import { Relays } from '../relay/relays.ts'
import { Rebalancer } from '../resume/rebalancer.ts'
import { Resuming } from '../resume/resuming.ts'
import { Upstream, type UpstreamHost } from '../relay/upstream.ts'
import type { Capacity } from '../agent-check/answer.ts'
import { type HandoffCandidate, handoffCandidates, inOrder, markTried } from './candidates.ts'
import { Fallback } from './fallback.ts'
import { HandOver, type Successor, type Waiting } from './hand-over.ts'
import { HandBackNotices } from './hand-back-notices.ts'
import { Placement } from './placement.ts'
import { ServiceStats } from './service-stats.ts'
import { Shifting } from './shifting.ts'

/** How many held connections to offer per ready backend at a time; each ACK triggers the next batch. */
const PUMP_BATCH = 64
/** The same for each relay that has begun: twice as many at a time until none is held, as many as the upstream has shown that it takes. */
const HELD_PER_RELAY = 2

/** Shared by all services of a worker. */
interface ServiceDeps {
  readonly poller: Watcher
  readonly lingeringClose: Pick<LingeringClose, 'reject'>
  readonly metrics: Metrics
  readonly logger: Logger
  /** A backend answered; the poller may deliver connections it was holding back. */
  readonly acknowledged?: () => void
  /** Records every step of every connection. Default: none. */
  readonly recorder?: Recorder
  /** Counts have changed by which each connection has exactly one outcome. */
  readonly counted?: () => void
  /** Sends a change to the event streams. */
  readonly announce?: (change: Change) => void
  /** Takes a connection that was parked, and whose next request may be for another service; false if it is not to be routed again. */
  readonly reroute?: (connection: ClientConnection) => boolean
  /** Listeners of a service, as they are now. */
  readonly listeners?: (service: string) => readonly ListenerOfService[]
  /** Has copies of the connections that wait. Default: none are kept. */
  readonly keeperOf?: (service: string) => Keeper
  /** Default: the real system. */
  readonly os?: Os
}

/** The properties of a listener that identify its connections. */
export interface ListenerOfService extends Pick<ListenerConfig, 'name' | 'protocol'> {
  couldHaveAccepted(local: SocketAddress): boolean
}

/**
 * The connections of one service between accept and outcome: chooses a backend for each, offers it, and tries the next backend when
 * it comes back; connections without a backend go to the `Fallback`. Owns the client descriptors until an outcome, and the counters.
 *
 * At rest: accepted + handed back = sum of outcomes + held + parked + in flight (invariants I4 and M9).
 */
export class Service implements LinkHost, UpstreamHost {
  readonly name: string
  readonly config: ServiceConfig
  readonly serviceStats = new ServiceStats()
  readonly shifting: Shifting
  readonly #links = new Map<string, BackendLink>()
  readonly #placement: Placement
  readonly #handOver: HandOver
  readonly #fallback: Fallback
  readonly #parking: Parking
  readonly #notices: HandBackNotices
  readonly #resuming: Resuming
  readonly #rebalancer: Rebalancer
  readonly #listeners: () => readonly ListenerOfService[]
  readonly #os: Os
  readonly #relays: Relays
  readonly #upstreams: readonly Upstream[]
  readonly #metrics: Metrics
  readonly #logger: Logger
  readonly #recorder: Recorder
  readonly #acknowledged: () => void
  readonly #counted: () => void
  readonly #reroute: (connection: ClientConnection) => boolean
  readonly #fresh: ClientConnection[] = []
  readonly #idle: (() => void)[] = []
  readonly #unlinked: (() => void)[] = []
  readonly #whenIdle: (() => void)[] = []
  readonly #whenMoved: (() => void)[] = []
  #stopped = false
  /** No idle connection is kept from now on. */
  #ending = false

  constructor(name: string, config: ServiceConfig, deps: ServiceDeps) {
    this.name = name
    this.config = config
    this.shifting = new Shifting(config, this.serviceStats)
    const { poller, lingeringClose, metrics, logger, os = systemOs } = deps
    const { acknowledged = () => {}, counted = () => {} } = deps
    const { recorder = noRecorder, listeners = () => [], announce = () => {}, reroute = () => false } = deps
    this.#listeners = () => listeners(name)
    const keeper = deps.keeperOf?.(name)
    this.#parking = new Parking(
      poller,
      {
        awake: (connection) => this.#awake(connection),
        over: (connections) => this.#idleClosed(connections),
        flush: () => this.flush(),
      },
      os,
      keeper,
    )
    this.#notices = new HandBackNotices(name, logger, announce, () => os.now())
    this.#resuming = new Resuming(this.#links)
    const parked = () => (config.parkAfter === null ? this.parkedCount : 0)
    this.#rebalancer = new Rebalancer(() => this.#spread(), parked, os)
    this.#recorder = recorder
    this.#acknowledged = acknowledged
    this.#counted = counted
    this.#reroute = reroute
    this.#os = os
    this.#relays = new Relays(os, () => this.noteIdle())
    this.#metrics = metrics
    this.#logger = logger
    this.#upstreams = config.upstreams.map(
      ({ address, weight }) => new Upstream(address, weight, config.ackDeadline, this, os),
    )
    const { serviceStats } = this
    this.#handOver = new HandOver(
      {
        waiting: () => this.held,
        take: (count) => this.#fallback.take(count),
        wait: (connections) => connections.filter((connection) => !this.#fallback.wait(connection)),
        stay: (connections) => {
          this.#fallback.leaving = false
          this.#placement.place(connections)
          // Those whose turn had not come.
          this.available()
        },
        park: (connection) => this.#park(connection),
        moved: () => this.noteIdle(),
      },
      { parking: this.#parking, serviceStats, recorder, os },
    )
    this.#placement = new Placement(
      {
        candidates: () => this.#handoffCandidates(),
        noBackendReason: () => this.#fallback.noBackendReason(),
        fallBack: (connection, why) => this.#fallBack(connection, why),
      },
      { config, serviceStats, shifting: this.shifting, recorder, os },
    )
    const parts = {
      service: name,
      config,
      links: this.#links,
      upstreams: this.#upstreams,
      poller,
      lingeringClose,
    }
    this.#fallback = new Fallback({
      ...parts,
      serviceStats,
      shifting: this.shifting,
      recorder,
      logger,
      os,
      keeper,
      retry: () => this.available(),
      settled: () => this.noteIdle(),
    })
  }

  get links(): Iterable<BackendLink> {
    return this.#links.values()
  }

  get held(): number {
    return this.#fallback.size
  }

  /** Its state for agent checks. */
  get capacity(): Capacity {
    const { instances, command, holdTimeout, upstreams } = this.config
    const states = [...this.#links.values()].map(({ eligibility }) => eligibility.state)
    const since = this.#fallback.heldSince
    return {
      service: this.name,
      ready: states.filter((state) => state === 'ready').length,
      // Of backends that Baton does not start, only those are known that have registered.
      expected: command === null ? states.filter((state) => state !== 'draining').length : instances,
      relays: upstreams.length > 0,
      heldFor: since === undefined ? 0 : Math.max(0, this.#os.now() - since),
      holdTimeout,
    }
  }

  /** @param shift undefined: all backends are chosen alike again */
  shift(shift: Shift | undefined): void {
    if (this.shifting.set(shift)) this.available()
  }

  /** Idle connections that backends have handed back. */
  get parkedCount(): number {
    return this.#parking.size
  }

  get inFlight(): number {
    let sum = this.#fresh.length
    for (const upstream of this.#upstreams) sum += upstream.dialling
    for (const link of this.#links.values()) sum += link.inFlight
    return sum
  }

  /** Connections being relayed. */
  get relaying(): number {
    return this.#relays.size
  }

  get stuck(): number {
    let sum = 0
    for (const link of this.#links.values()) sum += link.stuck
    return sum
  }

  /**
   * True when several offers are unanswered, at as many backends as can run at the same time: new clients may then wait in the
   * kernel for a moment, to be offered together. A single client is offered immediately, and stuck backends are not waited for.
   */
  get busy(): boolean {
    const now = this.#os.now()
    let able = 0
    let busy = 0
    let offers = 0
    for (const link of this.#links.values()) {
      if (link.eligibility.state !== 'ready') continue
      if (link.isBusy(now)) {
        busy += 1
        offers += link.expectedAcks
      } else if (link.expectedAcks > 0) continue
      able += 1
    }
    return offers > 1 && busy >= Math.min(able, this.#os.parallelism)
  }

  /** Orders of operators that apply: a pause, maintenance. */
  get controlled(): Control {
    return this.#fallback.control
  }

  control(control: Control): void {
    this.#fallback.control = control
    this.available()
  }

  /** Takes a newly accepted client, or one that was parked. `flush` offers all clients of one wake-up together. */
  arrive(connection: ClientConnection): void {
    if (connection.handedBack === undefined) this.serviceStats.accepted += 1
    this.#begin(connection)
    this.#fresh.push(connection)
  }

  flush(): void {
    if (this.#fresh.length === 0) return
    const fresh = this.#fallback.refuse(this.#fresh.splice(0))
    if (fresh.length === 0) return
    if (this.#fallback.held.size === 0) return this.#placement.place(fresh)
    // First come, first served: new clients queue behind held ones.
    for (const connection of fresh) if (!this.#fallback.queue(connection)) this.#handOver.pass([connection])
    this.available()
  }

  joined(link: BackendLink): void {
    this.#links.set(link.id, link)
    this.#fallback.forgetRefusals(link.id)
    this.available()
  }

  /**
   * Another worker takes over: makes no further offers. Held connections, and those that come back later, go to `successor` with
   * their descriptors, in order of arrival, and parked ones after them, all in slices; offers in flight settle here. If it is called again, the successor has
   * died and this is the next one.
   */
  handOver(successor: Successor): void {
    this.#handOver.begin(successor)
    this.#fallback.leaving = true
    this.#handOver.start()
    this.#handOver.pass(this.#fresh.splice(0))
    this.noteIdle()
  }

  /** The successor has ended before these reached it. @param fds their descriptors, in the same order */
  takeBack(connections: readonly Waiting[], fds: readonly OwnedFd[]): void {
    this.#handOver.takeBack(connections, fds, ({ block, giver }) => this.inheritState(block, giver))
  }

  /** Takes connections that a predecessor held, in order of arrival. */
  inherit(connections: readonly ClientConnection[]): void {
    this.serviceStats.movedIn += connections.length
    for (const connection of connections) this.#begin(connection)
    this.#recorder.note('moved', connections, this.#os.now())
    this.#fresh.push(...connections)
    this.flush()
  }

  /** Keeps the state of a connection that a predecessor held; `inherit` follows. */
  inheritState(block: ResumeState['block'], giver: string): ResumeState {
    return this.#resuming.keep(block, giver, () => {})
  }

  /** Connections that were parked at a predecessor. */
  inheritParked(connections: readonly ParkedClient[]): void {
    this.serviceStats.movedIn += connections.length
    this.#recorder.returned('moved', connections, this.name, this.#os.now())
    this.#handOver.keep(connections)
  }

  /** Resolves when no connection is in flight, held, parked, or on its way to the successor. */
  async idle(): Promise<void> {
    if (this.#waiting > 0) await new Promise<void>((resolve) => this.#whenIdle.push(resolve))
  }

  /** Resolves when no connection waits for its turn to go to the successor, and none is on its way. */
  async moved(): Promise<void> {
    if (this.#isMoving) await new Promise<void>((resolve) => this.#whenMoved.push(resolve))
  }

  /** No idle connection is kept from now on: those that are here go to backends, if there are any, which keep them for the rest of their time. */
  returnParked(): void {
    if (this.#handoffCandidates().length === 0) return
    this.#ending = true
    for (const parked of this.#parking.take()) this.arrive(this.#again(parked, parked.idleUntil))
    this.flush()
  }

  /** Disconnects the backends; resolves when each link has returned its connections. */
  async letGo(): Promise<void> {
    for (const link of this.#links.values()) link.close()
    if (this.#links.size > 0) await new Promise<void>((resolve) => this.#unlinked.push(resolve))
  }

  /** Resolves when no connection is in flight, held or relayed. Held connections can still get a backend until `close`. */
  async drained(): Promise<void> {
    if (!this.#isMoving) this.#endParking()
    this.flush()
    if (!this.#isIdle()) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /** Its deadline is over: rejects held connections, unless they are moving, and cuts relays. */
  cutShort(): void {
    if (!this.#isMoving) this.#endParking()
    this.flush()
    this.#stopped = true
    if (!this.#isMoving) this.#fallback.close()
    this.#relays.close()
  }

  /** Rejects held connections, and cuts relays. Otherwise like `letGo`. */
  async close(): Promise<void> {
    this.#endParking()
    this.flush()
    this.#stopped = true
    this.#fallback.close()
    const ended = this.letGo()
    this.#relays.close()
    await ended
  }

  publish(): void {
    const service = this.name
    const metrics = this.#metrics
    this.serviceStats.publish(service, metrics, this.#relays.bytes)
    metrics.connectionsHeld.set({ service }, this.held)
    metrics.connectionsParked.set({ service }, this.parkedCount)
    metrics.handoffsInFlight.set({ service }, this.inFlight)
    metrics.relayConnections.set({ service }, this.relaying)
    // The sum over all workers: only the one that serves counts.
    const { paused, maintenance } = this.controlled
    const counts = !this.#handOver.active && !this.#stopped
    metrics.servicePaused.set({ service }, counts && paused !== null ? 1 : 0)
    metrics.serviceMaintenance.set({ service }, counts && maintenance !== null ? 1 : 0)
    const states = Object.fromEntries(BACKEND_STATES.map((state) => [state, 0]))
    for (const link of this.#links.values()) {
      const { state } = link.eligibility
      states[state] = (states[state] ?? 0) + 1
      metrics.backendConnections.set({ service, backend: link.id }, link.load)
    }
    for (const state of BACKEND_STATES) metrics.backends.set({ service, state }, states[state] ?? 0)
  }

  // Called by links and upstreams.

  handedOff(connections: readonly ClientConnection[], version: string | null = null): void {
    const now = this.#os.now()
    this.serviceStats.outcomes.handed_off += connections.length
    this.#recorder.note('acknowledged', connections, now)
    this.#os.closeClients(connections)
    this.#recorder.note('released', connections, this.#os.now())
    for (const connection of connections) {
      const { acceptedAt, handedBack, resume } = connection
      this.shifting.got(connection, version)
      if (handedBack !== undefined) {
        this.serviceStats.resumed(handedBack)
        const pause = { service: this.name, kind: handedBack }
        this.#metrics.handBackPause.observe(pause, (now - acceptedAt) / 1000)
      }
      resume?.settled('resumed')
      this.serviceStats.latency.observe(now - acceptedAt)
      this.#metrics.handoffDuration.observe({ service: this.name }, (now - acceptedAt) / 1000)
    }
    this.noteIdle()
    this.#acknowledged()
  }

  relayed(connection: ClientConnection, upstream: Socket, version: string | null = null): void {
    this.serviceStats.outcomes.relayed += 1
    this.shifting.got(connection, version)
    this.#recorder.note('relayed', [connection], this.#os.now())
    this.#relays.begin(connection, upstream, () =>
      this.#recorder.note('closed', [connection], this.#os.now()),
    )
    this.noteIdle()
    // An upstream that is back gets those that are held, ever more at a time. Rounds alone would leave thousands waiting for long.
    this.#offerHeld(HELD_PER_RELAY)
  }

  returned(connections: readonly ClientConnection[], failure: Failure, by: string): void {
    this.serviceStats.failed(failure.code, connections.length)
    this.#recorder.note('returned', connections, this.#os.now(), undefined, failure.code)
    for (const connection of connections) {
      markTried(connection, by)
      // The backend shared the open file: it may have made the socket blocking (I8), or, with SO_LINGER, its close.
      this.#os.takeBack(connection.fd.fd)
    }
    const { next } = consequenceOf(failure.code)
    if (next === 'never-reoffered') connections.forEach((connection) => this.relinquished(connection))
    else if (next === 'next-backend') this.#placement.place(inOrder(connections), failure.code)
    else for (const connection of inOrder(connections)) this.#fallBack(connection, failure.code)
    this.noteIdle()
  }

  relinquished(connection: ClientConnection): void {
    this.serviceStats.outcomes.relinquished += 1
    this.#recorder.note('relinquished', [connection], this.#os.now())
    this.#os.closeClients([connection])
    connection.resume?.settled('ended')
    this.noteIdle()
  }

  listenerOf(fd: number, name: string): HandBackOrigin {
    const local = this.#os.local(fd)
    if (local === undefined) return 'foreign'
    const listeners = this.#listeners()
    const found = listeners.find((listener) => listener.couldHaveAccepted(local))
    // The same object for all its connections: thousands of them may be parked.
    if (found !== undefined) return found
    // Connections that came from a predecessor may be of a listener of this name that had another address.
    const known = this.serviceStats.movedIn === 0 && listeners.some((listener) => listener.name === name)
    return known ? 'foreign' : 'gone'
  }

  handBackRefusal(entry: HandBack, giver: string, before: number): GivenBackReason | undefined {
    if (this.#ending) return 'Stopping'
    if (entry.kind === 'idle') return undefined
    // It may have to wait for its next backend, and where it cannot, it would be closed: its giver serves it better.
    const { maxHeld, holdTimeout } = this.config
    if (holdTimeout === 0 || this.held >= maxHeld || this.#fallback.isPaused) return 'TooMany'
    return this.#resuming.refusal(entry, giver, before)
  }

  toResume(hand: ResumableHandBack): ClientConnection {
    return this.#resuming.arrival(hand, this.#os)
  }

  taken(connections: readonly ClientConnection[]): void {
    this.#counted()
    for (const connection of connections) {
      this.serviceStats.handedBack(connection.handedBack as HandBackKind, 1)
      // Rule: RESET_FLAGS (docs/internals/model). The giver may have changed them.
      this.#os.takeBack(connection.fd.fd)
      this.#recorder.again('handed_back', connection, this.name, this.#os.now())
      this.#fresh.push(connection)
    }
    this.flush()
  }

  parked(connections: readonly ParkedClient[], giver: BackendIdentity): void {
    this.#counted()
    this.serviceStats.handedBack('idle', connections.length)
    this.#recorder.returned('handed_back', connections, this.name, this.#os.now(), giver)
    // Rule: RESET_FLAGS (docs/internals/model). The giver may have changed them.
    for (const { fd } of connections) this.#os.takeBack(fd.fd)
    this.#handOver.keep(connections)
  }

  notTaken(kind: HandBackKind, reason: NotTakenReason, times: number, giver: BackendIdentity): void {
    this.serviceStats.notTaken(kind, reason, times)
    this.#notices.notTaken(giver, reason, times)
  }

  drainOver(giver: BackendIdentity, counts: HandBackCounts): void {
    this.#notices.drained(giver, counts)
  }

  tokenRejected(reason: NackReason): void {
    this.serviceStats.refusedBy(reason)
  }

  lateAnswer(): void {
    this.serviceStats.lateAnswers += 1
  }

  /** A backend may have room: offers held connections, in order. */
  available(): void {
    this.#offerHeld(PUMP_BATCH)
  }

  /** @param each how many for each backend and upstream */
  #offerHeld(each: number): void {
    if (this.#fallback.size === 0) return
    const ready = this.#handoffCandidates()
    const able = ready.length + this.#fallback.relayCandidates().length
    if (able === 0) return
    this.#placement.place(this.#fallback.takeForCertain(ready, able * each))
    if (this.#fallback.held.size === 0) return
    const connections = this.#fallback.held.take(able * each)
    this.#fallback.startOver(connections, ready)
    this.#placement.place(connections)
  }

  resumable(slot: string): void {
    this.#fallback.forgetRefusals(slot)
    this.available()
  }

  reported(): void {
    this.#rebalancer.check()
  }

  ended(link: EndedLink): void {
    this.#links.delete(link.id)
    this.#notices.forget(link.identity)
    // After the link has returned its connections, which follows this call.
    if (this.#links.size === 0) for (const resolve of this.#unlinked.splice(0)) queueMicrotask(resolve)
    this.#metrics.removeBackend(this.name, link.id)
    this.#logger.info(
      { backend: link.identity.ulid, slot: link.id, service: this.name },
      'backend deregistered',
    )
  }

  #fallBack(connection: ClientConnection, why: FallbackReason): void {
    if (!this.#fallback.fallBack(connection, why)) this.#handOver.pass([connection])
  }

  #park(connection: ParkedClient): void {
    if (this.#ending) return this.#idleClosed([connection])
    try {
      this.#parking.add(connection)
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#logger.error({ service: this.name, code: error.code }, 'an idle connection cannot be watched')
      this.#idleClosed([connection])
    }
  }

  /** Its next request is there: it arrives like a new client, behind those that came before. */
  #awake(parked: ParkedClient): void {
    const connection = this.#again(parked)
    if (this.#reroute(connection)) this.serviceStats.rerouted += 1
    else this.arrive(connection)
  }

  /** @param quietUntil of one whose next request has not come */
  #again({ fd, listener, id, record, proxied }: ParkedClient, quietUntil?: number): InheritedClient {
    return new InheritedClient(fd, {
      order: nextArrival(),
      listener,
      peer: this.#os.peer(fd.fd),
      id,
      acceptedAt: this.#os.now(),
      handedBack: 'idle',
      ...(quietUntil !== undefined && { quietUntil }),
      record,
      proxied,
    })
  }

  /** Begins its record, or goes on with it. */
  #begin(connection: ClientConnection): void {
    const { handedBack, acceptedAt } = connection
    if (handedBack === undefined) return this.#recorder.accepted(connection, this.name)
    this.#recorder.again(handedBack === 'idle' ? 'awake' : 'handed_back', connection, this.name, acceptedAt)
  }

  #idleClosed(connections: readonly ParkedClient[]): void {
    this.serviceStats.outcomes.idle_closed += connections.length
    this.#recorder.note('idle_closed', connections, this.#os.now())
    this.#os.closeClients(connections.map(({ fd }) => ({ fd, peer: this.#os.peer(fd.fd) })))
    this.noteIdle()
  }

  #endParking(): void {
    this.#ending = true
    this.#parking.end()
  }

  /** Called when a connection is no longer in flight, held, parked or relayed. */
  noteIdle(): void {
    this.#counted()
    if (this.#whenIdle.length > 0 && this.#waiting === 0) {
      for (const resolve of this.#whenIdle.splice(0)) resolve()
    }
    if (this.#whenMoved.length > 0 && !this.#isMoving)
      for (const resolve of this.#whenMoved.splice(0)) resolve()
    if (this.#idle.length > 0 && this.#isIdle()) for (const resolve of this.#idle.splice(0)) resolve()
  }

  #handoffCandidates(): HandoffCandidate[] {
    const { isPaused } = this.#fallback
    if (this.#stopped || this.#handOver.active || isPaused || this.config.handoff === 'off') return []
    return handoffCandidates(this.#links.values())
  }

  /** Between which connections may move, now; none while this worker hands over. Under `source-hash` they would come back, in a shift change sides. */
  #spread(): BackendLink[] {
    if (this.#stopped || this.#handOver.active || this.config.balance === 'source-hash') return []
    if (this.shifting.shift !== undefined) return []
    return this.#handoffCandidates().flatMap(({ link }) => (link.hasReported ? [link] : []))
  }

  /** Connections that a worker which is being replaced has to settle, or to pass on. */
  get #waiting(): number {
    return this.held + this.inFlight + this.parkedCount + this.#handOver.underWay
  }

  get #isMoving(): boolean {
    return this.#handOver.active && this.held + this.parkedCount + this.#handOver.underWay > 0
  }

  #isIdle(): boolean {
    return this.held + this.inFlight + this.relaying === 0
  }
}
