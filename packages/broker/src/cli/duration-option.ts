import { parseDuration } from '../config/duration.ts'
import { UsageError } from './output/terminal.ts'

/**
 * A number without a unit is refused, except 0: who writes `--for 30` means seconds, and would get milliseconds.
 *
 * @returns milliseconds; undefined if the option is not given. @throws UsageError
 */
export function parseDurationOption(name: string, text: string | undefined, least = 0): number | undefined {
  if (text === undefined) return undefined
  const ms = parseDuration(text === '0' ? '0s' : text)
  if (ms === undefined)
    throw new UsageError(`--${name}: ${JSON.stringify(text)} is not a duration such as 250ms, 30s or 5m`)
  if (ms < least) throw new UsageError(`--${name}: must be at least ${least} ms`)
  return ms
}
