/** What goes on in one service. */
export interface ServiceRates {
  readonly handoffsPerSecond: number
  readonly acceptedPerSecond: number
  /** From accept to ACK, of the last ten seconds; null when nobody was handed off. */
  readonly latencyMs: Percentiles | null
  readonly fallbacksPerSecond: Counts
  readonly rejectsPerSecond: Counts
  /** Since the start. */
  readonly fallbacks: Counts
  readonly rejects: Counts
}

export type Counts = Readonly<Record<string, number>>

export interface Percentiles {
  readonly p50: number
  readonly p90: number
  readonly p99: number
}
