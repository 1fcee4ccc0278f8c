// Statistics of small samples. Rounds are paired: the two sides of a ratio are measured back to back, so that drift of the
// machine affects both.

/** @param {readonly number[]} values */
const ascending = (values) => values.toSorted((a, b) => a - b)

/**
 * Interpolates between the two nearest samples (the default of R and NumPy).
 *
 * @param {readonly number[]} values at least one
 * @param {number} share 0 to 1
 */
export function quantile(values, share) {
  const sorted = ascending(values)
  const at = (sorted.length - 1) * share
  const below = sorted[Math.floor(at)]
  const above = sorted[Math.ceil(at)]
  return below + (above - below) * (at - Math.floor(at))
}

/** @param {readonly number[]} values at least one */
export const median = (values) => quantile(values, 0.5)

/** @param {readonly number[]} values at least one */
export function summary(values) {
  return { median: median(values), least: Math.min(...values), most: Math.max(...values) }
}

/**
 * Ratios, round by round.
 *
 * @param {readonly number[]} numerators
 * @param {readonly number[]} denominators of the same length
 */
export function pairedRatios(numerators, denominators) {
  if (numerators.length !== denominators.length)
    throw new RangeError(`${numerators.length} rounds cannot be paired with ${denominators.length}`)
  return numerators.map((value, round) => value / denominators[round])
}

/** Student's t for 95 %, two-sided, by degrees of freedom from 1 (from any published table). */
const STUDENT = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131,
  2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
]
/** For larger samples, where t falls by only another 0.08; the larger value, so that no interval is too narrow. */
const STUDENT_BEYOND = 2.042

/**
 * The 95 % interval of the mean ratio, computed from logarithms, so that a ratio and its inverse agree. Undefined for a
 * single ratio, which has no spread.
 *
 * @param {readonly number[]} ratios
 * @returns {{ low: number, high: number } | undefined}
 */
export function interval95(ratios) {
  const { length } = ratios
  if (length < 2) return undefined
  const logarithms = ratios.map(Math.log)
  const mean = logarithms.reduce((sum, value) => sum + value, 0) / length
  const variance = logarithms.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (length - 1)
  const reach = (STUDENT[length - 2] ?? STUDENT_BEYOND) * Math.sqrt(variance / length)
  return { low: Math.exp(mean - reach), high: Math.exp(mean + reach) }
}
