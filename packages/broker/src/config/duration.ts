import { DURATION_UNITS, parseDuration as readDuration } from '@baton/backend-sdk/duration'

/** Maximum delay of setTimeout, about 24.8 days; a longer one would fire after 1 ms. */
export const MAX_MS = 2 ** 31 - 1

export const FORM = /^(\d{1,10})(ms|s|m|h)$/

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
