import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { WebSocket, WebSocketServer } from 'ws'
import { throwLater } from '../throw-later.ts'
import { takeState } from './app-state.ts'
import { inflateWithWindows } from './carried-window.ts'
import { MigrationError } from './errors.ts'
import { LiveWebSocket } from './live-web-socket.ts'
import type { Migration, Mover, Packed } from './mover.ts'
import { checkMigrationOptions, type SchemaOptions } from './options.ts'
import type { Replay } from './replay.ts'

/** How a `WebSocketServer` of `ws` moves its connections. `State` is anything that JSON can hold. */
export interface WebSocketMigration<State> extends SchemaOptions {
  /**
   * Returns all that the next process needs to go on with this connection. Synchronous. Undefined: not now; it is asked again soon.
   *
   * Called when everything that was received has been reported to the app, and everything that was sent has left.
   */
  state(ws: WebSocket, request: IncomingMessage): State | undefined
  /**
   * Takes a connection up, after the app's own `connection` listeners. Messages of the client wait until it returns, or its promise
   * resolves. If it throws or rejects, the client's connection is closed with code 1012.
   */
  resume(ws: WebSocket, state: State, request: IncomingMessage): void | Promise<void>
}

const CLOSE_REASON = 'moved to another process'
/** Close frame of a client, 1012 (service restart), with a mask of zeros. Only the app's own object gets it. */
const CLOSE_FRAME = Buffer.concat([
  Buffer.from([0x88, 0x80 | (2 + CLOSE_REASON.length), 0, 0, 0, 0, 0x03, 0xf4]),
  Buffer.from(CLOSE_REASON),
])

/** Moves the connections of one `WebSocketServer`. */
export class WebSocketMover<State> implements Mover {
  readonly accepts: readonly string[]
  readonly #migration: Migration
  readonly #options: WebSocketMigration<State>
  readonly #open = new Map<Socket, LiveWebSocket>()

  /** @throws {BackendError} BATON_ERR_INVALID_OPTION */
  constructor(wss: WebSocketServer, migration: Migration, options: WebSocketMigration<State>) {
    this.accepts = checkMigrationOptions('migrateWebSockets()', options)
    this.#migration = migration
    this.#options = options
    inflateWithWindows(wss, (socket) => migration.connection(socket)?.upgrade?.replay)
    // In front of the app's, so that no message is missed and each is seen as it came.
    wss.prependListener('connection', (ws, request) => this.#opened(ws, request))
  }

  connections(): IterableIterator<Socket> {
    return this.#open.keys()
  }

  pack(socket: Socket): Packed | undefined {
    const live = this.#open.get(socket)
    if (live === undefined) return undefined
    const packed = this.#pack(live)
    live.waits = packed === undefined
    return packed
  }

  #pack(live: LiveWebSocket): Packed | undefined {
    const { ws, request, upgrade } = live
    if (!live.isStill) return undefined
    const state = takeState(() => this.#options.state(ws, request))
    // `state` may have written.
    if (state === undefined || !live.isStill) return undefined
    const { requestHead } = upgrade
    const { answerHead, prefixLength } = live
    return {
      block: { kind: 'replay', schema: this.#options.schema, requestHead, answerHead, state },
      prefixLength,
      still: live.unchanged(),
      leave: () => this.#leave(live),
      stay: () => undefined,
    }
  }

  #leave(live: LiveWebSocket): Buffer {
    this.#open.delete(live.socket)
    const { prefix, listeners } = live.leave()
    // The app's object ends with 1012 instead of 1006. Within a frame it would take this for payload.
    if (live.upgrade.walker.betweenFrames) tellClosed(live.socket, listeners)
    return prefix
  }

  #opened(ws: WebSocket, request: IncomingMessage): void {
    const { socket } = request
    const connection = this.#migration.connection(socket)
    const upgrade = connection?.upgrade
    if (connection === undefined || upgrade === undefined) return
    const { replay } = upgrade
    const live = new LiveWebSocket(ws, request, connection, upgrade, () => {
      if (!live.waits) return
      live.waits = false
      this.#migration.mayLeave()
    })
    this.#open.set(socket, live)
    ws.on('close', () => this.#open.delete(socket))
    // After the app's own listeners of `connection`.
    if (replay !== undefined) process.nextTick(() => void this.#resume(live, replay))
  }

  async #resume({ ws, request, connection }: LiveWebSocket, replay: Replay): Promise<void> {
    if (replay.hasFailed) return
    const { schema, state } = connection.resumed ?? { schema: '', state: undefined }
    try {
      if (!this.accepts.includes(schema))
        throw new Error(`its schema is ${JSON.stringify(schema)}, and this server does not accept it`)
      const resuming = this.#options.resume(ws, state as State, request)
      if (resuming !== undefined) await resuming
    } catch (error) {
      replay.fail(new MigrationError('BATON_ERR_RESUME_FAILED', undefined, { cause: error }))
      return
    }
    replay.resumed(() => ws.isPaused)
  }
}

/** Those of the app among them may throw. */
function tellClosed(socket: Socket, listeners: ReturnType<Socket['listeners']>): void {
  for (const listener of listeners) {
    try {
      Reflect.apply(listener, socket, [CLOSE_FRAME])
    } catch (error) {
      throwLater(error)
    }
  }
}
