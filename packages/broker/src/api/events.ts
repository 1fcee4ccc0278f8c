/** A change event of the event stream. */
export interface Change {
  readonly kind: ChangeKind
  readonly service?: string
  readonly backend?: ChangedBackend
  readonly from?: string
  readonly to?: string
  /** The requester: an address, or a user. */
  readonly by?: string
  /** Why connections that were handed back were not taken; why a process is replaced. */
  readonly reason?: string
  /** Connections. */
  readonly count?: number
  /** One sentence for people. */
  readonly text: string
}

export type ChangeKind =
  | 'backend_registered'
  | 'backend_deregistered'
  | 'backend_state'
  | 'drain'
  | 'pause'
  | 'resume'
  | 'maintenance'
  | 'reload'
  | 'deploy'
  | 'shift'
  | 'scale'
  | 'replace'
  | 'broker_state'
  | 'handed_back'
  | 'given_back'
  | 'hand_back_refused'

export interface ChangedBackend {
  /** ULID. */
  readonly id: string
  readonly slot: string
  readonly version: string | null
  readonly pid: number
}

/** Rates and counters of one service. */
export interface ServiceRates {
  readonly handoffsPerSecond: number
  readonly acceptedPerSecond: number
  /** From accept to ACK, over the last ten seconds; null if no connection was handed off. */
  readonly latencyMs: Percentiles | null
  readonly fallbacksPerSecond: Counts
  readonly rejectsPerSecond: Counts
  /** Connections taken back from backends, alive. */
  readonly handBacksPerSecond: number
  /** Those that were not taken, by `result/reason`. */
  readonly notTakenPerSecond: Counts
  /** Since the start. */
  readonly fallbacks: Counts
  readonly rejects: Counts
  readonly notTaken: Counts
}

export type Counts = Readonly<Record<string, number>>

export interface Percentiles {
  readonly p50: number
  readonly p90: number
  readonly p99: number
}
