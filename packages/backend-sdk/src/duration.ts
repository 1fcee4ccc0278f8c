/** Milliseconds of each unit that a length of time is written in, the longest first. */
export const DURATION_UNITS: ReadonlyMap<string, number> = new Map([
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
  ['ms', 1],
])

/**
 * A length of time as people write it: milliseconds as a number, or `"250ms"`, `"30s"`, `"5m"`, `"1h"`. What else a place asks of
 * it (whole, not too long) is that place's to check.
 *
 * @returns milliseconds, or undefined when it is none of these
 */
export function parseDuration(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) && value >= 0 ? value : undefined
  if (typeof value !== 'string') return undefined
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(value) ?? []
  const factor = DURATION_UNITS.get(unit)
  return factor === undefined ? undefined : Number(digits) * factor
}
