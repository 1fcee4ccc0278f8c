/** Maximum instances of a service. */
export const MAX_INSTANCES = 1024

/** A number of instances, or a change of it. */
export type ScaleTarget = { readonly instances: number } | { readonly change: number }

const FORM = /^[+-]?\d{1,15}$/

export const SCALE_EXPECTED = `expected a number of instances from 1 to ${MAX_INSTANCES}, or a change such as +1 or -1`

/** Reads `3`, `+1` or `-1`. Undefined: it is none, or out of every range. */
export function parseScale(text: string): ScaleTarget | undefined {
  if (!FORM.test(text)) return undefined
  const number = Number(text)
  if (Math.abs(number) > MAX_INSTANCES || number === 0) return undefined
  return /^[+-]/.test(text) ? { change: number } : { instances: number }
}
