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

/**
 * Smooth weighted round robin, as nginx does it (ngx_http_upstream_round_robin.c): each candidate gains its
 * weight at every turn, the richest is chosen and pays the total. Weights 5, 1, 1 give a a b a c a a, not
 * a a a a a b c. Candidates that are absent from a turn lose what they had.
 */
function roundRobin(): Balancer {
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

/**
 * The lowest load for its weight. Idle backends are equal, and always taking the first of equals would send a
 * quiet service's every connection to one process, so ties go round, by weight.
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
 * The power of two choices (Mitzenmacher, 2001): two different backends are drawn by weight and the one with the
 * lower load for its weight is taken. Several brokers that know only their own load do not all run to the same
 * backend, as they do with the lowest of all.
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

/** One candidate, each with the probability weight / sum of weights. */
function draw<C extends Candidate>(candidates: readonly C[], random: () => number): C | undefined {
  let remaining = random() * candidates.reduce((sum, candidate) => sum + candidate.weight, 0)
  for (const candidate of candidates) {
    remaining -= candidate.weight
    if (remaining < 0) return candidate
  }
  // Rounding can leave a rest that no weight covers.
  return candidates.at(-1)
}

/**
 * The same client address goes to the same backend: rendezvous hashing (Thaler and Ravishankar, 1998). Each
 * candidate draws a number from the hash of client and id; with -ln(u) / weight the smallest wins in proportion
 * to the weights. When a backend goes, only its own clients move, and they spread over all that stay. A client
 * without an address (a Unix socket) is drawn at random, by weight.
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

/** In (0, 1], from 48 bits: a cheaper hash whose bits are not independent would bend the weights. */
function uniform(source: string, id: string): number {
  const digest = createHash('sha1').update(source).update('\0').update(id).digest()
  return (digest.readUIntBE(0, 6) + 1) / 2 ** 48
}
