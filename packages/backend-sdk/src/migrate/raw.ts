import type { Socket } from 'node:net'
import { takeState } from './app-state.ts'
import { MigrationError } from './errors.ts'
import type { Migration, Mover, Packed } from './mover.ts'
import { checkMigrationOptions, type SchemaOptions } from './options.ts'
import { canBeLeft, takeUnread } from './socket-state.ts'

/** How the connections of an attached `net.Server` move. `State` is anything that JSON can hold. */
export interface RawMigration<State = unknown> extends SchemaOptions {
  /**
   * Returns all that the next process needs to go on with this connection. Synchronous, and the socket is paused meanwhile. Undefined: not now; it
   * is asked again soon.
   *
   * Bytes that the app has read and not used belong to the connection: give them back with `socket.unshift()`.
   */
  state(socket: Socket): State | undefined
  /**
   * Takes a connection up, after the server's own `connection` listeners and before anything of it is read. Synchronous. If it throws, the
   * connection is closed.
   */
  resume(socket: Socket, state: State): void
}

const EMPTY = Buffer.alloc(0)

/** Moves the connections of a `net.Server`. */
export class RawMover<State> implements Mover {
  readonly accepts: readonly string[]
  readonly #migration: Migration
  readonly #options: RawMigration<State>
  readonly #sockets = new Set<Socket>()

  /** @throws {BackendError} BATON_ERR_INVALID_OPTION */
  constructor(migration: Migration, options: RawMigration<State>) {
    this.accepts = checkMigrationOptions('attach()', options)
    this.#migration = migration
    this.#options = options
  }

  connections(): Iterable<Socket> {
    return this.#sockets
  }

  /** The server has received this connection, and nothing of it was read. */
  adopted(socket: Socket): void {
    const connection = this.#migration.connection(socket)
    if (connection?.via !== 'handoff' || socket.destroyed) return
    this.#sockets.add(socket)
    socket.once('close', () => this.#sockets.delete(socket))
    if (connection.resumed === undefined) return
    const { schema, state } = connection.resumed
    const fail = (cause: unknown) => {
      const error = new MigrationError('BATON_ERR_RESUME_FAILED', undefined, { cause })
      this.#migration.logger.error({ connection: connection.id, error, cause }, 'cannot resume a connection')
      socket.destroy()
    }
    try {
      if (!this.accepts.includes(schema))
        throw new Error(`its schema is ${JSON.stringify(schema)}, and this server does not accept it`)
      const resuming: unknown = this.#options.resume(socket, state as State)
      // Nothing waits for it, but its failure is one.
      if (resuming instanceof Promise) resuming.catch(fail)
    } catch (cause) {
      fail(cause)
    }
  }

  pack(socket: Socket): Packed | undefined {
    // A decoder may hold a part of a character, which cannot be had back.
    if (!canBeLeft(socket) || socket.readableEncoding !== null) return undefined
    const flows = socket.readableFlowing === true
    const stay = () => {
      if (flows) socket.resume()
    }
    let state: Buffer | undefined
    try {
      socket.pause()
      state = takeState(() => this.#options.state(socket))
    } catch (error) {
      stay()
      throw error
    }
    if (state === undefined || !canBeLeft(socket)) {
      stay()
      return undefined
    }
    const { bytesWritten, readableLength: prefixLength } = socket
    return {
      block: {
        kind: 'raw',
        schema: this.#options.schema,
        requestHead: EMPTY,
        answerHead: EMPTY,
        state,
      },
      prefixLength,
      still: () =>
        canBeLeft(socket) && socket.bytesWritten === bytesWritten && socket.readableLength === prefixLength,
      leave: () => {
        this.#sockets.delete(socket)
        return takeUnread(socket).unread
      },
      stay,
    }
  }
}
