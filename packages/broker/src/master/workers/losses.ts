/** Names what a balance is of: `service NAME`, or `listener NAME` for connections that are not routed yet. */
export type BalanceKey = `${'service' | 'listener'} ${string}`

export type Balances = ReadonlyMap<BalanceKey, number>

/** The connections of a worker that has ended, as far as it has written them down. */
export interface LastBalance {
  /** Those that have no outcome, and have not gone to another worker. Negative if it had not written all arrivals yet. */
  readonly open: Balances
  /** Those that came from other processes of the broker, less those that went to other workers. Undefined from a worker of an older version. */
  readonly moved: Balances | undefined
}

/** Of a worker that has ended before it had a connection. */
export const NOTHING: LastBalance = { open: new Map(), moved: new Map() }

/** The part that crosses the master's exec and death. */
export interface LossesState {
  readonly open: Readonly<Record<string, number>>
  readonly moved: Readonly<Record<string, number>>
  readonly isBlind?: boolean
}

/**
 * How many connections are lost with workers that have ended. No I/O.
 *
 * Each worker writes down what it does, each in its own file, and may be killed in between: after it has sent connections to another worker, or has
 * taken some. Then both count them, or neither. So the balance of a dead worker alone says nothing about what moved at that moment. But once nothing
 * moves any more, all that has gone somewhere has come somewhere, and what all workers together have counted on arrival beyond what they have counted on
 * departure is what the dead have not written down. Whatever survived its worker is `open` there until another one has it.
 */
export class Losses {
  readonly #open = new Map<BalanceKey, number>()
  /** Over all workers that have ended. */
  readonly #moved = new Map<BalanceKey, number>()
  #isBlind = false

  /** @param state null: of an older version, which did not count moves */
  constructor(state?: LossesState | null) {
    if (state === undefined) return
    this.#isBlind = state === null || state.isBlind === true
    addTo(this.#open, entriesOf(state?.open))
    addTo(this.#moved, entriesOf(state?.moved))
  }

  get state(): LossesState {
    return {
      open: Object.fromEntries(this.#open),
      moved: Object.fromEntries(this.#moved),
      isBlind: this.#isBlind,
    }
  }

  /** Whether there is anything to settle. */
  get areOpen(): boolean {
    return [...this.#open.values()].some((open) => open !== 0)
  }

  /** Some moves are not known, until it is settled with all that live. */
  get isBlind(): boolean {
    return this.#isBlind
  }

  /** A worker has ended. Undefined: what it had is not known. */
  ended(balance: LastBalance | undefined): void {
    if (balance?.moved === undefined) this.#isBlind = true
    addTo(this.#open, balance?.open ?? [])
    addTo(this.#moved, balance?.moved ?? [])
  }

  /** Connections that this process has, and that no worker of it has accepted. */
  arrived(keys: Iterable<BalanceKey>): void {
    addTo(
      this.#open,
      [...keys].map((key) => [key, 1] as const),
    )
  }

  /**
   * Nothing moves any more: no two workers are connected, and this process holds no connections.
   *
   * @param living `LastBalance.moved` of those that live, added up; undefined if one of them does not say
   * @returns how many are lost, where there are any
   */
  settle(living: Balances | undefined): Balances {
    const lost = new Map<BalanceKey, number>()
    /** Some may have left for a listener that has no routes any more, and have come to a service. */
    let surplus = 0
    for (const key of new Set([...this.#open.keys(), ...this.#moved.keys(), ...(living?.keys() ?? [])])) {
      const count = (this.#open.get(key) ?? 0) - this.#unwritten(key, living)
      if (count > 0) lost.set(key, count)
      else surplus -= count
    }
    for (const [key, count] of lost) {
      const excess = Math.min(count, surplus)
      surplus -= excess
      if (excess === count) lost.delete(key)
      else lost.set(key, count - excess)
    }
    this.#open.clear()
    this.#moved.clear()
    // From now on, what has come and what has gone are equal.
    for (const [key, moved] of living ?? []) this.#moved.set(key, -moved)
    this.#isBlind = living === undefined
    return lost
  }

  /** Arrivals beyond departures, over all workers. */
  #unwritten(key: BalanceKey, living: Balances | undefined): number {
    if (this.#isBlind || living === undefined) return 0
    const moved = this.#moved.get(key) ?? 0
    const arrived = living.get(key)
    // A worker of an older version does not write down what it rejects because its service was removed.
    return arrived === undefined ? Math.max(0, moved) : moved + arrived
  }
}

function addTo(sums: Map<BalanceKey, number>, added: Iterable<readonly [BalanceKey, number]>): void {
  for (const [key, value] of added) sums.set(key, (sums.get(key) ?? 0) + value)
}

function entriesOf(
  record: Readonly<Record<string, number>> = {},
): readonly (readonly [BalanceKey, number])[] {
  return Object.entries(record) as [BalanceKey, number][]
}
