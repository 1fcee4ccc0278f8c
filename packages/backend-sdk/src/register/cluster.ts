import type { Cluster } from 'node:cluster'

let warned = false

/**
 * Whether the app shares its ports among processes by itself (`node:cluster`): Node's own `listen()` is then what both its primary
 * and its workers need, and Baton leaves them alone. Warns once.
 */
export function isClustered(): boolean {
  // Only from the first `listen()` on: a process that never listens does not load it.
  const cluster = process.getBuiltinModule('node:cluster') as unknown as Cluster
  const isClusteredNow = cluster.isWorker || Object.keys(cluster.workers ?? {}).length > 0
  if (isClusteredNow && !warned) {
    warned = true
    process.emitWarning(
      'this app uses node:cluster; its ports are its own, and connections do not come through Baton',
      {
        code: 'BATON_WARN_CLUSTER',
        type: 'BatonWarning',
        detail: 'Start one process without cluster, and let Baton start as many of it as you want.',
      },
    )
  }
  return isClusteredNow
}
