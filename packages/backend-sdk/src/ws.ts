import type { WebSocketServer } from 'ws'
import type { Backend } from './backend.ts'
import { BackendError } from './errors.ts'
import { migrationOf } from './migrate/mover.ts'
import { WebSocketMover, type WebSocketMigration } from './migrate/web-sockets.ts'

export type { SchemaOptions } from './migrate/options.ts'
export type { WebSocketMigration } from './migrate/web-sockets.ts'

/**
 * Lets the WebSockets of a server of `ws` outlive this process: when it drains, they move to another backend of the service that accepts
 * their schema. Clients notice nothing.
 *
 * The HTTP server is the one that is attached to `backend`; connections that it accepted itself, over TLS that ends in Node, or through a
 * relay stay as they are. Call it before `backend.ready()`.
 *
 * @throws {BackendError} BATON_ERR_INVALID_OPTION
 */
export function migrateWebSockets<State>(
  wss: WebSocketServer,
  backend: Backend,
  options: WebSocketMigration<State>,
): void {
  const migration = migrationOf(backend)
  if (migration === undefined)
    throw new BackendError(
      'BATON_ERR_INVALID_OPTION',
      'migrateWebSockets() needs what createBackend() returned',
    )
  const mover = new WebSocketMover(wss, migration, options)
  migration.movers.add(mover)
  // It answers each upgrade with 503 from here on.
  wss.once('close', () => {
    if (mover.connections().next().done === true) migration.movers.remove(mover)
  })
}
