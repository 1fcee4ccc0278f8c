import { BatonNativeError } from './errors.ts'

/** C ends a string at its first NUL: what follows would be lost without a word, so it is refused. */
export function refuseNul(text: string, what: string): void {
  if (text.includes('\0')) throw new BatonNativeError('BATON_ERR_INVALID_ARGUMENT', `${what} has a NUL`)
}
