import type { Candidate, Balancer } from './candidate.ts'

/**
 * Smooth weighted round robin, as in nginx (ngx_http_upstream_round_robin.c): at every turn each candidate gains its weight, and
 * the one with the most credit is chosen and pays the total. Weights 5, 1, 1 give a a b a c a a, not a a a a a b c. A candidate
 * absent from a turn loses its credit.
 */
export function roundRobin(): Balancer {
  let credit = new Map<string, number>()
  return {
    choose<C extends Candidate>(candidates: readonly C[]) {
      const next = new Map<string, number>()
      let best: C | undefined
      let bestCredit = Number.NEGATIVE_INFINITY
      let total = 0
      for (const candidate of candidates) {
        const current = (credit.get(candidate.id) ?? 0) + candidate.weight
        next.set(candidate.id, current)
        total += candidate.weight
        if (current > bestCredit) {
          best = candidate
          bestCredit = current
        }
      }
      if (best !== undefined) next.set(best.id, bestCredit - total)
      credit = next
      return best
    },
  }
}
