import type { BackendState, Outcome } from '../metrics/labels.ts'

export interface DrainResult {
  /** How many backends were told to drain; one that is draining already is not told again. */
  readonly draining: number
  readonly deadlineMs: number
}

export interface ReloadResult {
  readonly success: boolean
  /** What the new process logged while it started, one JSON line each. */
  readonly log: readonly string[]
}

export interface Status {
  readonly broker: BrokerStatus
  readonly listeners: readonly ListenerStatus[]
  readonly services: readonly ServiceStatus[]
}

export interface BrokerStatus {
  /** ULID of this broker process. */
  readonly id: string
  readonly version: string
  readonly pid: number
  /** The process that holds the listening sockets and starts this one; null when there is none. */
  readonly master: number | null
  /** ISO 8601, as every time in the API. */
  readonly startedAt: string
  readonly state: 'running' | 'draining'
}

export interface ListenerStatus {
  readonly name: string
  /** As bound: where the configuration says port 0, the kernel's choice. */
  readonly address: string
  readonly protocol: 'http' | 'tls' | 'tcp'
  readonly service: string
  /** False before the socket is open and after a drain has closed it. */
  readonly accepting: boolean
  /** Connections since the start. */
  readonly accepted: number
}

export interface ServiceStatus {
  readonly name: string
  readonly balance: string
  readonly handoff: 'auto' | 'off'
  readonly held: number
  readonly inFlight: number
  /** Taken by a backend past the ACK deadline, and neither acknowledged nor refused. */
  readonly stuck: number
  /** Clients whose bytes the broker carries now. */
  readonly relaying: number
  /** Answers to offers that were settled already: they crossed something, and were ignored. */
  readonly lateAnswers: number
  readonly outcomes: Readonly<Record<Outcome, number>>
  /** Clients that waited at the worker before this one and came here, and those that went to the one after it. */
  readonly movedIn: number
  readonly movedOut: number
  readonly backends: readonly BackendStatus[]
}

export interface BackendStatus {
  /** ULID, the same in the logs. */
  readonly id: string
  /** The small name that labels its metrics: `web-1`. */
  readonly slot: string
  readonly state: BackendState
  readonly pid: number
  readonly uid: number
  /** What the backend calls its own version; null when it does not say. */
  readonly version: string | null
  readonly weight: number
  /** Connections acknowledged and not closed, and those in flight. */
  readonly load: number
  readonly adopted: number
  readonly closed: number
  /** Event-loop lag, as last reported; null before the first report. */
  readonly lagMs: number | null
  readonly registeredAt: string
}
