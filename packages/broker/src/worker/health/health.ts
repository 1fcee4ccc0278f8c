import type { Health } from '../backend/eligibility.ts'

export interface HealthRecord {
  readonly health: Health
  /** Failed checks in a row. */
  readonly failures: number
}

/**
 * Failures in a row after which a backend is no longer chosen. A single one can be a hiccup (a garbage-collection pause, a pool that
 * was empty for a moment), and excluding a good backend burdens the others. At the default interval, three take six seconds at most.
 */
export const FAILURES = 3

/** A backend that has just registered. */
export const UNCHECKED: HealthRecord = { health: 'starting', failures: 0 }

/**
 * The health of a backend after one more check. Pure.
 *
 *     starting, unhealthy -- a check succeeds ------> healthy
 *     starting, healthy   -- 3 in a row have failed -> unhealthy
 */
export function judge({ health, failures }: HealthRecord, result: 'passed' | 'failed'): HealthRecord {
  if (result === 'passed') return { health: 'healthy', failures: 0 }
  const inARow = failures + 1
  return { health: inARow >= FAILURES ? 'unhealthy' : health, failures: inARow }
}
