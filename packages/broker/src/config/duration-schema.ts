import * as z from 'zod'
import { FORM, MAX_MS, parseDuration } from './duration.ts'

const EXPECTED = 'expected milliseconds or a string like "250ms", "30s", "5m" or "1h"'

/** A configuration value that is a duration; its output is milliseconds. */
export function duration(minimumMs: number) {
  return z
    .union(
      [
        z
          .int({ error: EXPECTED })
          .min(0, EXPECTED)
          .max(MAX_MS, `must be at most ${MAX_MS} ms`)
          // For editors. The transform below enforces the minimum for both forms.
          .meta({ minimum: minimumMs }),
        z.string({ error: EXPECTED }).regex(FORM, EXPECTED),
      ],
      { error: EXPECTED },
    )
    .transform((value, context) => {
      const ms = typeof value === 'number' ? value : parseDuration(value)
      if (ms === undefined) {
        context.addIssue({ code: 'custom', message: `must be at most ${MAX_MS} ms` })
        return z.NEVER
      }
      if (ms < minimumMs) context.addIssue({ code: 'custom', message: `must be at least ${minimumMs} ms` })
      return ms
    })
    .meta({ title: 'duration' })
}
