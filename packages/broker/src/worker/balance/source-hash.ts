import { createHash } from 'node:crypto'

import type { Candidate, BalanceKey, Balancer } from './candidate.ts'
import { draw } from './p2c.ts'

/**
 * The same client address goes to the same backend: rendezvous hashing (Thaler and Ravishankar, 1998). Each
 * candidate draws a number from the hash of client and id; with -ln(u) / weight the smallest wins in proportion
 * to the weights. When a backend goes, only its own clients move, and they spread over all that stay. A client
 * without an address (a Unix socket) is drawn at random, by weight.
 */
export function sourceHash(random: () => number): Balancer {
  return {
    choose<C extends Candidate>(candidates: readonly C[], { source }: BalanceKey) {
      if (source === undefined) return draw(candidates, random)
      let best: C | undefined
      let bestScore = Number.POSITIVE_INFINITY
      for (const candidate of candidates) {
        const score = -Math.log(uniform(source, candidate.id)) / candidate.weight
        if (score < bestScore) {
          best = candidate
          bestScore = score
        }
      }
      return best
    },
  }
}

/** In (0, 1], from 48 bits: a cheaper hash whose bits are not independent would bend the weights. */
function uniform(source: string, id: string): number {
  const digest = createHash('sha1').update(source).update('\0').update(id).digest()
  return (digest.readUIntBE(0, 6) + 1) / 2 ** 48
}
