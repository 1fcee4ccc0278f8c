import type { BackendReport, KnownBackends } from '../../ipc/messages.ts'
import { processExists } from '../../supervise/proc.ts'

/** Maximum backends of earlier workers in the `start` message of the next one. */
const MAX_KNOWN_BACKENDS = 4096

/** Backends of the current or last worker, and those of earlier ones that may not have registered again yet. */
export class BackendsSeen {
  #known: readonly BackendReport[]

  constructor(known: readonly BackendReport[] = []) {
    this.#known = known
  }

  get all(): readonly BackendReport[] {
    return this.#known
  }

  /** A worker that dies soon after another does not know all backends yet: those whose processes are alive are kept. */
  remember(backends: readonly BackendReport[]): void {
    const named = new Set(backends.map(({ id }) => id))
    const others = this.#known.filter(({ id, pid }) => !named.has(id) && pid > 0 && processExists(pid))
    this.#known = [...backends, ...others].slice(0, MAX_KNOWN_BACKENDS)
  }
}

/** For the `start` message of the next worker. */
export function knownOf(backends: readonly BackendReport[]): KnownBackends {
  const entries = backends.map(({ id, slot, state, healthy, pid, uid, started = null }) => {
    const process = uid === undefined ? undefined : { pid, uid, started }
    const seems = state !== 'starting' && state !== 'unhealthy'
    return [id, { slot, healthy: healthy ?? seems, draining: state === 'draining', process }] as const
  })
  return Object.fromEntries(entries)
}

/** Those that have neither registered with the new worker nor exited, and do not drain at the old one; with their state there. */
export function notMoved(
  backends: readonly BackendReport[],
  {
    from,
    to,
  }: {
    readonly from:
      | { readonly backends: readonly BackendReport[]; readonly drained: ReadonlySet<string> }
      | undefined
    readonly to: readonly BackendReport[] | undefined
  },
): BackendReport[] {
  const moved = new Set(to?.map(({ id }) => id))
  const states = new Map(from?.backends.map(({ id, state }) => [id, state]))
  return backends
    .map((backend) => ({ ...backend, state: states.get(backend.id) ?? backend.state }))
    .filter(
      ({ id, pid }) =>
        !moved.has(id) && from?.drained.has(id) !== true && (processExists(pid) || states.has(id)),
    )
}
