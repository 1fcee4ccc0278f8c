import { DURATION_UNITS, parseDuration as readDuration } from '@baton/backend-sdk/protocol'
import * as z from 'zod'

/** Maximum delay of setTimeout, about 24.8 days; a longer one would fire after 1 ms. */
const MAX_MS = 2 ** 31 - 1

const FORM = /^(\d{1,10})(ms|s|m|h)$/
const EXPECTED = 'expected milliseconds or a string like "250ms", "30s", "5m" or "1h"'

/**
 * Parses `"250ms"`, `"30s"`, `"5m"` or `"1h"`.
 *
 * @returns whole milliseconds, or undefined if the text is not a duration or exceeds the maximum delay of a timer
 */
export function parseDuration(text: string): number | undefined {
  const ms = FORM.test(text) ? readDuration(text) : undefined
  return ms !== undefined && ms <= MAX_MS ? ms : undefined
}

/** The shortest form that `parseDuration` converts back to the same number: 90000 is `90s`, 60000 is `1m`. */
export function formatDuration(ms: number): string {
  if (ms === 0) return '0s'
  for (const [unit, factor] of DURATION_UNITS) if (ms % factor === 0) return `${ms / factor}${unit}`
  return `${ms}ms`
}

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
