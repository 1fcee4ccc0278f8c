import type { BackendState, Outcome, UnroutedReason } from '../metrics/labels.ts'
import type { ShiftStatus } from './shift.ts'

export interface DrainResult {
  /** Number of backends that started to drain; those already draining are not counted. */
  readonly draining: number
  readonly deadlineMs: number
}

export interface ReloadResult {
  readonly success: boolean
  /** Log lines of the new process from its start, each a line of JSON. */
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
  /** Pid of the master, which holds the listening sockets and started this process; null if there is none. */
  readonly master: number | null
  /** ISO 8601, like all times in the API. */
  readonly startedAt: string
  readonly state: 'running' | 'draining'
}

export interface ListenerStatus {
  readonly name: string
  /** The bound address, with the port that the kernel chose for port 0. */
  readonly address: string
  readonly protocol: 'http' | 'tls' | 'tcp'
  /** Null: connections that no route takes are rejected. */
  readonly service: string | null
  /** False before the worker starts to accept, and after a drain has closed the socket. */
  readonly accepting: boolean
  /** Connections since the start. */
  readonly accepted: number
  /** In the order in which they are tried. Absent from brokers of an older version, like the members below. */
  readonly routes?: readonly RouteStatus[]
  /** Null: no limits. */
  readonly limits?: LimitsStatus | null
  /** Connections that went to no service, since the start. Null where every connection goes to `service`. */
  readonly unrouted?: Readonly<Record<UnroutedReason, number>> | null
}

/** Conditions as in the configuration; of header fields and cookies the names alone, since a value may be a secret. */
export interface RouteStatus {
  readonly sni?: string
  readonly alpn?: string
  readonly host?: string
  readonly path?: string
  readonly header?: readonly string[]
  readonly cookie?: readonly string[]
  /** Null: its connections are rejected. */
  readonly service: string | null
  /** Null: backends of every version. */
  readonly version: string | null
}

/** Null: no limit. */
export interface LimitsStatus {
  readonly connections: number | null
  readonly perSource: {
    readonly connections: number | null
    /** Such as `50/s`. */
    readonly rate: string | null
    readonly burst: number | null
  } | null
}

export interface ServiceStatus {
  readonly name: string
  readonly balance: string
  readonly handoff: 'auto' | 'off'
  /** Null while new connections are not shifted to a version. Absent from brokers of an older version. */
  readonly shift?: ShiftStatus | null
  readonly held: number
  readonly inFlight: number
  /** Connections taken by a backend and not answered by the ACK deadline. */
  readonly stuck: number
  /** Connections being relayed. */
  readonly relaying: number
  /** Idle connections that backends handed back and that wait, unread, for their next request. */
  readonly parked: number
  /** Live connections that were handed back since the start; each is an arrival, as an accept is. */
  readonly handedBack: number
  /** Those that were handed back and stayed with their backend. */
  readonly givenBack: number
  /** Those of backends that broke the protocol; their backend was cut off. */
  readonly handBacksRefused: number
  /** Answers to offers that were settled already; they were ignored. */
  readonly lateAnswers: number
  readonly outcomes: Readonly<Record<Outcome, number>>
  /** Held connections received from the previous worker, and those sent to the next one. */
  readonly movedIn: number
  readonly movedOut: number
  /** An operator has paused the service: new connections are held. Null: not. Absent from brokers of an older version. */
  readonly paused?: PauseStatus | null
  /** An operator has put it into maintenance: new connections are answered with a page. Null and absent as above. */
  readonly maintenance?: MaintenanceStatus | null
  /** Addresses that connections are relayed to, as configured. Absent from brokers of an older version. */
  readonly upstreams?: readonly UpstreamStatus[]
  readonly backends: readonly BackendStatus[]
}

export interface PauseStatus {
  readonly since: string
  /** Null: until it is resumed. */
  readonly until: string | null
}

export interface MaintenanceStatus {
  readonly since: string
  /** Size of the page. */
  readonly bytes: number
}

export interface UpstreamStatus {
  readonly address: string
  readonly weight: number
}

export interface BackendStatus {
  /** ULID, as in the logs. */
  readonly id: string
  /** The short name that labels its metrics: `web-1`. */
  readonly slot: string
  readonly state: BackendState
  readonly pid: number
  readonly uid: number
  /** Version that the backend reports; null if it reports none. */
  readonly version: string | null
  readonly weight: number
  /** Connections acknowledged and not closed, and those in flight. */
  readonly load: number
  readonly adopted: number
  readonly closed: number
  /** Connections that it has handed back alive, and those of them that were given back to it. */
  readonly handedBack: number
  readonly givenBack: number
  /** Event-loop lag, as last reported; null before the first report. */
  readonly lagMs: number | null
  readonly registeredAt: string
}
