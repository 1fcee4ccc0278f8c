import type { Backend } from './backend.ts'
import type { ConnectionInfo } from './connection-info.ts'
import { BackendError } from './errors.ts'
import { migrationOf } from './migrate/mover.ts'
import { SocketIoMover } from './migrate/socket-io/mover.ts'
import type { AnyServer, AnySocket } from './migrate/socket-io/parts.ts'

export type { AnyServer, AnySocket } from './migrate/socket-io/parts.ts'

/** How the clients of a socket.io server move. `State` is anything that JSON can hold. */
export interface SocketIoMigration<State> {
  /**
   * Name of the format of all that moves, `socket.data` included: at most 255 bytes. Change it when the format changes. Default:
   * `socket.io`.
   */
  schema?: string
  /** Schemas that this process understands. Default: `schema` alone. */
  accepts?: readonly string[]
  /**
   * Returns what the next process needs to go on with this socket, besides its rooms and `socket.data`. Called for each namespace of a
   * client. Synchronous. Undefined: the client does not move now; it is asked again soon.
   *
   * Called when every event of the client was given to the app, no acknowledgement is due on either side, and everything that was sent
   * has left.
   */
  state?(socket: AnySocket): State | undefined
  /**
   * Takes a socket up, after the app's own `connection` listeners. Events of the client wait until it returns, or its promise
   * resolves. If it throws or rejects, the client's connection is closed with code 1012, and the client reconnects.
   */
  resume?(socket: AnySocket, state: State): void | Promise<void>
}

/** The result of `migrateSocketIo()`. */
export interface SocketIoConnections {
  /**
   * The broker's information about the connection that carries this socket: `resumed` in `connection` listeners, and `movedOn` in
   * `disconnect` listeners. `backend.connection(socket.request.socket)` is another connection where a client has begun with polling.
   * Undefined for a client that did not come through the broker.
   */
  connection(socket: AnySocket): ConnectionInfo | undefined
}

/**
 * Lets the clients of a socket.io server outlive this process: when it drains, those that use the transport `websocket` move to another
 * backend of the service that accepts their schema, with their ids, rooms, `socket.data` and handshake, in all namespaces. Clients
 * notice nothing. In the next process `connection` is emitted as for a new client, with `socket.recovered` true.
 *
 * Everything in `socket.data` must be JSON, or the client stays (BATON_ERR_STATE_INVALID is logged). Clients that use long-polling, or
 * version 2 of the protocol, stay as they are.
 *
 * `io` is attached to the HTTP server that is attached to `backend`, and lays itself into `io.engine` and the namespaces: it cannot be
 * undone. Call it before `backend.ready()`, once for each `io`.
 *
 * @throws {BackendError} BATON_ERR_INVALID_OPTION
 * @throws {BackendError} BATON_ERR_UNSUPPORTED_LIBRARY: socket.io before 4.6, another `wsEngine`, or no HTTP server of Node
 */
export function migrateSocketIo<State = unknown>(
  io: AnyServer,
  backend: Backend,
  options: SocketIoMigration<State> = {},
): SocketIoConnections {
  const migration = migrationOf(backend)
  if (migration === undefined)
    throw new BackendError(
      'BATON_ERR_INVALID_OPTION',
      'migrateSocketIo() needs what createBackend() returned',
    )
  const mover = new SocketIoMover(io, migration, { ...options, schema: options.schema ?? 'socket.io' })
  migration.movers.add(mover)
  return { connection: (socket) => mover.connection(socket) }
}
