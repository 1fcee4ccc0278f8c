import type { Server } from 'node:http'
import type { Backend } from './backend.ts'
import { BackendError } from './errors.ts'
import { type EventStreamMigration, EventStreamMover } from './migrate/event-streams.ts'
import { migrationOf } from './migrate/mover.ts'
import { http } from './node-http.ts'

export type { EventStreamMigration } from './migrate/event-streams.ts'
export type { SchemaOptions } from './migrate/options.ts'

/**
 * Lets answers that stay open, such as server-sent events, outlive this process: when it drains, they move to another backend of the
 * service that accepts their schema, and go on there. Clients notice nothing.
 *
 * `server` is the HTTP server that is attached to `backend`; connections that it accepted itself, or through a relay, stay as they are.
 * So do answers with `Content-Length` or a compressing `Content-Encoding`, and those to a request with a body. Call it before
 * `backend.ready()`, once for each server.
 *
 * @throws {BackendError} BATON_ERR_INVALID_OPTION
 */
export function migrateEventStreams<State>(
  server: Server,
  backend: Backend,
  options: EventStreamMigration<State>,
): void {
  const migration = migrationOf(backend)
  if (migration === undefined)
    throw new BackendError(
      'BATON_ERR_INVALID_OPTION',
      'migrateEventStreams() needs what createBackend() returned',
    )
  if (!(server instanceof http.Server))
    throw new BackendError('BATON_ERR_INVALID_OPTION', 'migrateEventStreams() needs an http.Server')
  migration.movers.add(new EventStreamMover(server, migration, options))
}
