const BARS = '▁▂▃▄▅▆▇█'

/** Values as a line of bars, the greatest being the highest; nothing but zeros is a flat line. */
export function sparkline(values: readonly number[]): string {
  const greatest = Math.max(...values, 0)
  return values
    .map((value) => BARS[greatest === 0 ? 0 : Math.round((value / greatest) * (BARS.length - 1))])
    .join('')
}
