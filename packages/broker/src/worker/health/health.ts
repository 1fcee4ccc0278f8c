import type { Health } from '../backend/eligibility.ts'

export interface HealthRecord {
  readonly health: Health
  /** Failed checks in a row. */
  readonly failures: number
}

/**
 * So many failures in a row, and the backend is not chosen any more. One can be a hiccup (a pause of its garbage collector, a
 * pool that was empty for a moment), and to leave out a good backend burdens the others; with the default interval three
 * of them tell within six seconds.
 */
export const FAILURES = 3

/** A backend that has just registered. */
export const UNCHECKED: HealthRecord = { health: 'starting', failures: 0 }

/**
 * What one more check makes of a backend. Pure.
 *
 *     starting, unhealthy -- a check succeeds ------> healthy
 *     starting, healthy   -- 3 in a row have failed -> unhealthy
 */
export function judge({ health, failures }: HealthRecord, result: 'passed' | 'failed'): HealthRecord {
  if (result === 'passed') return { health: 'healthy', failures: 0 }
  const inARow = failures + 1
  return { health: inARow >= FAILURES ? 'unhealthy' : health, failures: inARow }
}
