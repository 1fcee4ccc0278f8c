/** Status of the master, its workers, and the backends that it has started. */
export interface MasterStatus {
  /** Null while there is none: it was killed, and its worker goes on. */
  readonly master: {
    readonly pid: number
    readonly reloads: number
    readonly busy: string | null
  } | null
  readonly managed: readonly InstanceStatus[]
  /** Services with another number of instances than the configuration says, by order of an operator. Absent from brokers of an older version. */
  readonly scaled?: readonly {
    readonly service: string
    readonly instances: number
    readonly configured: number
  }[]
  readonly workers: readonly { readonly pid: number; readonly role: string }[]
  /** Absent from brokers of an older version. */
  readonly broker?: BrokerFacts
}

/** A broker in short, for `baton ls`. */
export interface BrokerFacts {
  /** The configuration file. */
  readonly config: string
  /** The command that has started it. */
  readonly kind: 'start' | 'run'
  readonly version: string
  /** ISO 8601. */
  readonly startedAt: string
  readonly listeners: readonly { readonly name: string; readonly address: string }[]
  readonly services: readonly { readonly name: string; readonly backends: number; readonly ready: number }[]
  /** That backends have, or the broker relays, holds or has parked. */
  readonly connections: number
}

/**
 * `starting`: a successor on trial in a deploy. `backoff` and `crashed`: not running; restarted soon, or once a minute. `stopping`:
 * being stopped.
 */
export type InstanceStatusState = 'running' | 'starting' | 'backoff' | 'crashed' | 'stopping'

/** One process of a managed service, or its place while it is not running. During a deploy a place is listed twice. */
export interface InstanceStatus {
  readonly service: string
  /** Such as `web.1`. */
  readonly instance: string
  /** ULID; null between two processes. */
  readonly backend: string | null
  readonly pid: number | null
  readonly state: InstanceStatusState
  /** Restarts since its version was deployed. */
  readonly restarts: number
  readonly generation: number
  readonly version: string | null
  /** Name of the environment that its deploy has chosen (`--env`). Absent: none. */
  readonly environment?: string
  /** When this state began, ISO 8601. */
  readonly since: string
}
