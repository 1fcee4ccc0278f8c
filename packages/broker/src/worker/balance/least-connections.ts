import type { Candidate, BalanceKey, Balancer } from './candidate.ts'
import { roundRobin } from './round-robin.ts'

/**
 * The lowest load relative to weight. Idle backends tie, and always taking the first would send every connection of a quiet
 * service to one process, so ties are broken by weighted round robin.
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
