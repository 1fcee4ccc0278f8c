import { formatDuration } from '../../config/duration.ts'

/** What is known of a new process that has not taken its place yet. Times are CLOCK_MONOTONIC in milliseconds. */
export interface Trial {
  readonly id: string
  readonly startedAt: number
  /** As the broker said last; undefined while it lists no such backend. */
  readonly state: string | undefined
  /** Since when it is ready without a break. */
  readonly readySince: number | undefined
}

/** Pure: what a report makes of a candidate. Any other state than ready takes it back to the beginning. */
export function observe(trial: Trial, state: string | undefined, now: number): Trial {
  const readySince = state === 'ready' ? (trial.readySince ?? now) : undefined
  return { ...trial, state, readySince }
}

/** When it may take its place, if it stays ready until then. */
export function settledAt({ readySince }: Trial, minHealthy: number): number {
  return readySince === undefined ? Number.POSITIVE_INFINITY : readySince + minHealthy
}

/** Why a candidate whose time is over did not make it. */
export function whyLate({ state, readySince }: Trial, limit: number): string {
  const within = `within ${formatDuration(limit)}`
  if (readySince !== undefined) return `did not stay ready long enough ${within}`
  if (state === undefined) return `did not register with the broker ${within}`
  return `was not ready ${within}; the broker says it is ${state}`
}
