import type { ConnectionTable } from './connection-table.ts'
import type { Peer, Source } from './source.ts'

export interface LiveLimits {
  /** Of the listener; null for none. */
  readonly total: number | null
  /** Of each source; null for none. */
  readonly perSource: number | null
}

/** A connection as the limits see it. Behind a load balancer, its peer is another host than its source. */
export interface Counted {
  readonly peer: Peer
  /** The source of `peer`. */
  readonly direct: Source
  readonly source: Source
}

export type LiveReason = 'limit_connections' | 'limit_source_connections'

/** While a source is known to be full, its connections are refused without another count, for this many milliseconds. */
const FULL_MS = 100

/** After its start, a worker counts this often, for this long, in milliseconds: its predecessor may still accept. */
const EARLY_MS = 1000
const EARLY_FOR_MS = 5000

/** Connections that are admitted between two counts, at most: this bounds the memory. */
const MAX_ADMITTED = 65_536

/** Part of the time that counting may take. */
const SHARE = 0.2

/** Connections, in all and by source. */
class Tally {
  total = 0
  readonly bySource = new Map<Source, number>()

  of(source: Source): number {
    return this.bySource.get(source) ?? 0
  }

  /** @param source undefined where sources do not matter */
  add(source: Source | undefined): void {
    this.total += 1
    if (source !== undefined) this.bySource.set(source, this.of(source) + 1)
  }

  addAll({ total, bySource }: Tally): void {
    this.total += total
    for (const [source, count] of bySource) this.bySource.set(source, this.of(source) + count)
  }
}

/**
 * How many connections of a listener are open, in all and by source. Counted from the kernel's list now and then, with those added that were
 * admitted since: never less than there are, as long as no other worker accepts. Since closed ones are only noticed by counting, a limit that
 * seems to be reached is a reason to count.
 */
export class LiveConnections {
  readonly #limits: LiveLimits
  readonly #table: ConnectionTable
  readonly #now: () => number
  #open = new Tally()
  /** Those of them that were admitted since the last count. */
  #admitted = new Tally()
  /** Those that were admitted during the current one. */
  #meanwhile: Tally | undefined
  /** Those behind a load balancer, whose source the kernel does not know. */
  readonly #proxied = new Map<Peer, Source>()
  /** When the first and the last count ended, and how long that took; in milliseconds. */
  #firstAt: number | undefined
  #countedAt = 0
  #cost = 0

  constructor(limits: LiveLimits, table: ConnectionTable, now: () => number) {
    this.#limits = limits
    this.#table = table
    this.#now = now
  }

  /** Which limit would be exceeded by one more, going by what is known now. */
  exceeded(source: Source): LiveReason | undefined {
    const { total, perSource } = this.#limits
    if (perSource !== null && this.#open.of(source) >= perSource) return 'limit_source_connections'
    return total !== null && this.#open.total >= total ? 'limit_connections' : undefined
  }

  /** Whether another count would not change that: no limit is reached, or one was reached at the last count, a moment ago. */
  isSure(source: Source, exceeded: LiveReason | undefined): boolean {
    // As long as nothing was counted, a predecessor may have accepted any number of connections.
    if (this.#firstAt === undefined) return false
    if (exceeded === undefined) return true
    if (this.#now() - this.#countedAt >= FULL_MS) return false
    const { total, perSource } = this.#limits
    if (exceeded === 'limit_connections')
      return total !== null && this.#open.total - this.#admitted.total >= total
    return perSource !== null && this.#open.of(source) - this.#admitted.of(source) >= perSource
  }

  /** A count is due although no connection waits for it. */
  get isDue(): boolean {
    if (this.#firstAt === undefined || this.#admitted.total >= MAX_ADMITTED) return true
    return this.#countedAt - this.#firstAt < EARLY_FOR_MS && this.#now() - this.#countedAt >= EARLY_MS
  }

  /** Milliseconds until the next count, so that counting does not take more than its share of the time. */
  get delay(): number {
    if (this.#firstAt === undefined) return 0
    return Math.max(0, this.#countedAt + this.#cost / SHARE - this.#now())
  }

  admit({ peer, direct, source }: Counted): void {
    const counted = this.#limits.perSource === null ? undefined : source
    for (const tally of [this.#open, this.#admitted, this.#meanwhile]) tally?.add(counted)
    if (counted === undefined) return
    if (direct !== source) this.#proxied.set(peer, source)
    else if (this.#proxied.size > 0) this.#proxied.delete(peer)
  }

  /**
   * Counts again. Not to be called before the last count is over.
   *
   * @param apart open connections that do not count: those that are to be admitted next, and those that were refused and are being closed
   * @throws {NativeError}; then only those are known that are admitted from now on
   */
  async count(apart: readonly Counted[]): Promise<void> {
    const started = this.#now()
    const open = new Tally()
    // Connections that are admitted meanwhile may be in the list or not: they are added.
    const meanwhile = (this.#meanwhile = new Tally())
    const proxied = this.#proxied
    const unseen = new Set(proxied.keys())
    // Left out where they are listed. One that is closed meanwhile may not be: subtracting it would admit one too many.
    const without = new Set(apart.map(({ peer }) => peer))
    const wantsSources = this.#limits.perSource !== null
    let counted = open
    try {
      await this.#table.each((direct, peerOf) => {
        const peer = proxied.size > 0 || without.size > 0 ? peerOf() : undefined
        if (peer !== undefined && without.has(peer)) return
        const source = peer === undefined ? undefined : proxied.get(peer)
        if (peer !== undefined) unseen.delete(peer)
        open.add(wantsSources ? (source ?? direct) : undefined)
      })
      for (const peer of unseen) proxied.delete(peer)
    } catch (error) {
      counted = new Tally()
      throw error
    } finally {
      counted.addAll(meanwhile)
      this.#open = counted
      this.#admitted = meanwhile
      this.#meanwhile = undefined
      this.#countedAt = this.#now()
      this.#firstAt ??= this.#countedAt
      this.#cost = this.#countedAt - started
    }
  }
}
