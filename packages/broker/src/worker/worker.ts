import { systemClock } from '@baton/backend-sdk/protocol'
import { localAddress, type OwnedFd, Poller } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { ulid } from 'ulid'
import { LateAdmin } from './admin/late-admin.ts'
import { HostState } from './agent-check/host-state.ts'
import { outputFolder } from '../log/kept/files.ts'
import type { WorkerView } from './admin/view.ts'
import type { DrainResult, Status } from '../api/status.ts'
import type { Config, ServiceConfig } from '../config/config.ts'
import { drainDeadlineOf } from '../config/service-rules.ts'
import { type Address, formatAddress } from '../config/address.ts'
import { type ClientConnection, InheritedClient } from './connection/connection.ts'
import { EventFeed } from './events/event-feed.ts'
import { ServiceHistory } from './events/history.ts'
import type { Change } from '../api/events.ts'
import type { Shifts } from '../api/shift.ts'
import { LingeringClose } from './reject/lingering-close.ts'
import { sharedReserve } from './listen/descriptor-reserve.ts'
import { Metrics } from '../metrics/metrics.ts'
import { oneAtATime } from '../metrics/one-at-a-time.ts'
import { FlightRecorder } from './recorder/flight-recorder.ts'
import { publishing } from './recorder/published-recorder.ts'
import { noRecorder } from './recorder/recorder.ts'
import type { BackendLink } from './backend/backend-link.ts'
import { Registry } from './registry/registry.ts'
import { ReturningBackends } from './registry/returning-backends.ts'
import { Doorways } from './route/doorways.ts'
import { sweepRelaySockets } from './relay/relay-sockets.ts'
import { ServiceControls } from './control/service-controls.ts'
import { monotonic } from './copies/held-client.ts'
import { noKeeper } from './copies/keeper.ts'
import { fieldsOf, type Successor } from './service/hand-over.ts'
import { RemovedServices } from './service/removed-services.ts'
import { Service } from './service/service.ts'
import { AgentCheck } from '../listening/agent-check.ts'
import { openSockets, removeSocket } from '../listening/sockets.ts'
import { BROKER_VERSION } from '../version.ts'
import { Listeners, withoutRoutes } from './listeners.ts'
import type { ReplaceableWorker, Worker, WorkerContext } from './replaceable-worker.ts'
import { settledWithin } from './settled-within.ts'
import { backendReports, connectionCount, countedOf, serviceStatus } from './view.ts'

/** How long agent checks wait for backends of a predecessor to register, in ms: as a reload does. */
const RETURN_TIMEOUT_MS = 2000

/** How long the admin server does, in ms. Loading it blocks the event loop for longer than they need. */
const ADMIN_WAIT_MS = 500

export interface WorkerOptions {
  readonly logger: Logger
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
    await worker.administer()
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
  const counted = () => given.copier?.accountsChanged()
  const deps = {
    poller,
    lingeringClose,
    metrics,
    logger,
    acknowledged: () => poller.advance(),
    counted,
    announce: (change: Change) => events.announce(change),
    reroute: (connection: ClientConnection) => {
      const rerouted = doorways.reroute(connection, listeners.routed)
      // Not only in a round of the poller, which ends with a flush.
      if (rerouted) queueMicrotask(flush)
      return rerouted
    },
    listeners: (service: string) => listeners.of(service),
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
    const { serviceStats } = service
    given.copier?.account(
      { kind: 'service', name },
      (numbers) => serviceStats.account(numbers, doorways.arrivals(name)),
      () => serviceStats,
    )
  }
  const serviceNamed = (name: string) => {
    const service = services.get(name)
    if (service === undefined) throw new Error(`there is no service "${name}"`)
    return service
  }
  const flush = () => {
    doorways.look()
    for (const service of services.values()) service.flush()
  }
  const doorways = new Doorways({
    poller,
    lingeringClose,
    metrics,
    logger,
    arrive: (name, connection) => serviceNamed(name).arrive(connection),
    mayUseCookies: (name) => listeners.mayUseCookies(name),
    cookieOf: (name) => services.get(name)?.shifting.cookie,
    flush,
    counted,
    unknown: (name) =>
      given.copier?.account(
        { kind: 'doorway', name },
        (numbers) => doorways.account(name, numbers),
        () => doorways.moves(name),
      ),
  })
  const removedServices = new RemovedServices({ lingeringClose, metrics, logger, copier: given.copier })
  const listeners: Listeners = new Listeners({
    service: serviceNamed,
    stickyOf: (name) => services.get(name)?.config.sticky,
    doorways,
    copier: given.copier,
    logger,
  })
  for (const service of config.services.values()) addService(service)
  const shift = (shifts: Shifts) => {
    for (const [name, service] of services)
      service.shift(Object.hasOwn(shifts, name) ? shifts[name] : undefined)
  }
  shift(given.shifts ?? {})
  for (const listener of config.listeners) listeners.add(listener, sockets.listeners.get(listener.name))
  const returning = new ReturningBackends(given.known ?? {}, isRegistered)
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
      returning.changed()
      given.onBackends?.()
    },
    logger,
  })

  let state: Status['broker']['state'] = 'running'
  let isSucceeded = false
  const beginDrain = () => {
    state = 'draining'
    const text = 'this worker has stopped accepting connections'
    events.announce({ kind: 'broker_state', from: 'running', to: state, text })
  }
  const publish = () => {
    for (const service of services.values()) service.publish()
    removedServices.publish()
    doorways.publish()
    listeners.publish(metrics)
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
      listeners: listeners.statuses,
      services: [...services.values()].map(serviceStatus),
    }),
    get isSucceeded() {
      return isSucceeded
    },
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
      status: () => withoutRoutes(view.status()),
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
    const told = links.filter((link) => link.drain(deadline, 'requested by the operator'))
    return Promise.resolve({ draining: told.length, deadlineMs: deadline })
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
  let administers = false
  let isPaused = false
  /** This worker accepts no more connections to the admin API. */
  let isOver = false
  const shut = async () => {
    isOver = true
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
    events.close(true)
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
    for (const listener of listeners.all) {
      // The clients in the queue belong to another worker: this one may have no backends, and would keep them until its deadline.
      if (!accepts) listener.closeCopy()
      else listener.close()
    }
    if (!context)
      for (const { listen } of config.listeners) if (listen.kind === 'unix') removeSocket(listen.path)
    if (deadline > 0) await drainedWithin(deadline)
    await shut()
  }

  const handOver = (successor: (service: string) => Successor) => {
    for (const [name, service] of services) service.handOver(successor(name))
    doorways.handOver((connections) => successor('').pass(connections, () => {}))
    flush()
  }

  /** Connections whose service a predecessor had not chosen yet. Without routes here, their listener's service takes them. */
  const inheritPeeked = (connections: readonly ClientConnection[]) => {
    for (const connection of connections) {
      if (doorways.inherit(connection)) continue
      const listener = listeners.named(connection.listener.name)
      const service = services.get(listener?.service ?? '')
      if (service === undefined || connection.peeked === 'proxy') doorways.reject(connection)
      else service.inherit([connection])
    }
    flush()
  }

  return {
    id,
    get addresses() {
      return listeners.addresses
    },
    get adminAddress() {
      return adminAddress ?? formatAddress(config.admin.listen)
    },
    controlPath: sockets.control.path,
    status: () => view.status(),
    async loadAdmin() {
      await admin.load()
    },
    async serve() {
      hostState.thaw()
      isPaused = false
      if (adminAddress === undefined) {
        adminAddress = addressBound(config.admin.listen, given.admin)
        sweepRelaySockets(config.runtimeDir)
      }
      registry.start(poller)
      if (administers) await admin.listen()
    },
    async administer() {
      administers = true
      // Clients wait for them, after the death of a worker.
      await returning.within(ADMIN_WAIT_MS)
      if (!isPaused && !isOver) adminAddress = formatAddress((await admin.listen()).address)
    },
    accept() {
      accepts = true
      for (const listener of listeners.all) listener.start(poller)
      // Without the backends of a predecessor, it would have to answer `down`.
      if (agentCheck !== undefined) void returning.within(RETURN_TIMEOUT_MS).then(() => agentCheck.start())
      logger.info(
        {
          broker: id,
          version: BROKER_VERSION,
          listeners: Object.fromEntries(listeners.addresses),
          admin: adminAddress,
          ...(agentCheck && { agentCheck: agentCheck.address }),
          control: sockets.control.path,
          readiness: poller.readiness.by,
          ...(poller.readiness.by === 'thread' && { noRing: poller.readiness.reason }),
        },
        'accepting connections',
      )
    },
    async pause() {
      isPaused = true
      registry.pause()
      await admin.pause()
    },
    askToReconnect(reason) {
      hostState.freeze()
      registry.askToReconnect(reason)
    },
    withdraw(reason) {
      isOver = true
      for (const service of services.values()) service.returnParked()
      registry.askToReconnect(reason)
      registry.close()
      void admin.drain()
    },
    async finish(removed, successor, deadline, { predecessors, settled, answered }) {
      beginDrain()
      isSucceeded = true
      const end = performance.now() + deadline
      for (const listener of listeners.all) {
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
      const passOn = async () => {
        await settledWithin(
          doorways.empty().then(() => Promise.all(all.map((service) => service.idle()))),
          Math.max(0, end - performance.now()),
        )
        await Promise.all(all.map((service) => service.letGo()))
      }
      await passOn()
      const passed = (async () => {
        for (;;) {
          await Promise.all(all.map((service) => service.moved()))
          if (await settled()) return
          // Until there is another successor.
          await passOn()
        }
      })()
      const left = Math.max(0, end - performance.now())
      await drainedWithin(left)
      await answered()
      await settledWithin(stopped, 1000)
      // No timeout: unsent messages need this worker's poller.
      await passed
      // Connections that have come back may be relayed by now.
      await drainedWithin(Math.max(0, end - performance.now()))
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
      if (service === undefined) removedServices.reject(name, connections)
      else service.inherit(connections)
    },
    inheritState(name, block, giver) {
      return services.get(name)?.inheritState(block, giver) ?? { block, giver, settled: () => {} }
    },
    inheritParked(name, connections) {
      const service = services.get(name)
      if (service === undefined) removedServices.closeIdle(name, connections)
      else service.inheritParked(connections)
    },
    listen(listener, fd, service) {
      if (!services.has(service.name)) {
        metrics.addService(service.name)
        addService(service)
      }
      metrics.addListener(listener.name)
      const added = listeners.add(listener, fd)
      if (accepts) added.start(poller)
    },
    replaceSocket(role, name, fd) {
      const listener = listeners.named(name)
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
    get history() {
      return history.all
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
