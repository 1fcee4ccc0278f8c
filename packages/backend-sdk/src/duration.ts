/** The units of a duration and their length in milliseconds, longest first. */
export const DURATION_UNITS: ReadonlyMap<string, number> = new Map([
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
  ['ms', 1],
])

/**
 * Parses a duration: milliseconds as a number, or a string such as `"250ms"`, `"1.5s"`, `"5m"`, `"1h"`. Further limits (whole
 * milliseconds, a maximum) are left to the caller.
 *
 * @returns milliseconds, or undefined if `value` is not a duration
 */
export function parseDuration(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) && value >= 0 ? value : undefined
  if (typeof value !== 'string') return undefined
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(value) ?? []
  const factor = DURATION_UNITS.get(unit)
  return factor === undefined ? undefined : Number(digits) * factor
}
