import type { Logger } from 'pino'
import type { ReplaceableWorker } from './replaceable-worker.ts'

/** Logs what `baton status` shows: a line for the worker, and one for each listener, service and backend. */
export function logStatus(logger: Logger, worker: ReplaceableWorker | undefined): void {
  if (worker === undefined) return logger.info('status: not built yet')
  const { broker, listeners, services } = worker.status()
  const { id, version, startedAt, state } = broker
  logger.info({ broker: id, version, startedAt, state }, 'status: serving')
  for (const { name: listener, routes = [], ...rest } of listeners)
    logger.info({ listener, ...rest, routes: routes.length }, 'status: listener')
  for (const { name: service, backends, ...rest } of services) {
    const ready = backends.filter(({ state: each }) => each === 'ready').length
    logger.info({ service, ...rest, backends: backends.length, ready }, 'status: service')
    for (const { id: backend, pid: peerPid, ...each } of backends)
      logger.info({ service, backend, peerPid, ...each }, 'status: backend')
  }
}
