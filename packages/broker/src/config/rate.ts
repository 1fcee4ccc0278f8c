import * as z from 'zod'

const FORM = /^([1-9]\d{0,6})\/(s|m|h)$/
const EXPECTED = 'expected a rate like "50/s", "10/m" or "100/h"'

const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600 }

export interface Rate {
  readonly perSecond: number
}

/** Undefined: it is no rate. */
export function parseRate(text: string): Rate | undefined {
  const [, number, unit = ''] = FORM.exec(text) ?? []
  const seconds = SECONDS[unit]
  return seconds === undefined ? undefined : { perSecond: Number(number) / seconds }
}

/** In the smallest unit in which it is a whole number. */
export function formatRate({ perSecond }: Rate): string {
  const isWhole = (seconds: number) => Math.abs(perSecond * seconds - Math.round(perSecond * seconds)) < 1e-6
  const [unit = 'h', seconds = 3600] = Object.entries(SECONDS).find(([, each]) => isWhole(each)) ?? []
  return `${Math.round(perSecond * seconds)}/${unit}`
}

/** A configuration value that is a rate. */
export function rate() {
  return z
    .string({ error: EXPECTED })
    .regex(FORM, EXPECTED)
    .transform((text) => parseRate(text) ?? z.NEVER)
    .meta({ title: 'rate' })
}
