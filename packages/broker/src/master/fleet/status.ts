import type { Instance } from './instance.ts'
import type { ManagedProcess } from './managed-process.ts'

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

export function statusOfInstance(instance: Instance): InstanceStatus {
  const { process, state, generation } = instance
  const waiting = state.history.crashed ? 'crashed' : 'backoff'
  return {
    service: generation.definition.service,
    instance: instance.name,
    backend: process?.id ?? null,
    pid: process?.pid ?? null,
    state: state.phase.kind === 'waiting' ? waiting : 'running',
    restarts: state.restarts,
    generation: generation.number,
    version: generation.definition.version,
    since: new Date(instance.since).toISOString(),
  }
}

export function statusOfProcess(process: ManagedProcess, state: 'starting' | 'stopping'): InstanceStatus {
  const { instance, generation, id, since } = process.identity
  return {
    service: generation.definition.service,
    instance,
    backend: id,
    pid: process.pid ?? null,
    state,
    restarts: 0,
    generation: generation.number,
    version: generation.definition.version,
    since: new Date(since).toISOString(),
  }
}
