import { isUlid, ulidToBytes } from '@baton/backend-sdk/protocol'
import * as z from 'zod'
import { RECORDED_OUTCOMES, type RecordQuery } from '../../api/flight-record.ts'
import { AdminError } from './errors.ts'
import { quoted } from './quoted.ts'

const MAX_RECORDS = 1000
/** Maximum characters of a validation error, in which zod repeats the names of unknown parameters. */
const MAX_PROBLEM_LENGTH = 512

const query = z.strictObject({
  service: z.string().optional(),
  outcome: z.enum(RECORDED_OUTCOMES).optional(),
  slowest: z.enum(['true', 'false']).default('false'),
  limit: z
    .string()
    .transform((text) => (/^\d+$/.test(text) ? Number(text) : 0))
    .refine((limit) => limit >= 1 && limit <= MAX_RECORDS, `must be a whole number from 1 to ${MAX_RECORDS}`)
    .default(50),
})

/** @throws {AdminError} BATON_ERR_ADMIN_BAD_REQUEST, naming the invalid parameter */
export function connectionQuery(parameters: unknown): RecordQuery {
  const result = query.safeParse(parameters)
  if (!result.success) throw badRequest(result.error)
  const { slowest, ...rest } = result.data
  return { ...rest, slowest: slowest === 'true' }
}

/** @throws {AdminError} BATON_ERR_ADMIN_BAD_REQUEST */
export function connectionId(text: string): Buffer {
  const id = text.toUpperCase()
  if (isUlid(id)) return ulidToBytes(id)
  throw new AdminError(
    'BATON_ERR_ADMIN_BAD_REQUEST',
    `${quoted(text)} is not a connection id: 26 characters of base 32`,
  )
}

/** Formats zod's issues as one line. */
export function badRequest({ issues }: z.ZodError): AdminError {
  const problem = issues.map(({ path, message }) => [...path, message].join(': ')).join('; ')
  return new AdminError('BATON_ERR_ADMIN_BAD_REQUEST', problem.slice(0, MAX_PROBLEM_LENGTH))
}
