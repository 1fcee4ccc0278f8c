import type { Candidate, BalanceKey, Balancer } from './candidate.ts'
import { roundRobin } from './round-robin.ts'

/**
 * The lowest load for its weight. Idle backends are equal, and always taking the first of equals would send a
 * quiet service's every connection to one process, so ties go round, by weight.
 */
export function leastConnections(): Balancer {
  const ties = roundRobin()
  return {
    choose<C extends Candidate>(candidates: readonly C[], key: BalanceKey) {
      let lowest = Number.POSITIVE_INFINITY
      let equals: C[] = []
      for (const candidate of candidates) {
        const relative = candidate.load / candidate.weight
        if (relative > lowest) continue
        if (relative < lowest) equals = []
        lowest = relative
        equals.push(candidate)
      }
      return equals.length > 1 ? ties.choose(equals, key) : equals[0]
    },
  }
}
