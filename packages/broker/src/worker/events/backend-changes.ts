import type { BackendState } from '../../metrics/labels.ts'
import type { Change, ChangedBackend } from '../../api/events.ts'

/** The watched part of a service. */
export interface WatchedService {
  readonly name: string
  readonly backends: readonly (ChangedBackend & { readonly state: BackendState })[]
}

interface Seen {
  readonly service: string
  readonly backend: ChangedBackend
  readonly state: BackendState
}

/**
 * Detects changes of backends between two samples. A state can change without an event (a pause ends, a heartbeat is missed), so
 * samples are compared.
 */
export class BackendChanges {
  #seen = new Map<string, Seen>()

  /** Takes the first sample. */
  begin(services: Iterable<WatchedService>): void {
    this.#seen = seenNow(services)
  }

  /** The changes since the last sample. */
  compare(services: Iterable<WatchedService>): Change[] {
    const before = this.#seen
    const now = (this.#seen = seenNow(services))
    const changes: Change[] = []
    for (const [id, { service, backend, state }] of before) {
      if (now.has(id)) continue
      const text = `${backend.slot} of service ${service} is gone (it was ${state})`
      changes.push({ kind: 'backend_deregistered', service, backend, from: state, text })
    }
    for (const [id, { service, backend, state }] of now) {
      const from = before.get(id)?.state
      if (from === state) continue
      if (from === undefined) {
        const text = `${backend.slot} has registered for service ${service} (pid ${backend.pid}, ${state})`
        changes.push({ kind: 'backend_registered', service, backend, to: state, text })
      } else {
        const text = `${backend.slot} of service ${service} is ${state} (it was ${from})`
        changes.push({ kind: 'backend_state', service, backend, from, to: state, text })
      }
    }
    return changes
  }
}

function seenNow(services: Iterable<WatchedService>): Map<string, Seen> {
  const seen = new Map<string, Seen>()
  for (const { name: service, backends } of services) {
    for (const { id, slot, version, pid, state } of backends)
      seen.set(id, { service, backend: { id, slot, version, pid }, state })
  }
  return seen
}
