import type { FastifyInstance, FastifyRequest } from 'fastify'
import * as z from 'zod'
import { MAX_PAGE_BYTES } from '../../api/maintenance.ts'
import type { ServiceStatus } from '../../api/status.ts'
import { duration } from '../../config/duration-schema.ts'
import { badRequest } from './connection-query.ts'
import type { WorkerView } from './view.ts'

interface ServiceParams {
  Params: { service: string }
}

/** A page in base64, with the rest of the body. */
const PAGE_BODY_BYTES = 2 * MAX_PAGE_BYTES

const MEDIA_TYPE = /^[\w!#$&^.+-]+\/[\w!#$&^.+-]+(?:; ?charset=[\w.:-]+)?$/

const pauseBody = z.strictObject({ for: duration(1).optional() })
const noBody = z.strictObject({})
const maintenanceBody = z
  .strictObject({
    off: z.literal(true).optional(),
    page: z
      .base64()
      .refine((page) => Buffer.byteLength(page, 'base64') <= MAX_PAGE_BYTES, {
        error: `a page has at most ${MAX_PAGE_BYTES} bytes`,
      })
      .optional(),
    type: z
      .string()
      .max(100)
      .regex(MEDIA_TYPE, 'expected a media type like "text/html; charset=utf-8"')
      .default('text/html; charset=utf-8'),
  })
  .refine(({ off, page }) => (off === undefined) !== (page === undefined), {
    error: 'needs either a page or off',
  })

/** Requests that pause and resume services, and put them into maintenance. */
export function addControlRoutes(
  app: FastifyInstance,
  view: WorkerView,
  find: (name: string) => ServiceStatus,
  requester: (request: FastifyRequest) => string,
): void {
  /** The orders that apply to the service now. */
  const shown = (service: string) => {
    const { paused = null, maintenance = null } = find(service)
    return { paused, maintenance }
  }

  app.post<ServiceParams>('/api/v1/services/:service/pause', (request) => {
    const { name: service } = find(request.params.service)
    const { for: milliseconds } = parsed(pauseBody, request.body)
    view.pause(service, milliseconds)
    const by = requester(request)
    const time = milliseconds === undefined ? '' : ` for ${milliseconds} ms`
    view.asked({ kind: 'pause', service, by, text: `${by} pauses service ${service}${time}` })
    return shown(service)
  })

  app.post<ServiceParams>('/api/v1/services/:service/resume', (request) => {
    const { name: service, paused = null } = find(request.params.service)
    parsed(noBody, request.body)
    if (paused !== null) {
      view.resume(service)
      const by = requester(request)
      view.asked({ kind: 'resume', service, by, text: `${by} resumes service ${service}` })
    }
    return { ...shown(service), resumed: paused !== null }
  })

  app.post<ServiceParams>(
    '/api/v1/services/:service/maintenance',
    { bodyLimit: PAGE_BODY_BYTES },
    (request) => {
      const { name: service, maintenance = null } = find(request.params.service)
      const { page, type } = parsed(maintenanceBody, request.body)
      const off = page === undefined
      if (!off || maintenance !== null) {
        view.maintain(service, off ? null : { page, type })
        const by = requester(request)
        const text = off
          ? `${by} ends the maintenance of service ${service}`
          : `${by} puts service ${service} into maintenance`
        view.asked({ kind: 'maintenance', service, to: off ? 'off' : 'on', by, text })
      }
      return { ...shown(service), ended: off && maintenance !== null }
    },
  )
}

function parsed<Schema extends z.ZodType>(schema: Schema, body: unknown): z.output<Schema> {
  const result = schema.safeParse(body ?? {})
  if (result.success) return result.data
  throw badRequest(result.error)
}
