/** Maximum instances of a service. */
export const MAX_INSTANCES = 1024

/** A number of instances, or a change of it. */
export type ScaleTarget = { readonly instances: number } | { readonly change: number }

const FORM = /^\+?\d{1,15}$/

export const SCALE_EXPECTED = `expected the number of instances to run, from 1 to ${MAX_INSTANCES}, or +N for more`

/** Reads `3` or `+1`. Undefined: it is none, or out of every range. A negative number may be a mistake, and is none. */
export function parseScale(text: string): ScaleTarget | undefined {
  if (!FORM.test(text)) return undefined
  const number = Number(text)
  if (number > MAX_INSTANCES || number === 0) return undefined
  return text.startsWith('+') ? { change: number } : { instances: number }
}
