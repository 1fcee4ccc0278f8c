import { realpathSync, statSync } from 'node:fs'
import type { Clock } from '@baton/backend-sdk/protocol'
import type { Poller } from '@baton/native-sendmsg'
import { ulid } from 'ulid'
import {
  Child,
  type ChildEvents,
  type ChildNumbers,
  type RunningProcess,
  startFailure,
} from '../../supervise/child.ts'
import { MAX_MS } from '../../config/duration.ts'
import { LIFELINE, type Lifeline } from '../../supervise/lifeline.ts'

/** The clock of a fleet. Unlike `performance.now()`, its `now` continues across a re-execution. */
export interface FleetClock extends Pick<Clock, 'setTimeout' | 'clear'> {
  /** CLOCK_MONOTONIC, in whole milliseconds. */
  now(): number
  /** Milliseconds since the Unix epoch: for display, never for arithmetic. */
  date(): number
}

/** The system as a fleet uses it. Tests replace it. */
export interface FleetOs extends FleetClock {
  /** Starts a command in `cwd`, or if that is gone, where the links of `folder` lead now. Failures are reported as an exit. */
  start(
    command: readonly string[],
    options: { env: NodeJS.ProcessEnv; cwd: string; folder?: string | undefined },
    events: ChildEvents,
  ): RunningProcess
  /**
   * A process that was started before this program re-executed itself, or (`foreign`, see `AdoptOptions`) by another master. Owns the descriptors
   * from now on.
   */
  adopt(numbers: ChildNumbers, events: ChildEvents, foreign?: string): RunningProcess
  /** A new ULID. */
  id(): string
}

const NANOSECONDS = 1_000_000n

export const fleetClock: FleetClock = {
  now: () => Number(process.hrtime.bigint() / NANOSECONDS),
  date: () => Date.now(),
  // `minHealthy` and the time for a start may be longer together than a timer: then it is looked again before.
  setTimeout: (callback, milliseconds) => setTimeout(callback, Math.min(MAX_MS, milliseconds)),
  clear: (timer) => clearTimeout(timer as NodeJS.Timeout | undefined),
}

/** From 3 to LIFELINE: these numbers are left closed. */
const CLOSED_BETWEEN = Array.from({ length: LIFELINE - 3 }, () => 'ignore' as const)

/**
 * @param poller reports the exit of adopted processes; remains the caller's
 * @param lifeline each process inherits its read end as LIFELINE; remains the caller's
 */
export function systemFleetOs(poller: Poller, lifeline: Pick<Lifeline, 'fd'>): FleetOs {
  return {
    ...fleetClock,
    start(command, { env, cwd, folder }, events) {
      const descriptors = [...CLOSED_BETWEEN, lifeline.fd]
      try {
        const where = existingFolder(cwd, folder)
        // A leader: the operator's Ctrl-C is left to the master, which drains first.
        return Child.start(command, { env, cwd: where, stdout: 'read', descriptors, leader: true }, events)
      } catch (error) {
        return neverStarted(error as Error, events)
      }
    },
    adopt: (numbers, events, foreign) => Child.adopt(numbers, { poller, leader: true, foreign }, events),
    id: () => ulid(),
  }
}

/**
 * A release folder belongs to the version that was deployed from it, so a restarted process starts there, even if a `current` link points
 * elsewhere by then. If the folder was removed, the link is what remains. spawn(2) would report the program as missing.
 */
function existingFolder(cwd: string, folder = cwd): string {
  if (isFolder(cwd)) return cwd
  if (isFolder(folder)) return realpathSync(folder)
  throw new Error(`the working folder ${folder} is gone`)
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
}

function neverStarted(error: Error, events: ChildEvents): RunningProcess {
  const report = setImmediate(() => events.exited(startFailure(error)))
  return { pid: undefined, numbers: undefined, signal() {}, close: () => clearImmediate(report) }
}
