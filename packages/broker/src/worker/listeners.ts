import type { OwnedFd } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { LimitsStatus, RouteStatus, Status } from '../api/status.ts'
import type { ListenerConfig, ServiceConfig } from '../config/config.ts'
import { formatRate } from '../config/rate.ts'
import type { Metrics } from '../metrics/metrics.ts'
import type { ClientConnection } from './connection/connection.ts'
import type { Copier } from './copies/copier.ts'
import { Listener } from './listen/listener.ts'
import type { Doorways } from './route/doorways.ts'
import type { Service } from './service/service.ts'

export interface ListenersOptions {
  /** @throws if there is none */
  readonly service: (name: string) => Service
  readonly stickyOf: (service: string) => ServiceConfig['sticky'] | undefined
  readonly doorways: Doorways
  /** Undefined: no accounts are kept. */
  readonly copier: Copier | undefined
  readonly logger: Logger
}

/** Listeners of a worker: what arrives goes to their service, or to their doorway if a service has to be chosen first. Owner of them. */
export class Listeners {
  readonly #options: ListenersOptions
  readonly #all: Listener[] = []
  /** By name, what of their configuration the status shows. */
  readonly #shown = new Map<string, { routes: RouteStatus[]; limits: LimitsStatus | null }>()
  /** By service: asked for with each connection that is handed back. */
  readonly #byService = new Map<string, Listener[]>()
  /** Connections that have been published as a metric, by listener. */
  readonly #published = new Map<string, number>()
  /** Names of listeners of which each request is looked at: those with routes, or whose service may tell clients apart by a cookie. */
  readonly routed = new Set<string>()

  constructor(options: ListenersOptions) {
    this.#options = options
  }

  get all(): readonly Listener[] {
    return this.#all
  }

  /** By name, as bound. */
  get addresses(): ReadonlyMap<string, string> {
    return new Map(this.#all.map(({ name, address }) => [name, address]))
  }

  get statuses(): Status['listeners'] {
    return this.#all.map(({ name, address, protocol, service, accepting, accepted }) => ({
      name,
      address,
      protocol,
      service,
      accepting,
      accepted,
      ...this.#shown.get(name),
      unrouted: this.#options.doorways.unrouted(name) ?? null,
    }))
  }

  named(name: string | undefined): Listener | undefined {
    return this.#all.find((listener) => listener.name === name)
  }

  of(service: string): readonly Listener[] {
    return this.#byService.get(service) ?? []
  }

  mayUseCookies(service: string): boolean {
    const sticky = this.#options.stickyOf(service)
    return sticky !== undefined && sticky !== 'address'
  }

  /** Adds one that does not accept yet. Owns `fd`. */
  add(config: ListenerConfig, fd: OwnedFd | undefined): Listener {
    if (fd === undefined) throw new Error(`listener "${config.name}" has no socket`)
    const { doorways, logger } = this.#options
    const doorway = doorways.open(config, fd)
    const service = doorway === undefined ? this.#options.service(config.service ?? '') : undefined
    const arrived = (connection: ClientConnection) =>
      service === undefined ? doorway?.add(connection) : service.arrive(connection)
    const added = new Listener(config, fd, arrived, logger)
    // Not if it only reads PROXY headers: what a connection begins with is the same for all of its requests.
    if (config.routes.length > 0 || this.mayUseCookies(config.service ?? '')) this.routed.add(config.name)
    this.#all.push(added)
    this.#shown.set(config.name, {
      routes: config.routes.map(routeStatus),
      limits: limitsStatus(config.limits),
    })
    this.#account(config, added, service, doorway !== undefined)
    for (const name of added.services)
      this.#byService.set(name, [...(this.#byService.get(name) ?? []), added])
    return added
  }

  publish(metrics: Metrics): void {
    for (const { name, accepted } of this.#all) {
      metrics.connectionsAccepted.inc({ listener: name }, accepted - (this.#published.get(name) ?? 0))
      this.#published.set(name, accepted)
    }
  }

  #account(config: ListenerConfig, added: Listener, service: Service | undefined, chooses: boolean): void {
    const { copier, doorways } = this.#options
    const { name } = config
    const account = {
      kind: 'listener',
      name,
      service: service === undefined ? null : service.name,
      unix: config.listen.kind === 'unix',
    } as const
    copier?.account(account, (numbers) => numbers.push(added.accepted))
    if (!chooses) return
    const reasons = doorways.reasonsOf(name)
    copier?.account(
      { kind: 'doorway', name, ...(reasons && { reasons }) },
      (numbers) => doorways.account(name, numbers),
      () => doorways.moves(name),
    )
  }
}

/** For the stream of events: a worker never changes its routes, there may be a thousand, and a status is sent each second. */
export function withoutRoutes({ listeners, ...status }: Status): Status {
  return {
    ...status,
    listeners: listeners.map(({ routes: _routes, limits: _limits, ...listener }) => listener),
  }
}

function routeStatus({
  header,
  cookie,
  service,
  version,
  ...conditions
}: ListenerConfig['routes'][number]): RouteStatus {
  const { sni, alpn, host, path } = conditions
  return {
    ...(sni !== undefined && { sni }),
    ...(alpn !== undefined && { alpn }),
    ...(host !== undefined && { host }),
    ...(path !== undefined && { path }),
    ...(header !== undefined && { header: Object.keys(header) }),
    ...(cookie !== undefined && { cookie: Object.keys(cookie) }),
    service,
    version: version ?? null,
  }
}

function limitsStatus(limits: ListenerConfig['limits']): LimitsStatus | null {
  if (limits === null) return null
  const { connections, perSource } = limits
  return {
    connections,
    perSource: perSource && {
      connections: perSource.connections,
      rate: perSource.rate && formatRate(perSource.rate),
      burst: perSource.burst,
    },
  }
}
