import { unlinkSync } from 'node:fs'
import { Poller } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { ulid } from 'ulid'
import { createAdmin } from './admin/index.ts'
import type { DrainResult, Status, WorkerView } from './admin/view.ts'
import { type Config, formatAddress } from './config/index.ts'
import { Farewell } from './farewell.ts'
import { Listener } from './listen/listener.ts'
import { Metrics } from './metrics/index.ts'
import type { BackendLink } from './registry/backend-link.ts'
import { Registry } from './registry/registry.ts'
import { Service } from './service/service.ts'
import { sweepRelaySockets } from './relay/relay-sockets.ts'
import { openSockets, type Sockets } from './sockets.ts'
import { BROKER_VERSION } from './version.ts'

export interface WorkerOptions {
  readonly logger: Logger
  /** Already open, by whoever starts workers; opened here when absent. */
  readonly sockets?: Sockets
}

/** Everything that serves connections in one process. A process runs one, started from the command or by a master. */
export interface Worker {
  /** ULID of this broker process. */
  readonly id: string
  /** Listener name -> address as bound. */
  readonly addresses: ReadonlyMap<string, string>
  readonly adminAddress: string
  readonly controlPath: string
  status(): Status
  /**
   * Stops accepting and waits until every accepted client is somebody's, for at most `deadline` milliseconds; what still
   * waits is then rejected. Lets the backends go; connections that they adopted do not notice.
   */
  drain(deadline: number): Promise<void>
  /** The same without waiting. */
  close(): Promise<void>
}

/**
 * Starts the worker; resolves when it accepts connections.
 *
 * @throws {BrokerError} see `openSockets`; the admin server's address in use
 */
export async function startWorker(config: Config, options: WorkerOptions): Promise<Worker> {
  const { logger } = options
  const id = ulid()
  const startedAt = new Date()
  const sockets = options.sockets ?? openSockets(config)
  const metrics = new Metrics({
    version: BROKER_VERSION,
    listeners: config.listeners.map(({ name }) => name),
    services: config.services.keys(),
  })
  const services = new Map<string, Service>()
  // Everything accepted in one wake-up is offered together: one batch for each backend.
  const poller = new Poller({
    afterWake: () => {
      for (const service of services.values()) service.flush()
    },
  })
  const farewell = new Farewell(poller)
  for (const [name, service] of config.services) {
    services.set(name, new Service(name, service, { poller, farewell, metrics, logger }))
  }
  const listeners = config.listeners.map((listener) => {
    const fd = sockets.listeners.get(listener.name)
    const service = services.get(listener.service)
    if (fd === undefined || service === undefined)
      throw new Error(`listener "${listener.name}" has no socket or service`)
    return new Listener(listener, fd, (connection) => service.arrive(connection), logger)
  })
  const registry = new Registry(config, sockets.control, services, id, logger)

  let state: Status['broker']['state'] = 'running'
  const published = new Map<string, number>()
  const view: WorkerView = {
    status: () => ({
      broker: { id, version: BROKER_VERSION, pid: process.pid, startedAt: startedAt.toISOString(), state },
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
    drainService: (name, deadline) => drainLinks([...(services.get(name)?.links ?? [])], deadline),
    drainBackend: (name, backend, deadline) =>
      drainLinks(
        [...(services.get(name)?.links ?? [])].filter(({ identity }) => identity.ulid === backend),
        deadline,
      ),
    metricsText: () => {
      for (const service of services.values()) service.publish()
      for (const { name, accepted } of listeners) {
        metrics.connectionsAccepted.inc({ listener: name }, accepted - (published.get(name) ?? 0))
        published.set(name, accepted)
      }
      return metrics.text()
    },
    metricsContentType: metrics.contentType,
  }

  function drainLinks(links: readonly BackendLink[], deadline = config.drainDeadline): Promise<DrainResult> {
    const fresh = links.filter((link) => link.state !== 'draining')
    for (const link of fresh) link.drain(deadline, 'asked by the operator')
    return Promise.resolve({ draining: fresh.length, deadlineMs: deadline })
  }

  const admin = createAdmin({ config, view, logger })
  let adminAddress: string
  try {
    adminAddress = formatAddress((await admin.listen()).address)
  } catch (error) {
    for (const fd of sockets.listeners.values()) fd.close()
    registry.close()
    removeSocket(sockets.control.path)
    poller.close()
    throw error
  }
  sweepRelaySockets(config.runtimeDir)
  registry.start(poller)
  for (const listener of listeners) listener.start(poller)
  const addresses = new Map(listeners.map(({ name, address }) => [name, address]))
  logger.info(
    {
      broker: id,
      version: BROKER_VERSION,
      listeners: Object.fromEntries(addresses),
      admin: adminAddress,
      control: sockets.control.path,
    },
    'accepting connections',
  )

  let closing: Promise<void> | undefined
  const shut = async () => {
    registry.close()
    await Promise.all([...services.values()].map((service) => service.close()))
    removeSocket(sockets.control.path)
    await farewell.settled()
    poller.close()
    await admin.close()
  }
  const stop = async (deadline: number) => {
    state = 'draining'
    for (const listener of listeners) listener.close()
    for (const { listen } of config.listeners) if (listen.kind === 'unix') removeSocket(listen.path)
    const drained = Promise.all([...services.values()].map((service) => service.drained()))
    if (deadline > 0) await settledWithin(drained, deadline)
    await shut()
  }
  return {
    id,
    addresses,
    adminAddress,
    controlPath: sockets.control.path,
    status: () => view.status(),
    drain: (deadline) => (closing ??= stop(deadline)),
    close: () => (closing ??= stop(0)),
  }
}

function serviceStatus(service: Service): Status['services'][number] {
  return {
    name: service.name,
    balance: service.config.balance,
    handoff: service.config.handoff,
    held: service.held,
    inFlight: service.inFlight,
    stuck: service.stuck,
    relaying: service.relaying,
    lateAnswers: service.tally.lateAnswers,
    outcomes: { ...service.tally.outcomes },
    backends: [...service.links].map((link) => {
      const { ulid: id, slot, pid, uid, version, weight, registeredAt } = link.identity
      const { adopted, closed, lag } = link.counts
      return {
        id,
        slot,
        state: link.state,
        pid,
        uid,
        version,
        weight,
        load: link.load,
        adopted,
        closed,
        lagMs: lag,
        registeredAt: registeredAt.toISOString(),
      }
    }),
  }
}

async function settledWithin(done: Promise<unknown>, milliseconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise((resolve) => {
    timer = setTimeout(resolve, milliseconds)
  })
  await Promise.race([done, timeout])
  clearTimeout(timer)
}

function removeSocket(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
