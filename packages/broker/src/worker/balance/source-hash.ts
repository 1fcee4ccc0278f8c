import { createHash } from 'node:crypto'

import type { Candidate, BalanceKey, Balancer } from './candidate.ts'
import { draw } from './p2c.ts'

/**
 * The same client address always goes to the same backend: rendezvous hashing (Thaler and Ravishankar, 1998). Each candidate gets a
 * uniform number u from the hash of address and id; the smallest -ln(u) / weight wins, in proportion to the weights. When a
 * backend goes away, only its own clients move, spread over all others. Clients without an address (Unix sockets) go to a
 * random backend, by weight.
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

/** In (0, 1], from 48 bits of SHA-1: a cheaper hash whose bits are not independent would distort the weights. */
function uniform(source: string, id: string): number {
  const digest = createHash('sha1').update(source).update('\0').update(id).digest()
  return (digest.readUIntBE(0, 6) + 1) / 2 ** 48
}
