import { leastConnections } from './least-connections.ts'
import { powerOfTwoChoices } from './p2c.ts'
import { roundRobin } from './round-robin.ts'
import { sourceHash } from './source-hash.ts'

/**
 * A backend that may be chosen. `weight` is positive, `load` counts its live and promised connections. With
 * source-hash the `id` is what clients stick to: a slot name that the backend's successor takes over keeps them
 * together through a deployment, a ULID does not.
 */
export interface Candidate {
  readonly id: string
  readonly weight: number
  readonly load: number
}

/** What is known of the client. `source` is its IP address, absent on a Unix socket. */
export interface ChooseKey {
  readonly source?: string
}

/**
 * Chooses among the candidates of one service. A chooser may remember its earlier answers, so a service keeps
 * one for its whole life; it does no I/O and keeps nothing of a candidate that has gone.
 */
export interface Chooser {
  choose<C extends Candidate>(candidates: readonly C[], key: ChooseKey): C | undefined
}

export type Balance = 'least-connections' | 'round-robin' | 'p2c' | 'source-hash'

/** @param random uniform in [0, 1), like Math.random */
export function createBalancer(balance: Balance, random: () => number = Math.random): Chooser {
  return BALANCES[balance](random)
}

const BALANCES: Readonly<Record<Balance, (random: () => number) => Chooser>> = {
  'least-connections': leastConnections,
  'round-robin': roundRobin,
  p2c: powerOfTwoChoices,
  'source-hash': sourceHash,
}
