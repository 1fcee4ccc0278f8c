import type { Os } from '../os.ts'

/** Ask only if some backend has this share more or less than it should have, */
const UNEVEN = 0.25
/** and this many connections. */
const MIN_SURPLUS = 8

/** Milliseconds between two requests to the same backend. Doubles while a backend hands nothing back, because nothing there can move. */
const INTERVAL_MS = 1000
const MAX_INTERVAL_MS = 60_000

/** A backend that is ready, as far as the spread of connections is concerned. */
export interface Share {
  readonly weight: number
  /** Connections that it has now. */
  readonly live: number
}

/**
 * How many connections each of these has above its share, by weight; 0 for all while the spread is even enough.
 *
 * @param pending connections that none of them has at the moment, because they were asked for
 */
export function surpluses(shares: readonly Share[], pending = 0): number[] {
  const total = shares.reduce((sum, { live }) => sum + live, pending)
  const weights = shares.reduce((sum, { weight }) => sum + weight, 0)
  const due = shares.map(({ weight }) => (total * weight) / weights)
  const uneven = shares.some(({ live }, index) => {
    const difference = Math.abs(live - (due[index] as number))
    return difference >= MIN_SURPLUS && difference > UNEVEN * (due[index] as number)
  })
  return shares.map(({ live }, index) =>
    uneven ? Math.max(0, Math.floor(live - (due[index] as number))) : 0,
  )
}

/** A backend that can be asked. */
export interface Rebalanced extends Share {
  /** How many connections it may be handing back; 0 if it may not. */
  readonly handBackWindow: number
  /** How many it has handed back so far. */
  readonly handedBack: number
  rebalance(count: number): void
}

interface Asked {
  readonly at: number
  readonly interval: number
  readonly handedBack: number
  readonly count: number
  /** How many of them have come back and were added to those that are pending. */
  came: number
}

/** Asks backends with more connections than their share to hand some back: after a new one has joined, or when others have ended. */
export class Rebalancer {
  readonly #backends: () => readonly Rebalanced[]
  readonly #parked: () => number
  readonly #os: Pick<Os, 'now'>
  /** Connections that were asked for, and may be parked: until their next request they are missing in the figures of all backends. */
  #pending = 0
  readonly #asked = new WeakMap<Rebalanced, Asked>()

  /**
   * @param backends those that are ready now
   * @param parked idle connections that are with no backend, unless they are parked anyway (`parkAfter`)
   */
  constructor(backends: () => readonly Rebalanced[], parked: () => number, os: Pick<Os, 'now'>) {
    this.#backends = backends
    this.#parked = parked
    this.#os = os
  }

  /** To be called when a backend has reported how many connections it has. */
  check(): void {
    const backends = this.#backends()
    if (backends.length < 2) return
    const now = this.#os.now()
    for (const backend of backends) this.#noteCame(backend)
    this.#pending = Math.min(this.#pending, this.#parked())
    for (const [index, surplus] of surpluses(backends, this.#pending).entries()) {
      const backend = backends[index] as Rebalanced
      const count = Math.min(surplus, backend.handBackWindow)
      if (count > 0) this.#ask(backend, count, now)
    }
  }

  #ask(backend: Rebalanced, count: number, now: number): void {
    const last = this.#asked.get(backend)
    if (last !== undefined && now - last.at < last.interval) return
    const { handedBack } = backend
    const inVain = last !== undefined && last.handedBack === handedBack
    const interval = inVain ? Math.min(2 * last.interval, MAX_INTERVAL_MS) : INTERVAL_MS
    this.#asked.set(backend, { at: now, interval, handedBack, count, came: 0 })
    backend.rebalance(count)
  }

  #noteCame(backend: Rebalanced): void {
    const asked = this.#asked.get(backend)
    if (asked === undefined) return
    const came = Math.min(asked.count, backend.handedBack - asked.handedBack)
    this.#pending += came - asked.came
    asked.came = came
  }
}
