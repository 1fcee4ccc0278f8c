export const FORM = /^(\d{1,10})([KMG]i?)?B?$/

const FACTORS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }

/**
 * Parses `"4MiB"`, `"512K"` or `"1G"`. As for systemd and Docker, all units are powers of 1024.
 *
 * @returns bytes, or undefined if the text is not a size
 */
export function parseSize(text: string): number | undefined {
  const [, count, unit = ''] = FORM.exec(text) ?? []
  const bytes = Number(count) * (FACTORS[unit.replace('i', '')] ?? Number.NaN)
  return Number.isSafeInteger(bytes) ? bytes : undefined
}
