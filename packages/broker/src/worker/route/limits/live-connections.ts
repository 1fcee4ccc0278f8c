import type { ConnectionTable } from './connection-table.ts'
import type { Peer, Source } from './source.ts'

export interface LiveLimits {
  /** Of the listener; null for none. */
  readonly total: number | null
  /** Of each source; null for none. */
  readonly perSource: number | null
}

/** A connection as the limits see it: who has connected, and for whom. They differ behind a load balancer. */
export interface Counted {
  /** Undefined where no load balancer connects. */
  readonly peer: Peer | undefined
  /** The source of `peer`. */
  readonly direct: Source
  readonly source: Source
}

export type LiveReason = 'limit_connections' | 'limit_source_connections'

/** While a source is known to be full, its connections are refused without another count, for this many milliseconds. */
const FULL_MS = 100

/** Without a reason, a count is repeated after this many milliseconds in which clients have come. */
const STALE_MS = 1000

/** Part of the time that counting may take. */
const SHARE = 0.1

/**
 * How many connections of a listener are open, in all and by source. Counted from the kernel's list now and then, with those added that were
 * admitted since: never less than there are, as long as no other worker accepts. Since closed ones are only noticed by counting, a limit that
 * seems to be reached is a reason to count.
 */
export class LiveConnections {
  readonly #limits: LiveLimits
  readonly #table: ConnectionTable
  readonly #now: () => number
  #total = 0
  #bySource = new Map<Source, number>()
  /** Admitted since the last count. */
  #admitted = 0
  readonly #admittedBySource = new Map<Source, number>()
  /** Those behind a load balancer, whose source the kernel does not know. */
  readonly #proxied = new Map<Peer, Source>()
  /** When the last count ended, and how long it took; in milliseconds. */
  #countedAt = Number.NEGATIVE_INFINITY
  #cost = 0

  constructor(limits: LiveLimits, table: ConnectionTable, now: () => number) {
    this.#limits = limits
    this.#table = table
    this.#now = now
  }

  /** Which limit would be exceeded by one more, going by what is known now. */
  exceeded(source: Source): LiveReason | undefined {
    const { total, perSource } = this.#limits
    if (perSource !== null && (this.#bySource.get(source) ?? 0) >= perSource) return 'limit_source_connections'
    return total !== null && this.#total >= total ? 'limit_connections' : undefined
  }

  /** Whether another count would not change that: no limit is reached, or one was reached at the last count, a moment ago. */
  isSure(source: Source, exceeded: LiveReason | undefined): boolean {
    // As long as nothing was counted, a predecessor may have accepted any number of connections.
    if (exceeded === undefined) return this.#countedAt > Number.NEGATIVE_INFINITY
    if (this.#now() - this.#countedAt >= FULL_MS) return false
    const { total, perSource } = this.#limits
    if (exceeded === 'limit_connections') return total !== null && this.#total - this.#admitted >= total
    const then = (this.#bySource.get(source) ?? 0) - (this.#admittedBySource.get(source) ?? 0)
    return perSource !== null && then >= perSource
  }

  /** It has been a while. */
  get isStale(): boolean {
    return this.#now() - this.#countedAt >= STALE_MS
  }

  /** Milliseconds until the next count, so that counting does not take more than its share of the time. */
  get delay(): number {
    return Math.max(0, this.#countedAt + this.#cost / SHARE - this.#now())
  }

  /** Sources that are known. */
  get size(): number {
    return this.#bySource.size
  }

  admit({ peer, direct, source }: Counted): void {
    this.#total += 1
    this.#admitted += 1
    if (this.#limits.perSource === null) return
    add(this.#bySource, source, 1)
    add(this.#admittedBySource, source, 1)
    if (peer === undefined) return
    if (direct === source) this.#proxied.delete(peer)
    else this.#proxied.set(peer, source)
  }

  /**
   * Counts again.
   *
   * @param apart open connections that do not count: those that are to be admitted next, and those that were refused and are being closed
   * @throws {NativeError}; then only those are known that are admitted from now on
   */
  count(apart: Iterable<Counted>): void {
    const started = this.#now()
    const bySource = new Map<Source, number>()
    const seen = new Set<Peer>()
    const wantsSources = this.#limits.perSource !== null
    const proxied = this.#proxied
    let total = 0
    this.#forget()
    this.#countedAt = started
    this.#table.each((direct, peerOf) => {
      total += 1
      if (!wantsSources) return
      const peer = proxied.size > 0 ? peerOf() : undefined
      const source = peer === undefined ? undefined : proxied.get(peer)
      if (peer !== undefined && source !== undefined) seen.add(peer)
      add(bySource, source ?? direct, 1)
    })
    for (const { direct } of apart) {
      total -= 1
      if (wantsSources) add(bySource, direct, -1)
    }
    for (const peer of proxied.keys()) if (!seen.has(peer)) proxied.delete(peer)
    this.#total = Math.max(0, total)
    this.#bySource = bySource
    this.#countedAt = this.#now()
    this.#cost = this.#countedAt - started
  }

  #forget(): void {
    this.#total = 0
    this.#bySource = new Map()
    this.#admitted = 0
    this.#admittedBySource.clear()
  }
}

function add(counts: Map<Source, number>, source: Source, by: number): void {
  const sum = (counts.get(source) ?? 0) + by
  if (sum > 0) counts.set(source, sum)
  else counts.delete(source)
}
