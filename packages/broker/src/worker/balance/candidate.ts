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
export interface BalanceKey {
  readonly source?: string
}

/**
 * Chooses among the candidates of one service. A chooser may remember its earlier answers, so a service keeps
 * one for its whole life; it does no I/O and keeps nothing of a candidate that has gone.
 */
export interface Balancer {
  choose<C extends Candidate>(candidates: readonly C[], key: BalanceKey): C | undefined
}
