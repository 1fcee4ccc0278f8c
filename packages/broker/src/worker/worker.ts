import { systemClock } from '@baton/backend-sdk/protocol'
import { localAddress, type OwnedFd, Poller } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { ulid } from 'ulid'
import { LateAdmin } from './admin/late-admin.ts'
import { HostState } from './agent-check/host-state.ts'
import { outputFolder } from '../log/kept/files.ts'
import type { WorkerView } from './admin/view.ts'
import type { DrainResult, ReloadResult, Status } from '../api/status.ts'
import type { Control, Controls } from '../ipc/controls.ts'
import type { BackendReport, KnownBackends, SocketRole } from '../ipc/messages.ts'
import type { Config, ListenerConfig, ServiceConfig } from '../config/config.ts'
import { drainDeadlineOf } from '../config/service-rules.ts'
import { type Address, formatAddress } from '../config/address.ts'
import { type ClientConnection, InheritedClient, type ParkedClient } from './connection/connection.ts'
import type { ResumeState } from './connection/resume-state.ts'
import type { History, HistoryPoints } from '../api/history.ts'
import { EventFeed } from './events/event-feed.ts'
import { ServiceHistory } from './events/history.ts'
import type { Change } from '../api/events.ts'
import type { ScaleReply } from '../api/scale.ts'
import type { ScaleTarget } from '../config/instances.ts'
import type { Shift, Shifts } from '../api/shift.ts'
import { LingeringClose } from './reject/lingering-close.ts'
import { sharedReserve } from './listen/descriptor-reserve.ts'
import { Listener } from './listen/listener.ts'
import { Metrics } from '../metrics/metrics.ts'
import type { MetricSnapshot } from '../metrics/snapshot.ts'
import { oneAtATime } from '../metrics/one-at-a-time.ts'
import { FlightRecorder } from './recorder/flight-recorder.ts'
import { publishing } from './recorder/published-recorder.ts'
import { noRecorder } from './recorder/recorder.ts'
import type { BackendLink } from './backend/backend-link.ts'
import type { ManagedProcesses } from './registry/managed-processes.ts'
import { Registry } from './registry/registry.ts'
import type { TicketKeys } from '../ipc/ticket-keys.ts'
import { Doorways } from './route/doorways.ts'
import { sweepRelaySockets } from './relay/relay-sockets.ts'
import { systemOs } from './os.ts'
import { ServiceControls } from './control/service-controls.ts'
import type { Copier } from './copies/copier.ts'
import { monotonic } from './copies/held-client.ts'
import { noKeeper } from './copies/keeper.ts'
import { fieldsOf, type Successor, type Waiting } from './service/hand-over.ts'
import { Service } from './service/service.ts'
import { AgentCheck } from '../listening/agent-check.ts'
import { openSockets, removeSocket, type Sockets } from '../listening/sockets.ts'
import { BROKER_VERSION } from '../version.ts'
import { backendReports, connectionCount, countedOf, serviceStatus } from './view.ts'

/** How long agent checks wait for backends of a predecessor to register, in ms: as a reload does. */
const RETURN_TIMEOUT_MS = 2000

export interface WorkerOptions {
  readonly logger: Logger
}

/** Resources and callbacks that a master provides. Without a master, the worker creates its own. */
export interface WorkerContext {
  readonly sockets: Sockets
  /** The listening socket of the admin server. */
  readonly admin: OwnedFd
  readonly poller: Poller
  /** Backends of a predecessor. */
  readonly known: KnownBackends
  /** Processes that the master runs. */
  readonly managed: ManagedProcesses
  /** A backend has registered or gone, or its health has changed. */
  readonly onBackends: () => void
  /** Counters of the broker's other processes. */
  readonly collect: () => Promise<readonly MetricSnapshot[]>
  readonly reload: (by: string, wait: boolean) => Promise<ReloadResult>
  /** Orders of operators that apply; see `ReplaceableWorker.control`. */
  readonly controls: Controls
  /** An operator has ordered something here. */
  readonly onControl: (service: string, control: Control) => void
  /** Shifts in force. */
  readonly shifts: Shifts
  /** Keys for TLS session tickets. */
  readonly tickets: TicketKeys
  /** Begins a shift of a service, or ends it. */
  readonly requestShift: (service: string, shift: Shift | undefined, by: string) => Promise<ReloadResult>
  /** Of earlier workers, for the charts of the status page; and where each new point goes. */
  readonly history: History
  readonly onHistory: (points: HistoryPoints) => void
  /** Changes the number of instances of a service. */
  readonly requestScale: (service: string, target: ScaleTarget, by: string) => Promise<ScaleReply>
  /** Log lines that this process has dropped. */
  readonly droppedLines: () => number
  /** Keeps copies of what waits, and the accounts. Undefined if the master does not. */
  readonly copier: Copier | undefined
  /** Pid of the master; null while there is none. */
  readonly master: () => number | null
}

/** Everything that serves connections in one process. There is one per process. */
export interface Worker {
  /** ULID of this broker process. */
  readonly id: string
  /** Listener name -> address as bound. */
  readonly addresses: ReadonlyMap<string, string>
  readonly adminAddress: string
  readonly controlPath: string
  status(): Status
  /**
   * Stops accepting and waits up to `deadline` milliseconds, and up to the deadline of each service, until every accepted client has been handed off; rejects the rest.
   * Then disconnects the backends; adopted connections are unaffected.
   */
  drain(deadline: number): Promise<void>
  /** Like `drain`, without waiting. */
  close(): Promise<void>
}

/** A worker run by a master, which tells it when to serve, accept and hand over. */
export interface ReplaceableWorker extends Worker {
  /** Loads the code of the admin server. */
  loadAdmin(): Promise<void>
  /**
   * Starts to register backends, the first time also to answer the admin API. May be called again after `pause`.
   *
   * @param administers false if `administer` follows
   */
  serve(administers?: boolean): Promise<void>
  /** Starts to answer the admin API; rejects if it cannot. */
  administer(): Promise<void>
  /** Starts to accept clients. */
  accept(): void
  /** Stops registering backends. */
  pause(): void
  /** Asks the backends to register with the successor. */
  askToReconnect(reason: string): void
  /** Like `askToReconnect`, but there may be no successor: also closes the control and admin sockets. */
  withdraw(reason: string): void
  /**
   * Stops accepting; on `removed` listeners, only after accepting what is in the kernel's queue. Connections held now or later go to
   * `successor` with their descriptors. Resolves when no connection is left here; relays are cut after `deadline` milliseconds.
   */
  finish(
    removed: readonly string[],
    successor: (service: string) => Successor,
    deadline: number,
    neighbours: {
      /** Settles when no more clients will arrive from older workers. */
      readonly predecessors: Promise<unknown>
      /** To be called when no more clients will be sent to the successor. Resolves when it has received all of them. */
      readonly settled: () => Promise<void>
      /** Resolves when the master has answered all reload requests, whose connections to the admin server are still open. */
      readonly answered: () => Promise<unknown>
    },
  ): Promise<void>
  /** While it finishes: the successor has died, and this is the next one. */
  handOver(successor: (service: string) => Successor): void
  /** The successor has died before these connections of one service reached it. Owns the descriptors, which are in the same order. */
  takeBack(service: string, connections: readonly Waiting[], fds: readonly OwnedFd[]): void
  /** Takes connections of one service that a predecessor held. Owns their descriptors, even if the service is unknown here. */
  inherit(service: string, connections: readonly ClientConnection[]): void
  /** Keeps the state of a connection that is to be inherited next. */
  inheritState(service: string, block: ResumeState['block'], giver: string): ResumeState
  /** The same for connections that were parked there. */
  inheritParked(service: string, connections: readonly ParkedClient[]): void
  /** Adds a listener, and its service if that is new. Owns `fd`. */
  listen(listener: ListenerConfig, fd: OwnedFd, service: ServiceConfig): void
  /** A socket's file was recreated; also accepts on the new socket `fd`. Owns `fd`. */
  replaceSocket(role: SocketRole, name: string | undefined, fd: OwnedFd): void
  /** Drains the backend with this ULID, and all that descend from the managed process with it. `deadline`: milliseconds. */
  drainBackend(service: string, backend: string, deadline: number): void
  /** An operator has paused a service, resumed it, or changed its maintenance, at another worker. */
  control(service: string, control: Control): void
  /** All that apply now. */
  readonly controls: Controls
  /** These shifts are in force now, and no others. */
  shift(shifts: Shifts): void
  /** These are the keys for TLS session tickets now. */
  useTickets(tickets: TicketKeys): void
  /** Sends a change reported by the master to the event streams. */
  announce(change: Change): void
  backends(): BackendReport[]
  /** Open connections: those of its backends, and its own. */
  connections(): number
  snapshot(): Promise<MetricSnapshot>
  /** To be called after each wake-up of the poller: offers the clients accepted in it together. */
  flush(): void
  /** Whether the poller may hold back new clients, because the backends of every service are busy (`Service.busy`). */
  busy(): boolean
}

/**
 * Starts a worker without a master; resolves when it accepts connections.
 *
 * @throws {BrokerError} see `openSockets`; the admin server's address in use
 */
export async function startWorker(config: Config, { logger }: WorkerOptions): Promise<Worker> {
  const sockets = openSockets(config)
  const poller = new Poller({ afterWake: () => worker.flush(), holdBack: () => worker.busy() })
  const worker: ReplaceableWorker = createWorker(config, logger, { sockets, poller })
  try {
    await worker.serve()
  } catch (error) {
    await worker.close()
    throw error
  }
  worker.accept()
  return worker
}

/** Creates a worker that does not accept yet. Takes ownership of the descriptors in `given`, and of the poller. */
export function createWorker(
  config: Config,
  logger: Logger,
  given: Partial<WorkerContext> & Pick<WorkerContext, 'sockets' | 'poller'>,
): ReplaceableWorker {
  const { sockets, poller } = given
  const context = given.admin !== undefined
  const id = ulid()
  const startedAt = new Date()
  const metrics = new Metrics({
    version: BROKER_VERSION,
    listeners: config.listeners.map(({ name }) => name),
    services: config.services.keys(),
    droppedLines: given.droppedLines,
  })
  const services = new Map<string, Service>()
  const lingeringClose = new LingeringClose(poller)
  const recorder = config.recorder === 0 ? undefined : new FlightRecorder(config.recorder)
  const deps = {
    poller,
    lingeringClose,
    metrics,
    logger,
    acknowledged: () => poller.advance(),
    announce: (change: Change) => events.announce(change),
    reroute: (connection: ClientConnection) => {
      const rerouted = doorways.reroute(connection, routed)
      // Not only in a round of the poller, which ends with a flush.
      if (rerouted) queueMicrotask(flush)
      return rerouted
    },
    listeners: (service: string) => listenersOf.get(service) ?? [],
    recorder: publishing(recorder ?? noRecorder),
    ...(given.copier && { keeperOf: (service: string) => given.copier?.of(service) ?? noKeeper }),
  }
  const controls: ServiceControls = new ServiceControls(
    {
      service: (name) => services.get(name),
      changed: (service, control) => given.onControl?.(service, control),
      pauseOver(service) {
        if (state !== 'running') return
        logger.info({ service }, 'pause is over')
        events.announce({ kind: 'resume', service, text: `the pause of service ${service} is over` })
      },
    },
    systemClock,
    monotonic,
  )
  for (const [service, control] of given.controls ?? []) controls.accept(service, control)
  const addService = (serviceConfig: ServiceConfig) => {
    const { name } = serviceConfig
    const service = new Service(name, serviceConfig, deps)
    services.set(name, service)
    service.control(controls.of(name))
    given.copier?.account({ kind: 'service', name }, (numbers) =>
      service.serviceStats.account(numbers, doorways.arrivals(name)),
    )
  }
  const listeners: Listener[] = []
  /** By service: asked for with each connection that is handed back. */
  const listenersOf = new Map<string, Listener[]>()
  /** Listeners of which each request is looked at: those with routes, or whose service may tell clients apart by a cookie. */
  const routed = new Set<string>()
  const serviceNamed = (name: string) => {
    const service = services.get(name)
    if (service === undefined) throw new Error(`there is no service "${name}"`)
    return service
  }
  const flush = () => {
    for (const service of services.values()) service.flush()
  }
  const mayUseCookies = (name: string) => {
    const sticky = services.get(name)?.config.sticky
    return sticky !== undefined && sticky !== 'address'
  }
  const doorways = new Doorways({
    poller,
    lingeringClose,
    metrics,
    logger,
    arrive: (name, connection) => serviceNamed(name).arrive(connection),
    mayUseCookies,
    cookieOf: (name) => services.get(name)?.shifting.cookie,
    flush,
  })
  const addListener = (listener: ListenerConfig, fd: OwnedFd | undefined) => {
    if (fd === undefined) throw new Error(`listener "${listener.name}" has no socket`)
    const doorway = doorways.open(listener, fd)
    const service = doorway === undefined ? serviceNamed(listener.service ?? '') : undefined
    const arrived = (connection: ClientConnection) =>
      service === undefined ? doorway?.add(connection) : service.arrive(connection)
    const added = new Listener(listener, fd, arrived, logger)
    // Not if it only reads PROXY headers: what a connection begins with is the same for all of its requests.
    if (listener.routes.length > 0 || mayUseCookies(listener.service ?? '')) routed.add(listener.name)
    listeners.push(added)
    const account = {
      kind: 'listener',
      name: listener.name,
      service: service === undefined ? null : service.name,
      unix: listener.listen.kind === 'unix',
    } as const
    given.copier?.account(account, (numbers) => numbers.push(added.accepted))
    if (doorway !== undefined) {
      const { name } = listener
      const reasons = doorways.reasonsOf(name)
      given.copier?.account({ kind: 'doorway', name, ...(reasons && { reasons }) }, (numbers) =>
        doorways.account(name, numbers),
      )
    }
    for (const name of added.services) listenersOf.set(name, [...(listenersOf.get(name) ?? []), added])
    return added
  }
  for (const service of config.services.values()) addService(service)
  const shift = (shifts: Shifts) => {
    for (const [name, service] of services)
      service.shift(Object.hasOwn(shifts, name) ? shifts[name] : undefined)
  }
  shift(given.shifts ?? {})
  for (const listener of config.listeners) addListener(listener, sockets.listeners.get(listener.name))
  const registry = new Registry({
    config,
    socket: sockets.control,
    services,
    brokerId: id,
    known: given.known,
    managed: given.managed,
    tickets: given.tickets,
    onChange: () => {
      events.sample()
      given.onBackends?.()
    },
    logger,
  })

  let state: Status['broker']['state'] = 'running'
  const beginDrain = () => {
    state = 'draining'
    const text = 'this worker has stopped accepting connections'
    events.announce({ kind: 'broker_state', from: 'running', to: state, text })
  }
  const published = new Map<string, number>()
  const publish = () => {
    for (const service of services.values()) service.publish()
    doorways.publish()
    for (const { name, accepted } of listeners) {
      metrics.connectionsAccepted.inc({ listener: name }, accepted - (published.get(name) ?? 0))
      published.set(name, accepted)
    }
  }
  const { collect, reload, requestShift, requestScale } = given
  const view: WorkerView = {
    status: () => ({
      broker: {
        id,
        version: BROKER_VERSION,
        pid: process.pid,
        master: given.master?.() ?? null,
        startedAt: startedAt.toISOString(),
        state,
      },
      listeners: listeners.map(({ name, address, protocol, service, accepting, accepted }) => ({
        name,
        address,
        protocol,
        service,
        accepting,
        accepted,
      })),
      services: [...services.values()].map(serviceStatus),
    }),
    drainService: (name, deadline) => drainLinks(name, [...(services.get(name)?.links ?? [])], deadline),
    drainBackend: (name, backend, deadline) => drainLinks(name, linksOf(name, backend), deadline),
    ...(reload && { reload }),
    pause: (service, milliseconds) => void controls.pause(service, milliseconds),
    resume: (service) => void controls.change(service, { paused: null }),
    maintain(service, page) {
      const maintenance = page && { since: new Date().toISOString(), ...page }
      controls.change(service, { maintenance })
    },
    ...(requestShift && { shift: requestShift }),
    ...(requestScale && { scale: requestScale }),
    metricsText: oneAtATime(async () => {
      publish()
      return metrics.text(await collect?.())
    }),
    metricsContentType: metrics.contentType,
    asked: (change) => {
      const { kind, service, backend, by } = change
      logger.info({ service, backend: backend?.id, slot: backend?.slot, by }, `${kind} requested`)
      events.announce(change)
      events.sample()
    },
    connections: recorder,
    history: () => history.all,
    outputFolder: outputFolder(config.runtimeDir),
    get events() {
      return events
    },
  }
  const events: EventFeed = new EventFeed(
    {
      status: () => view.status(),
      counted: () => [...services.values()].map(countedOf),
    },
    systemClock,
    id,
  )

  const history = new ServiceHistory(
    {
      counted: () => [...services.values()].map(countedOf),
      held: (service) => services.get(service)?.held ?? 0,
    },
    systemClock,
    given.history ?? {},
    given.onHistory ?? (() => {}),
  )

  function linksOf(service: string, backend: string): BackendLink[] {
    return [...(services.get(service)?.links ?? [])].filter(({ identity }) => identity.ulid === backend)
  }

  function isRegistered(backend: string): boolean {
    return [...services.keys()].some((service) => linksOf(service, backend).length > 0)
  }

  function deadlineOf(service: string): number {
    return drainDeadlineOf(services.get(service)?.config ?? { drainDeadline: null }, config)
  }

  function drainLinks(
    service: string,
    links: readonly BackendLink[],
    deadline = deadlineOf(service),
  ): Promise<DrainResult> {
    const fresh = links.filter((link) => link.eligibility.state !== 'draining')
    for (const link of fresh) link.drain(deadline, 'requested by the operator')
    return Promise.resolve({ draining: fresh.length, deadlineMs: deadline })
  }

  const pressed = () => {
    const { fd } = sockets.control
    return !fd.closed && sharedReserve().isReachedNow(fd.fd)
  }
  const hostState = new HostState(
    { isDraining: () => state === 'draining', services: () => services.values() },
    logger,
  )
  const agentCheck = sockets.agentCheck && new AgentCheck(sockets.agentCheck, () => hostState.answer())
  const admin = new LateAdmin({ config, view, logger, socket: given.admin, pressed })
  let adminAddress: string | undefined
  let closing: Promise<void> | undefined
  let accepts = false
  const shut = async () => {
    registry.close()
    controls.close()
    agentCheck?.close()
    const closed = [...services.values()].map((service) => service.close())
    // After them: connections that were parked may be routed again.
    doorways.close()
    flush()
    await Promise.all(closed)
    if (!context) removeSocket(sockets.control.path)
    await lingeringClose.idle()
    // A supervised worker still has to send to its master, which may be busy; the poller then ends with the process.
    if (!context) poller.close()
    events.close()
    history.close()
    await admin.close()
  }
  /** Each service has the time that it is configured to have, out of `milliseconds`; then its relays are cut. */
  const drainedWithin = async (milliseconds: number) => {
    const end = performance.now() + milliseconds
    do {
      // A connection that is looked at goes to a service; one that was parked may be routed again.
      await settledWithin(doorways.empty(), end - performance.now())
      const draining = [...services.values()].map(async (service) => {
        const left = Math.min(end - performance.now(), deadlineOf(service.name))
        if (!(await settledWithin(service.drained(), left))) service.cutShort()
      })
      await Promise.all(draining)
    } while (doorways.size > 0 && performance.now() < end)
  }
  const stop = async (deadline: number) => {
    beginDrain()
    for (const listener of listeners) {
      // If this worker was never to accept, the clients in the queue belong to another worker.
      if (deadline === 0 && !accepts) listener.closeCopy()
      else listener.close()
    }
    if (!context)
      for (const { listen } of config.listeners) if (listen.kind === 'unix') removeSocket(listen.path)
    if (deadline > 0) await drainedWithin(deadline)
    await shut()
  }

  const handOver = (successor: (service: string) => Successor) => {
    for (const [name, service] of services) service.handOver(successor(name))
    doorways.handOver((connections) => successor('').pass(connections))
    flush()
  }

  /** Connections whose service a predecessor had not chosen yet. Without routes here, their listener's service takes them. */
  const inheritPeeked = (connections: readonly ClientConnection[]) => {
    for (const connection of connections) {
      if (doorways.inherit(connection)) continue
      const listener = listeners.find(({ name }) => name === connection.listener.name)
      const service = services.get(listener?.service ?? '')
      if (service === undefined || connection.peeked === 'proxy') doorways.reject(connection)
      else service.inherit([connection])
    }
    flush()
  }

  return {
    id,
    get addresses() {
      return new Map(listeners.map(({ name, address }) => [name, address]))
    },
    get adminAddress() {
      return adminAddress ?? formatAddress(config.admin.listen)
    },
    controlPath: sockets.control.path,
    status: () => view.status(),
    async loadAdmin() {
      await admin.load()
    },
    async serve(administers = true) {
      hostState.thaw()
      if (adminAddress === undefined) {
        if (administers) adminAddress = formatAddress((await admin.listen()).address)
        else adminAddress = addressBound(config.admin.listen, given.admin)
        sweepRelaySockets(config.runtimeDir)
      }
      registry.start(poller)
    },
    async administer() {
      await admin.listen()
    },
    accept() {
      accepts = true
      for (const listener of listeners) listener.start(poller)
      // Without the backends of a predecessor, it would have to answer `down`.
      const known = Object.keys(given.known ?? {})
      const areBack = () => known.every((backend) => isRegistered(backend))
      agentCheck?.startWhen(areBack, RETURN_TIMEOUT_MS)
      logger.info(
        {
          broker: id,
          version: BROKER_VERSION,
          listeners: Object.fromEntries(listeners.map(({ name, address }) => [name, address])),
          admin: adminAddress,
          ...(agentCheck && { agentCheck: agentCheck.address }),
          control: sockets.control.path,
          readiness: poller.readiness.by,
          ...(poller.readiness.by === 'thread' && { noRing: poller.readiness.reason }),
        },
        'accepting connections',
      )
    },
    pause: () => registry.pause(),
    askToReconnect(reason) {
      hostState.freeze()
      registry.askToReconnect(reason)
    },
    withdraw(reason) {
      registry.askToReconnect(reason)
      registry.close()
      void admin.drain()
    },
    async finish(removed, successor, deadline, { predecessors, settled, answered }) {
      beginDrain()
      const end = performance.now() + deadline
      for (const listener of listeners) {
        if (removed.includes(listener.name)) listener.close()
        else listener.closeCopy()
      }
      agentCheck?.close()
      handOver(successor)
      const stopped = admin.drain()
      // Clients of the event stream reconnect, and reach the successor.
      events.close()
      history.close()
      const all = [...services.values()]
      await settledWithin(predecessors, deadline)
      await settledWithin(
        doorways.empty().then(() => Promise.all(all.map((service) => service.idle()))),
        Math.max(0, end - performance.now()),
      )
      await Promise.all(all.map((service) => service.letGo()))
      const passed = Promise.all(all.map((service) => service.moved())).then(settled)
      const left = Math.max(0, end - performance.now())
      await drainedWithin(left)
      await answered()
      await settledWithin(stopped, 1000)
      // No timeout: unsent messages need this worker's poller.
      await passed
      await (closing ??= shut())
    },
    handOver,
    takeBack(name, connections, fds) {
      const [first] = connections
      if (first === undefined || !('peeked' in first) || first.peeked === undefined)
        return services.get(name)?.takeBack(connections, fds)
      const peeked = connections as readonly ClientConnection[]
      return inheritPeeked(
        peeked.map((connection, index) => new InheritedClient(fds[index] as OwnedFd, fieldsOf(connection))),
      )
    },
    inherit(name, connections) {
      const [first] = connections
      // All of one message's are alike; see `Doorways.handOver`.
      if (first?.peeked !== undefined) return inheritPeeked(connections)
      const service = services.get(name)
      if (service !== undefined) return service.inherit(connections)
      logger.warn(
        { service: name, clients: connections.length },
        'service was removed; rejecting its held clients',
      )
      for (const connection of connections) {
        metrics.connections.inc({ service: name, outcome: 'rejected' })
        metrics.rejections.inc({ service: name, reason: 'shutdown' })
        // In the middle of a conversation: an answer of the broker would be taken for one of the backend's.
        if (connection.resume === undefined) lingeringClose.reject(connection)
        else systemOs.closeClients([connection])
      }
    },
    inheritState(name, block, giver) {
      return services.get(name)?.inheritState(block, giver) ?? { block, giver, settled: () => {} }
    },
    inheritParked(name, connections) {
      const service = services.get(name)
      if (service !== undefined) return service.inheritParked(connections)
      logger.warn(
        { service: name, clients: connections.length },
        'idle connections of a service that is gone are closed',
      )
      metrics.connections.inc({ service: name, outcome: 'idle_closed' }, connections.length)
      systemOs.closeClients(connections.map(({ fd }) => ({ fd, peer: systemOs.peer(fd.fd) })))
    },
    listen(listener, fd, service) {
      if (!services.has(service.name)) {
        metrics.addService(service.name)
        addService(service)
      }
      metrics.addListener(listener.name)
      addListener(listener, fd).start(poller)
    },
    replaceSocket(role, name, fd) {
      const listener = listeners.find((each) => each.name === name)
      if (role === 'control') registry.replaceSocket(fd)
      else if (role === 'admin') admin.replaceSocket(fd)
      else if (listener !== undefined) listener.replaceSocket(fd)
      else fd.close()
    },
    drainBackend(service, backend, deadline) {
      const links = [...(services.get(service)?.links ?? [])]
      void drainLinks(
        service,
        links.filter(({ identity }) => identity.ulid === backend || identity.owner === backend),
        deadline,
      )
    },
    control: (service, control) => controls.accept(service, control),
    get controls() {
      return controls.all
    },
    shift,
    useTickets: (tickets) => registry.useTickets(tickets),
    announce: (change) => events.announce(change),
    backends: () => backendReports(services.values()),
    connections: () => connectionCount(services.values()),
    snapshot: () => {
      publish()
      return metrics.snapshot()
    },
    flush,
    busy: () => {
      for (const service of services.values()) if (!service.busy) return false
      return true
    },
    drain: (deadline) => (closing ??= stop(deadline)),
    close: () => (closing ??= stop(0)),
  }
}

/** As `asked`, with the port that the kernel chose. */
function addressBound(asked: Address, socket: OwnedFd | undefined): string {
  if (asked.kind === 'unix' || socket === undefined) return formatAddress(asked)
  const { address, port } = localAddress(socket.fd)
  return formatAddress({ kind: 'tcp', host: address, port })
}

/** @returns whether it has settled in time */
async function settledWithin(done: Promise<unknown>, milliseconds: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), milliseconds)
  })
  const settled = await Promise.race([done.then(() => true), timeout])
  clearTimeout(timer)
  return settled
}
