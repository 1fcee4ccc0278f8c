import { formatDuration } from '../../config/duration.ts'
import type { ProcessExit } from '../../supervise/child.ts'

/** How long a new process may take to become ready, in ms. `minHealthy` is added. */
export const START_TIMEOUT_MS = 60_000

/** A new process that has to show that it works. Times are CLOCK_MONOTONIC in ms. */
export interface Trial {
  readonly id: string
  readonly startedAt: number
  /** Last reported state; undefined while the backend is not registered. */
  readonly state: string | undefined
  /** Start of the current uninterrupted ready period. */
  readonly readySince: number | undefined
}

/** Applies a report to a trial. Pure. Any state other than ready restarts the ready period. */
export function observe(trial: Trial, state: string | undefined, now: number): Trial {
  const readySince = state === 'ready' ? (trial.readySince ?? now) : undefined
  return { ...trial, state, readySince }
}

/** When the process has shown that it works, if it stays ready until then. */
export function settledAt({ readySince }: Trial, minHealthy: number): number {
  return readySince === undefined ? Number.POSITIVE_INFINITY : readySince + minHealthy
}

/** Why a trial timed out. */
export function whyLate({ state, readySince }: Trial, limit: number): string {
  const within = `within ${formatDuration(limit)}`
  if (readySince !== undefined) return `did not stay ready long enough ${within}`
  if (state === undefined) return `did not register with the broker ${within}`
  return `was not ready ${within}; the broker reports it as ${state}`
}

export function describeExit({ code, signal, error }: ProcessExit): string {
  if (error !== undefined) return `could not be started: ${error}`
  if (code !== null) return `exited with code ${code}`
  return `was killed by ${signal ?? 'an unnamed signal'}`
}
