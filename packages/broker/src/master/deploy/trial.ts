import { formatDuration } from '../../config/duration.ts'
import type { ProcessExit } from '../../supervise/child.ts'

/** How long a new process may take to become ready, in ms. `minHealthy` is added. */
export const START_TIMEOUT_MS = 60_000

/** How old the last report may be, in ms. Workers report once a second; one that has not for this long is stuck, or there is none. */
const MAX_REPORT_AGE_MS = 3000

/** A new process that has to show that it works. Times are CLOCK_MONOTONIC in ms. */
export interface Trial {
  readonly id: string
  readonly startedAt: number
  /** Last reported state; undefined while the backend is not registered. */
  readonly state: string | undefined
  /** Time of the last report of the serving worker. */
  readonly seenAt: number
  /** Start of the current uninterrupted ready period. */
  readonly readySince: number | undefined
}

/** Of a process that was started now. */
export function newTrial(id: string, now: number): Trial {
  return { id, startedAt: now, state: undefined, seenAt: now, readySince: undefined }
}

/**
 * Applies a report to a trial. Pure. Any state other than ready restarts the ready period.
 *
 * @param fresh see `FleetObserver`
 */
export function observe(trial: Trial, state: string | undefined, now: number, fresh: boolean): Trial {
  const readySince = state === 'ready' ? (trial.readySince ?? now) : undefined
  return { ...trial, state, seenAt: fresh ? now : trial.seenAt, readySince }
}

/** Whether the last report of the serving worker is too old to tell how a process is now. */
export function isOutdated(seenAt: number, now: number): boolean {
  return now - seenAt > MAX_REPORT_AGE_MS
}

/** When the process has shown that it works, if it stays ready until then. Infinity while that is not known, until the next report. */
export function settledAt({ readySince, seenAt }: Trial, minHealthy: number, now: number): number {
  const isUnknown = readySince === undefined || isOutdated(seenAt, now)
  return isUnknown ? Number.POSITIVE_INFINITY : readySince + minHealthy
}

/** Why a trial timed out. */
export function whyLate({ state, readySince, seenAt }: Trial, limit: number, now: number): string {
  const within = `within ${formatDuration(limit)}`
  if (readySince !== undefined && isOutdated(seenAt, now))
    return `is not known to be ready: the worker has not reported for ${formatDuration(Math.round(now - seenAt))}`
  if (readySince !== undefined) return `did not stay ready long enough ${within}`
  if (state === undefined) return `did not register with the broker ${within}`
  return `was not ready ${within}; the broker reports it as ${state}`
}

export function describeExit({ code, signal, error }: ProcessExit): string {
  if (error !== undefined) return `could not be started: ${error}`
  if (code !== null) return `exited with code ${code}`
  return `was killed by ${signal ?? 'an unnamed signal'}`
}
