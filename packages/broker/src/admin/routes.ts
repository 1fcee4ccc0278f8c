import type { FastifyInstance } from 'fastify'
import * as z from 'zod'

import { duration } from '../config/index.ts'
import { AdminError } from './errors.ts'
import { readiness } from './readiness.ts'
import type { BackendStatus, DrainResult, ServiceStatus, WorkerView } from './view.ts'

interface ServiceParams {
  Params: { service: string }
}

interface BackendParams {
  Params: { service: string; id: string }
}

const drainBody = z.strictObject({ deadline: duration(0).optional() })

export function addRoutes(app: FastifyInstance, view: WorkerView): void {
  app.get('/healthz', () => ({ status: 'ok' }))

  app.get('/readyz', (_request, reply) => {
    const answer = readiness(view.status())
    return reply.code(answer.ready ? 200 : 503).send(answer)
  })

  app.get('/metrics', async (_request, reply) =>
    reply.type(view.metricsContentType).send(await view.metricsText()),
  )

  app.get('/api/v1/status', () => view.status())

  app.get<ServiceParams>('/api/v1/services/:service', ({ params }) => findService(view, params.service))

  app.post<ServiceParams>('/api/v1/services/:service/drain', async ({ params, body }, reply) => {
    const service = findService(view, params.service)
    return reply.code(202).send(begun(await view.drainService(service.name, deadlineOf(body))))
  })

  app.post<BackendParams>('/api/v1/services/:service/backends/:id/drain', async ({ params, body }, reply) => {
    const service = findService(view, params.service)
    const backend = findBackend(service, params.id)
    return reply.code(202).send(begun(await view.drainBackend(service.name, backend.id, deadlineOf(body))))
  })

  app.post('/api/v1/reload', async (request, reply) => {
    if (view.reload === undefined) {
      throw new AdminError(
        'BATON_ERR_ADMIN_NO_MASTER',
        'this broker runs without a master that could reload it',
      )
    }
    const { success, log } = await view.reload(request.ip)
    return reply.code(success ? 200 : 409).send({ success, log })
  })
}

function begun({ draining, deadlineMs }: DrainResult): DrainResult {
  return { draining, deadlineMs }
}

function findService(view: WorkerView, name: string): ServiceStatus {
  const service = view.status().services.find((candidate) => candidate.name === name)
  if (service === undefined)
    throw new AdminError('BATON_ERR_ADMIN_NO_SERVICE', `there is no service ${JSON.stringify(name)}`)
  return service
}

function findBackend(service: ServiceStatus, idOrSlot: string): BackendStatus {
  const backend = service.backends.find(({ id, slot }) => id === idOrSlot || slot === idOrSlot)
  if (backend !== undefined) return backend
  const message = `service ${service.name} has no backend ${JSON.stringify(idOrSlot)}`
  throw new AdminError('BATON_ERR_ADMIN_NO_BACKEND', message)
}

function deadlineOf(body: unknown): number | undefined {
  const result = drainBody.safeParse(body ?? {})
  if (result.success) return result.data.deadline
  const problem = result.error.issues.map(({ path, message }) => [...path, message].join(': ')).join('; ')
  throw new AdminError('BATON_ERR_ADMIN_BAD_REQUEST', problem)
}
