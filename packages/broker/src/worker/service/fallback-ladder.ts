import type { ServiceConfig } from '../../config/config.ts'
import type { FallbackReason, RejectionReason } from '../../metrics/labels.ts'

/** Where a client goes to whom no descriptor could be passed on for. */
export type Rung =
  | { readonly action: 'reconnect' }
  | { readonly action: 'hold' }
  | { readonly action: 'reject'; readonly reason: RejectionReason }

export interface FallbackState {
  /** Why the rung before was left. */
  readonly why: FallbackReason
  /** Milliseconds since accept. */
  readonly waited: number
  /** Milliseconds since it failed for want of room for the first time. */
  readonly pressed: number
  /** Whether there is somebody who takes bytes and was not asked yet. */
  readonly carrier: boolean
  /** Clients of the service that wait already. */
  readonly held: number
  /** The broker ends. */
  readonly stopped: boolean
}

/** For how much of `ackDeadline` want of room is waited out. At the whole of it the lane is read back. */
const PRESSURE_SHARE = 0.5

/** Want of room, which passes by itself within milliseconds. */
const PRESSURE: ReadonlySet<FallbackReason> = new Set(['WouldBlock', 'FdPressure'])

export function isPressure(why: FallbackReason): boolean {
  return PRESSURE.has(why)
}

/**
 * The rungs below "another backend", in order: silent reconnect, hold, reject. A relay costs something for as long as it
 * lasts, so under pressure a client waits first, and is relayed when the pressure lasts.
 */
export function nextRung(
  { why, waited, pressed, carrier, held, stopped }: FallbackState,
  config: Pick<ServiceConfig, 'ackDeadline' | 'holdTimeout' | 'maxHeld'>,
): Rung {
  if (stopped) return { action: 'reject', reason: 'shutdown' }
  if (carrier && !(isPressure(why) && pressed < config.ackDeadline * PRESSURE_SHARE))
    return { action: 'reconnect' }
  if (waited >= config.holdTimeout) return { action: 'reject', reason: 'hold_timeout' }
  if (held >= config.maxHeld) return { action: 'reject', reason: 'hold_full' }
  return { action: 'hold' }
}
