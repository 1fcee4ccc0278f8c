import type { InstanceStatus } from '../../api/master-status.ts'
import type { Instance } from './instance.ts'
import type { ManagedProcess } from './managed-process.ts'

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
