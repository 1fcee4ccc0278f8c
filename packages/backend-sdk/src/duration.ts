const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/**
 * A length of time as people write it: milliseconds as a number, or `"250ms"`, `"30s"`, `"5m"`, `"1h"`.
 * Returns milliseconds, or undefined when it is none of these.
 */
export function parseDuration(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) && value >= 0 ? value : undefined
  if (typeof value !== 'string') return undefined
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(value)
  if (match === null) return undefined
  return Number(match[1]) * (UNITS[match[2] as string] as number)
}
