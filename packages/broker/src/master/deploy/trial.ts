import { formatDuration } from '../../config/duration.ts'

/** A new process that has not taken over yet. Times are CLOCK_MONOTONIC in ms. */
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

/** When the process may take over, if it stays ready until then. */
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
