import type { Balancer } from './candidate.ts'
import { leastConnections } from './least-connections.ts'
import { powerOfTwoChoices } from './p2c.ts'
import { roundRobin } from './round-robin.ts'
import { sourceHash } from './source-hash.ts'

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
