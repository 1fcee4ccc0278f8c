import type { FastifyInstance } from 'fastify'
import * as z from 'zod'
import type { ServiceStatus } from '../../api/status.ts'
import { BackendFilter } from '../../log/kept/backend-filter.ts'
import type { OutputLine } from '../../log/kept/line.ts'
import { readTail, type TailOptions } from '../../log/kept/output-reader.ts'
import { badRequest } from './connection-query.ts'

/** Limits of one answer: a request must not keep the worker busy. In bytes and in characters. */
const MAX_READ_BYTES = 8 * 1024 * 1024
const MAX_TEXT = 512 * 1024
const MAX_LINES = 1000

interface ServiceParams {
  Params: { service: string }
}

const query = z.strictObject({
  backend: z.string().min(1).max(64).optional(),
  lines: z
    .string()
    .transform((text) => (/^\d+$/.test(text) ? Number(text) : 0))
    .refine((lines) => lines >= 1 && lines <= MAX_LINES, `must be a whole number from 1 to ${MAX_LINES}`)
    .default(100),
})

/** Adds the request that shows the end of the kept output of a service. */
export function addOutputRoutes(
  app: FastifyInstance,
  folder: string,
  find: (name: string) => ServiceStatus,
): void {
  app.get<ServiceParams>('/api/v1/services/:service/output', async ({ params, query: given }) => {
    const { name } = find(params.service)
    const result = query.safeParse(given)
    if (!result.success) throw badRequest(result.error)
    const { backend, lines: count } = result.data
    const filter = backend === undefined ? undefined : new BackendFilter(backend)
    const wanted = (line: OutputLine) => filter?.matches(line) ?? true
    const options: TailOptions = { count, wanted, maxBytes: MAX_READ_BYTES, maxText: MAX_TEXT }
    const { lines } = await readTail(folder, name, options)
    return { lines }
  })
}
