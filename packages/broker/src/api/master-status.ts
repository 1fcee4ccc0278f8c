/** What the master says of itself, its workers, and the backends that it has started. */
export interface MasterStatus {
  readonly master: { readonly pid: number; readonly reloads: number; readonly busy: string | null }
  readonly managed: readonly InstanceStatus[]
  readonly workers: readonly { readonly pid: number; readonly role: string }[]
}

/**
 * `starting`: a successor that a deploy is trying. `backoff` and `crashed`: nothing runs at the moment, and it is started
 * again soon, or once a minute. `stopping`: on its way out.
 */
export type InstanceStatusState = 'running' | 'starting' | 'backoff' | 'crashed' | 'stopping'

/** One process of a managed service, or the place of one. During a deploy a place shows twice. */
export interface InstanceStatus {
  readonly service: string
  /** Such as `web.1`. */
  readonly instance: string
  /** ULID; null between two processes. */
  readonly backend: string | null
  readonly pid: number | null
  readonly state: InstanceStatusState
  /** How often it was started again since its version was deployed. */
  readonly restarts: number
  readonly generation: number
  readonly version: string | null
  /** When this state began, ISO 8601. */
  readonly since: string
}
