/** See `statistics.mjs`; for its tests. */
export function quantile(values: readonly number[], share: number): number
export function median(values: readonly number[]): number
export function summary(values: readonly number[]): { median: number; least: number; most: number }
export function pairedRatios(numerators: readonly number[], denominators: readonly number[]): number[]
export function interval95(ratios: readonly number[]): { low: number; high: number } | undefined
