import type { Cluster } from 'node:cluster'

let warned = false

/**
 * Whether the app shares its ports among processes itself (`node:cluster`). Its primary and workers then need Node's own `listen()`,
 * and Baton leaves them alone. Warns once.
 */
export function isClustered(): boolean {
  // Loaded at the first `listen()`, so that a process that never listens does not load it.
  const cluster = process.getBuiltinModule('node:cluster') as unknown as Cluster
  const isClusteredNow = cluster.isWorker || Object.keys(cluster.workers ?? {}).length > 0
  if (isClusteredNow && !warned) {
    warned = true
    process.emitWarning(
      'this app uses node:cluster, so it keeps its own ports and gets no connections through Baton',
      {
        code: 'BATON_WARN_CLUSTER',
        type: 'BatonWarning',
        detail: 'Start one process without cluster, and let Baton run as many instances as you need.',
      },
    )
  }
  return isClusteredNow
}
