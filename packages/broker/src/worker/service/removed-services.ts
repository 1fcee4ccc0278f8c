import type { Logger } from 'pino'
import type { Metrics } from '../../metrics/metrics.ts'
import type { ClientConnection, ParkedClient } from '../connection/connection.ts'
import type { Copier } from '../copies/copier.ts'
import { type Os, systemOs } from '../os.ts'
import type { LingeringClose } from '../reject/lingering-close.ts'
import { ServiceStats } from './service-stats.ts'

export interface RemovedServicesDeps {
  readonly lingeringClose: Pick<LingeringClose, 'reject'>
  readonly metrics: Metrics
  readonly logger: Logger
  /** Undefined: no accounts are kept. */
  readonly copier: Pick<Copier, 'account'> | undefined
  readonly os?: Os
}

/**
 * Services that this worker does not have, and whose connections it gets: a predecessor, or a worker that has died, had them. They end here, and are
 * counted as those of any other service: else the master would take them for lost as well.
 */
export class RemovedServices {
  readonly #deps: RemovedServicesDeps
  readonly #os: Os
  readonly #stats = new Map<string, ServiceStats>()

  constructor(deps: RemovedServicesDeps) {
    this.#deps = deps
    this.#os = deps.os ?? systemOs
  }

  /** Clients that were held. */
  reject(service: string, connections: readonly ClientConnection[]): void {
    const { lingeringClose, logger } = this.#deps
    logger.warn({ service, clients: connections.length }, 'service was removed; rejecting its held clients')
    const stats = this.#statsOf(service)
    stats.movedIn += connections.length
    for (const connection of connections) {
      stats.rejected('shutdown')
      // In the middle of a conversation: an answer of the broker would be taken for one of the backend's.
      if (connection.resume === undefined) lingeringClose.reject(connection)
      else this.#os.closeClients([connection])
    }
  }

  closeIdle(service: string, connections: readonly ParkedClient[]): void {
    const { logger } = this.#deps
    logger.warn(
      { service, clients: connections.length },
      'idle connections of a service that is gone are closed',
    )
    const stats = this.#statsOf(service)
    stats.movedIn += connections.length
    stats.outcomes.idle_closed += connections.length
    this.#os.closeClients(connections.map(({ fd }) => ({ fd, peer: this.#os.peer(fd.fd) })))
  }

  publish(): void {
    for (const [service, stats] of this.#stats) stats.publish(service, this.#deps.metrics, { in: 0, out: 0 })
  }

  #statsOf(service: string): ServiceStats {
    const known = this.#stats.get(service)
    if (known !== undefined) return known
    const stats = new ServiceStats()
    this.#stats.set(service, stats)
    this.#deps.copier?.account(
      { kind: 'service', name: service },
      (numbers) => stats.account(numbers, 0),
      () => stats,
    )
    return stats
  }
}
