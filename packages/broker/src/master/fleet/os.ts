import type { Clock } from '@baton/backend-sdk/protocol'
import type { Poller } from '@baton/native-sendmsg'
import { ulid } from 'ulid'
import type { Lifeline } from '../../supervise/lifeline.ts'
import type { Processes } from '../../supervise/processes.ts'
import { systemProcesses } from '../../supervise/system-processes.ts'

/** The time that a fleet lives by. Its `now` goes on across a re-execution, unlike `performance.now()`. */
export interface FleetClock extends Pick<Clock, 'setTimeout' | 'clear'> {
  /** CLOCK_MONOTONIC, in whole milliseconds. */
  now(): number
  /** Milliseconds since the Unix epoch: to show, never to reckon with. */
  date(): number
}

/** What a fleet does to the world: where a test puts its own. */
export interface FleetOs extends FleetClock, Processes {
  /** A new ULID. */
  id(): string
}

const NANOSECONDS = 1_000_000n

export const fleetClock: FleetClock = {
  now: () => Number(process.hrtime.bigint() / NANOSECONDS),
  date: () => Date.now(),
  setTimeout: (callback, milliseconds) => setTimeout(callback, milliseconds),
  clear: (timer) => clearTimeout(timer as NodeJS.Timeout | undefined),
}

/**
 * @param poller the process's own; it stays the caller's
 * @param lifeline the same: every process inherits its read end
 */
export function systemFleetOs(poller: Poller, lifeline: Pick<Lifeline, 'fd'>): FleetOs {
  return { ...fleetClock, ...systemProcesses(poller, lifeline), id: () => ulid() }
}
