/**
 * A backend or upstream to choose from. `weight` is positive; `load` counts its connections, including those in flight. Under
 * source-hash clients stick to the `id`: a slot name, which the backend's successor takes over, keeps them together through a
 * deploy; a ULID would not.
 */
export interface Candidate {
  readonly id: string
  readonly weight: number
  readonly load: number
}

/** Client properties that a choice may depend on. `source` is its IP address, absent for a Unix socket. */
export interface BalanceKey {
  readonly source?: string
}

/**
 * Chooses among the candidates of one service. A balancer may remember earlier choices, so a service keeps one for its whole
 * life. No I/O; forgets candidates that are gone.
 */
export interface Balancer {
  choose<C extends Candidate>(candidates: readonly C[], key: BalanceKey): C | undefined
}
