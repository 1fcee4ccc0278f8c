import * as z from 'zod'
import { FORM, parseSize } from './size.ts'

const EXPECTED = 'expected bytes or a string like "512KiB", "4MiB" or "1GiB"'

/** A configuration value that is a size; its output is bytes. */
export function size(minimum: number) {
  return z
    .union(
      [
        z.int({ error: EXPECTED }).min(0, EXPECTED).meta({ minimum }),
        z.string({ error: EXPECTED }).regex(FORM, EXPECTED),
      ],
      { error: EXPECTED },
    )
    .transform((value, context) => {
      const bytes = typeof value === 'number' ? value : parseSize(value)
      if (bytes !== undefined) return bytes
      context.addIssue({ code: 'custom', message: EXPECTED })
      return z.NEVER
    })
    .refine((bytes) => bytes >= minimum, { error: `must be at least ${minimum / 1024} KiB` })
    .meta({ title: 'size' })
}
