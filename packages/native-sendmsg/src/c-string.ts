import { BatonNativeError } from './errors.ts'

/** Refuses text with a NUL, at which C would silently cut it off. */
export function refuseNul(text: string, what: string): void {
  if (text.includes('\0')) throw new BatonNativeError('BATON_ERR_INVALID_ARGUMENT', `${what} contains a NUL`)
}
