import { createHash } from 'node:crypto'
import type { Candidate, BalanceKey, Balancer } from './candidate.ts'

export type Balance = 'least-connections' | 'round-robin' | 'p2c' | 'source-hash'

/** @param random uniform in [0, 1), like Math.random */
export function createBalancer(balance: Balance, random: () => number = Math.random): Balancer {
  return BALANCES[balance](random)
}

const BALANCES: Readonly<Record<Balance, (random: () => number) => Balancer>> = {
  'least-connections': leastConnections,
  'round-robin': roundRobin,
  p2c: powerOfTwoChoices,
  'source-hash': sourceHash,
}

/** Credits that differ by less are equal: they are sums of fractions. */
const EQUAL_WITHIN = 1e-9

/**
 * Smooth weighted round robin, as in nginx (ngx_http_upstream_round_robin.c): at every turn each candidate gains its weight, and
 * the one with the most credit is chosen and pays the total. Weights 5, 1, 1 give a a b a c a a, not a a a a a b c.
 *
 * A candidate absent from a turn loses its credit or debt, and the others share it by weight, since all credits add up to zero. Of
 * equals, the one that had the last turn waits. Together they make sure that a backend which missed its turn has the next one.
 */
function roundRobin(): Balancer {
  let credit = new Map<string, number>()
  let last: string | undefined
  return {
    choose<C extends Candidate>(candidates: readonly C[]) {
      let sum = 0
      let weights = 0
      for (const { id, weight } of candidates) {
        const known = credit.get(id)
        if (known === undefined) continue
        sum += known
        weights += weight
      }
      const next = new Map<string, number>()
      let best: C | undefined
      let bestCredit = Number.NEGATIVE_INFINITY
      let total = 0
      for (const candidate of candidates) {
        const { id, weight } = candidate
        const known = credit.get(id)
        const current = weight + (known === undefined ? 0 : known - (sum * weight) / weights)
        next.set(id, current)
        total += weight
        const ahead = current - bestCredit
        if (ahead > EQUAL_WITHIN || (ahead > -EQUAL_WITHIN && best?.id === last)) {
          best = candidate
          bestCredit = current
        }
      }
      if (best !== undefined) next.set(best.id, bestCredit - total)
      credit = next
      last = best?.id
      return best
    },
  }
}

/**
 * The lowest load relative to weight. Idle backends tie, and always taking the first would send every connection of a quiet
 * service to one process, so ties are broken by weighted round robin.
 */
function leastConnections(): Balancer {
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

/**
 * The power of two choices (Mitzenmacher, 2001): draws two different backends by weight and takes the one with the lower load
 * relative to weight. Brokers that know only their own load do not all rush to the same backend, as they would with least
 * connections.
 */
function powerOfTwoChoices(random: () => number): Balancer {
  return {
    choose<C extends Candidate>(candidates: readonly C[]) {
      const first = draw(candidates, random)
      if (first === undefined || candidates.length === 1) return first
      const second = draw(
        candidates.filter((candidate) => candidate !== first),
        random,
      )
      if (second === undefined) return first
      return second.load / second.weight < first.load / first.weight ? second : first
    },
  }
}

/** Draws one candidate, each with probability weight / sum of weights. */
function draw<C extends Candidate>(candidates: readonly C[], random: () => number): C | undefined {
  let remaining = random() * candidates.reduce((sum, candidate) => sum + candidate.weight, 0)
  for (const candidate of candidates) {
    remaining -= candidate.weight
    if (remaining < 0) return candidate
  }
  // Rounding can leave a remainder that no weight covers.
  return candidates.at(-1)
}

/**
 * The same client address always goes to the same backend: rendezvous hashing (Thaler and Ravishankar, 1998). Each candidate gets a
 * uniform number u from the hash of address and id; the smallest -ln(u) / weight wins, in proportion to the weights. When a
 * backend goes away, only its own clients move, spread over all others. Clients without an address (Unix sockets) go to a
 * random backend, by weight.
 */
function sourceHash(random: () => number): Balancer {
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
