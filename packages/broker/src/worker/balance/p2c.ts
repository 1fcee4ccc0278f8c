import type { Candidate, Balancer } from './candidate.ts'

/**
 * The power of two choices (Mitzenmacher, 2001): draws two different backends by weight and takes the one with the lower load
 * relative to weight. Brokers that know only their own load do not all rush to the same backend, as they would with least
 * connections.
 */
export function powerOfTwoChoices(random: () => number): Balancer {
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
export function draw<C extends Candidate>(candidates: readonly C[], random: () => number): C | undefined {
  let remaining = random() * candidates.reduce((sum, candidate) => sum + candidate.weight, 0)
  for (const candidate of candidates) {
    remaining -= candidate.weight
    if (remaining < 0) return candidate
  }
  // Rounding can leave a remainder that no weight covers.
  return candidates.at(-1)
}
