import type { ServiceConfig } from '../../config/config.ts'
import type { FallbackReason, RejectionReason } from '../../metrics/labels.ts'

/** Next step for a connection whose descriptor no backend could take. */
export type Rung =
  | { readonly action: 'reconnect' }
  | { readonly action: 'hold' }
  | { readonly action: 'reject'; readonly reason: RejectionReason }

export interface FallbackState {
  /** Why the previous rung failed. */
  readonly why: FallbackReason
  /** Milliseconds since accept. */
  readonly waited: number
  /** Milliseconds since its first failure under pressure. */
  readonly pressed: number
  /** Whether an untried relay candidate exists. */
  readonly canRelay: boolean
  /** Held connections of the service. */
  readonly held: number
  /** The broker is stopping. */
  readonly stopped: boolean
}

/** Fraction of `ackDeadline` to wait out pressure before relaying. At the full deadline the lane is read back. */
const PRESSURE_SHARE = 0.5

/** Lack of room or descriptors, which passes by itself within milliseconds. */
const PRESSURE: ReadonlySet<FallbackReason> = new Set(['WouldBlock', 'FdPressure'])

export function isPressure(why: FallbackReason): boolean {
  return PRESSURE.has(why)
}

/**
 * The rungs below "another backend", in order: relay (`reconnect`), hold, reject. A relay costs the broker something for as long as
 * it lives, so under pressure a client is held first, and relayed only if the pressure lasts.
 */
export function nextRung(
  { why, waited, pressed, canRelay, held, stopped }: FallbackState,
  config: Pick<ServiceConfig, 'ackDeadline' | 'holdTimeout' | 'maxHeld'>,
): Rung {
  if (stopped) return { action: 'reject', reason: 'shutdown' }
  if (canRelay && !(isPressure(why) && pressed < config.ackDeadline * PRESSURE_SHARE))
    return { action: 'reconnect' }
  if (waited >= config.holdTimeout) return { action: 'reject', reason: 'hold_timeout' }
  if (held >= config.maxHeld) return { action: 'reject', reason: 'hold_full' }
  return { action: 'hold' }
}
