const FORM = /^(\d{1,3})(?:\.(\d{1,2}))?%$/
const WHOLE = 10_000

/** Describes what `parseShare` reads. */
export const SHARE_EXPECTED = 'a share is a percentage such as 5%, 12.5% or 100%'

/** Parses `"5%"` or `"0.25%"`. @returns hundredths of a percent, 0 to 10000; undefined for anything else */
export function parseShare(text: string): number | undefined {
  const [, whole, fraction = ''] = FORM.exec(text) ?? []
  if (whole === undefined) return undefined
  const share = Number(whole) * 100 + Number(fraction.padEnd(2, '0'))
  return share <= WHOLE ? share : undefined
}

/** The inverse of `parseShare`. */
export function formatShare(share: number): string {
  return `${share / 100}%`
}
