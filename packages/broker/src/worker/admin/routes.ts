import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import * as z from 'zod'

import { duration } from '../../config/duration-schema.ts'
import { parseShare, SHARE_EXPECTED } from '../../config/share.ts'
import { VERSION, VERSION_EXPECTED } from '../../config/version.ts'
import { badRequest, connectionId, connectionQuery } from './connection-query.ts'
import { addControlRoutes } from './control-routes.ts'
import { addOutputRoutes } from './output-routes.ts'
import { AdminError } from './errors.ts'
import { streamEvents } from './event-stream.ts'
import { quoted } from './quoted.ts'
import type { WorkerView } from './view.ts'
import { HISTORY_INTERVAL_MS } from '../../api/history.ts'
import { MAX_INSTANCES, type ScaleTarget } from '../../config/instances.ts'
import type { Shift } from '../../api/shift.ts'
import type { BackendStatus, DrainResult, ListenerStatus, ServiceStatus, Status } from '../../api/status.ts'

interface ServiceParams {
  Params: { service: string }
}

interface BackendParams {
  Params: { service: string; id: string }
}

interface ReadinessQuery {
  Querystring: { service?: string }
}

interface ConnectionParams {
  Params: { id: string }
}

const drainBody = z.strictObject({ deadline: duration(0).optional() })

/**
 * @param withToken requests that get here have shown the token
 * @param keep called with the connection of an event stream
 */
export function addRoutes(
  app: FastifyInstance,
  view: WorkerView,
  withToken: boolean,
  keep: (client: Socket) => void,
): void {
  const requester = ({ socket }: FastifyRequest) => requesterOf(socket, withToken)

  app.get('/healthz', () => ({ status: 'ok' }))

  app.get<ReadinessQuery>('/readyz', ({ query: { service } }, reply) => {
    const status = view.status()
    const only = status.services.find(({ name }) => name === service)
    // Without a list of those there are: it needs no token.
    if (service !== undefined && only === undefined)
      return reply.code(404).send({ ready: false, reasons: [`there is no service ${quoted(service)}`] })
    const answer = readiness(status, only)
    return reply.code(answer.ready ? 200 : 503).send(answer)
  })

  app.get('/metrics', async (_request, reply) =>
    reply.type(view.metricsContentType).send(await view.metricsText()),
  )

  app.get('/api/v1/status', () => view.status())

  app.get<ServiceParams>('/api/v1/services/:service', ({ params }) => findService(view, params.service))

  app.get('/api/v1/connections', ({ query }) => {
    const wanted = connectionQuery(query)
    if (wanted.service !== undefined) findService(view, wanted.service)
    const { capacity = 0, recorded = 0 } = view.connections ?? {}
    return { connections: view.connections?.list(wanted) ?? [], recorded, capacity }
  })

  app.get<ConnectionParams>('/api/v1/connections/:id', ({ params }) => {
    const record = view.connections?.find(connectionId(params.id))
    if (record !== undefined) return record
    const message =
      view.connections === undefined
        ? 'nothing is recorded: the configuration has "recorder": 0'
        : `no record of connection ${quoted(params.id)}; the last ${view.connections.capacity} are kept, and a reload starts without any`
    throw new AdminError('BATON_ERR_ADMIN_NO_CONNECTION', message)
  })

  app.get('/api/v1/history', () => ({ intervalMs: HISTORY_INTERVAL_MS, services: view.history() }))

  app.get('/api/v1/events', { exposeHeadRoute: false }, (request, reply) => {
    streamEvents(reply, view.events)
    keep(request.socket)
  })

  app.post<ServiceParams>('/api/v1/services/:service/drain', async (request, reply) => {
    refuseIfSucceeded(view)
    const { name: service } = findService(view, request.params.service)
    const result = await view.drainService(service, deadlineOf(request.body))
    const by = requester(request)
    view.asked({ kind: 'drain', service, by, text: `${by} drains service ${service}` })
    return reply.code(202).send(begun(result))
  })

  app.post<BackendParams>('/api/v1/services/:service/backends/:id/drain', async (request, reply) => {
    refuseIfSucceeded(view)
    const { name: service, backends } = findService(view, request.params.service)
    const { id, slot, version, pid } = findBackend(service, backends, request.params.id)
    const result = await view.drainBackend(service, id, deadlineOf(request.body))
    const by = requester(request)
    const backend = { id, slot, version, pid }
    view.asked({ kind: 'drain', service, backend, by, text: `${by} drains ${slot} of service ${service}` })
    return reply.code(202).send(begun(result))
  })

  addControlRoutes(app, view, (name) => findService(view, name), requester)
  addOutputRoutes(app, view.outputFolder, (name) => findService(view, name))

  app.post<ServiceParams>('/api/v1/services/:service/shift', async (request, reply) => {
    const { name: service } = findService(view, request.params.service)
    if (view.shift === undefined) throw withoutMaster('shift connections')
    const { success, log } = await view.shift(service, shiftOf(request.body), requester(request))
    return reply.code(success ? 200 : 409).send({ success, log })
  })

  app.post<ServiceParams>('/api/v1/services/:service/scale', async (request, reply) => {
    const { name: service } = findService(view, request.params.service)
    if (view.scale === undefined) throw withoutMaster('scale a service')
    const { success, log, result } = await view.scale(service, scaleOf(request.body), requester(request))
    return reply.code(success ? 200 : 409).send({ success, log, ...result })
  })

  app.post('/api/v1/reload', async (request, reply) => {
    if (view.reload === undefined) throw withoutMaster('reload')
    const { success, log } = await view.reload(requester(request), waitOf(request.query))
    return reply.code(success ? 200 : 409).send({ success, log })
  })
}

const reloadQuery = z.strictObject({ wait: z.enum(['true', 'false']).default('true') })

function waitOf(query: unknown): boolean {
  const result = reloadQuery.safeParse(query)
  if (result.success) return result.data.wait === 'true'
  throw badRequest(result.error)
}

function withoutMaster(what: string): AdminError {
  return new AdminError('BATON_ERR_ADMIN_NO_MASTER', `this broker has no master, so it cannot ${what}`)
}

const shiftBody = z.union(
  [
    z.strictObject({
      to: z.string().regex(VERSION, VERSION_EXPECTED),
      share: z.string().refine((text) => parseShare(text) !== undefined, { error: SHARE_EXPECTED }),
    }),
    z.strictObject({ off: z.literal(true) }),
  ],
  { error: 'expected {"to": VERSION, "share": "N%"} or {"off": true}' },
)

/** Undefined: the shift in force ends. */
function shiftOf(body: unknown): Shift | undefined {
  const result = shiftBody.safeParse(body ?? {})
  if (!result.success) throw badRequest(result.error)
  if ('off' in result.data) return undefined
  const { to, share } = result.data
  return { to, share: parseShare(share) ?? 0 }
}

const scaleBody = z.union(
  [
    z.strictObject({ instances: z.int().min(1).max(MAX_INSTANCES) }),
    z.strictObject({ change: z.int().min(-MAX_INSTANCES).max(MAX_INSTANCES) }),
  ],
  { error: `expected {"instances": N}, from 1 to ${MAX_INSTANCES}, or {"change": N}` },
)

function scaleOf(body: unknown): ScaleTarget {
  const result = scaleBody.safeParse(body ?? {})
  if (result.success) return result.data
  throw badRequest(result.error)
}

/** Everything else is answered by the master, or is about this worker. */
function refuseIfSucceeded(view: WorkerView): void {
  if (view.isSucceeded)
    throw new AdminError(
      'BATON_ERR_ADMIN_LEAVING',
      'a reload has moved the backends to another worker, which answers on a new connection: send the request again',
    )
}

function begun({ draining, deadlineMs }: DrainResult): DrainResult {
  return { draining, deadlineMs }
}

function findService(view: WorkerView, name: string): ServiceStatus {
  const { services } = view.status()
  const service = services.find((candidate) => candidate.name === name)
  if (service !== undefined) return service
  const known = services.map((each) => each.name).join(', ')
  throw new AdminError(
    'BATON_ERR_ADMIN_NO_SERVICE',
    `there is no service ${quoted(name)}; there are: ${known}`,
  )
}

/** Backends that a refusal names. */
const MAX_NAMED = 20

function findBackend(service: string, backends: readonly BackendStatus[], idOrSlot: string): BackendStatus {
  const backend = backends.find(({ id, slot }) => id === idOrSlot || slot === idOrSlot)
  if (backend !== undefined) return backend
  // Slots change with each deploy, so the one that is meant has often another name by now.
  const slots = backends.map(({ slot }) => slot)
  const more = slots.length > MAX_NAMED ? `, and ${slots.length - MAX_NAMED} more` : ''
  const there =
    slots.length === 0 ? 'none is registered' : `there are: ${slots.slice(0, MAX_NAMED).join(', ')}${more}`
  const message = `service ${service} has no backend ${quoted(idOrSlot)}; ${there}`
  throw new AdminError('BATON_ERR_ADMIN_NO_BACKEND', message)
}

function deadlineOf(body: unknown): number | undefined {
  const result = drainBody.safeParse(body ?? {})
  if (result.success) return result.data.deadline
  throw badRequest(result.error)
}

/**
 * Names the requester in the log: the peer's address, and whether a token was required. For a Unix socket the kernel knows the
 * user, but Node has no public API for it.
 */
function requesterOf(socket: Socket, withToken: boolean): string {
  return `${peerOf(socket)} ${withToken ? 'with' : 'without'} a token`
}

function peerOf({ remoteAddress, remotePort, remoteFamily }: Socket): string {
  if (remoteAddress === undefined) return 'a Unix socket'
  return remoteFamily === 'IPv6' ? `[${remoteAddress}]:${remotePort}` : `${remoteAddress}:${remotePort}`
}

interface Readiness {
  readonly ready: boolean
  /** Empty when ready. */
  readonly reasons: readonly string[]
}

/**
 * Ready: not draining, every listener accepts, and every service has a backend that can take a connection now, or upstreams, which need none. Agent
 * checks follow the same rule.
 *
 * @param only one service, and the listeners that lead to it
 */
function readiness(status: Status, only?: ServiceStatus): Readiness {
  const concerns = ({ service, routes = [] }: ListenerStatus) =>
    only === undefined || [service, ...routes.map((route) => route.service)].includes(only.name)
  const reasons = [
    ...(status.broker.state === 'running' ? [] : ['the broker is draining']),
    ...status.listeners
      .filter((listener) => !listener.accepting && concerns(listener))
      .map(({ name }) => `listener ${name} is not accepting`),
    ...(only === undefined ? status.services : [only])
      .filter(
        ({ backends, upstreams = [] }) =>
          upstreams.length === 0 && !backends.some(({ state }) => state === 'ready'),
      )
      .map(({ name }) => `service ${name} has no ready backend`),
  ]
  return { ready: reasons.length === 0, reasons }
}
