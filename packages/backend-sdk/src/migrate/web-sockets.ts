import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { ServerOptions, WebSocket, WebSocketServer } from 'ws'
import type { ConnectionInfo } from '../connection-info.ts'
import { throwLater } from '../throw-later.ts'
import { takeState } from './app-state.ts'
import { MigrationError } from './errors.ts'
import { field, withOwnField } from './http-heads.ts'
import { InflateWindow } from './inflate-window.ts'
import type { Migration, Mover, Packed } from './mover.ts'
import { checkMigrationOptions, type SchemaOptions } from './options.ts'
import type { Replay } from './replay.ts'
import { canBeLeft, mute, takeUnread } from './socket-state.ts'
import type { Upgrade } from './upgrade.ts'

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

const OPEN = 1
const DEFLATE = 'permessage-deflate'
/** Field of a recorded answer: the inflater's window, in Base64. */
const WINDOW_FIELD = 'Baton-Inflate-Window'
const CLOSE_REASON = 'moved to another process'
/** Close frame of a client, 1012 (service restart), with a mask of zeros. Only the app's own object gets it. */
const CLOSE_FRAME = Buffer.concat([
  Buffer.from([0x88, 0x80 | (2 + CLOSE_REASON.length), 0, 0, 0, 0, 0x03, 0xf4]),
  Buffer.from(CLOSE_REASON),
])

interface Open {
  readonly ws: WebSocket
  readonly socket: Socket
  readonly request: IncomingMessage
  readonly connection: ConnectionInfo
  readonly upgrade: Upgrade
  /** The bytes that the client's deflater may refer to. Undefined without context takeover. */
  readonly window: InflateWindow | undefined
  /** Reported to the app. */
  messages: number
  controls: number
  /** `ws.send()` has not called back; counted only where a message can be on its way without a byte to show for it. */
  sending: number
  /** It could not leave when that was tried last. */
  waits: boolean
  /** The content of its window is not known. */
  unknown: boolean
}

/** Moves the connections of one `WebSocketServer`. */
export class WebSocketMover<State> implements Mover {
  readonly accepts: readonly string[]
  readonly #migration: Migration
  readonly #options: WebSocketMigration<State>
  readonly #open = new Map<Socket, Open>()

  /** @throws {BackendError} BATON_ERR_INVALID_OPTION */
  constructor(wss: WebSocketServer, migration: Migration, options: WebSocketMigration<State>) {
    this.accepts = checkMigrationOptions('migrateWebSockets()', options)
    this.#migration = migration
    this.#options = options
    inflateWithWindows(wss, (socket) => migration.connection(socket)?.upgrade?.replay)
    // In front of the app's, so that no message is missed and each is seen as it came.
    wss.prependListener('connection', (ws, request) => this.#opened(ws, request))
  }

  connections(): Iterable<Socket> {
    return this.#open.keys()
  }

  pack(socket: Socket): Packed | undefined {
    const open = this.#open.get(socket)
    if (open === undefined) return undefined
    const packed = this.#pack(open)
    open.waits = packed === undefined
    return packed
  }

  #pack(open: Open): Packed | undefined {
    const { ws, socket, request, upgrade, window } = open
    if (!isStill(open)) return undefined
    const state = takeState(() => this.#options.state(ws, request))
    // `state` may have written.
    if (state === undefined || !isStill(open)) return undefined
    const answerHead = upgrade.answerHead as Buffer
    const { requestHead } = upgrade
    const unread = () => upgrade.walker.tailLength + socket.readableLength
    const prefixLength = unread()
    const { bytesWritten } = socket
    return {
      block: {
        kind: 'replay',
        schema: this.#options.schema,
        requestHead,
        answerHead:
          window === undefined
            ? answerHead
            : withOwnField(answerHead, WINDOW_FIELD, window.bytes().toString('base64')),
        state,
      },
      prefixLength,
      still: () => isStill(open) && socket.bytesWritten === bytesWritten && unread() === prefixLength,
      leave: () => this.#leave(open),
      stay: () => undefined,
    }
  }

  #leave({ socket, upgrade }: Open): Buffer {
    const { unread, listeners } = takeUnread(socket)
    const prefix = Buffer.concat([upgrade.walker.tail(), unread])
    this.#open.delete(socket)
    mute(socket)
    // The app's object ends with 1012 instead of 1006. Within a frame it would take this for payload.
    if (upgrade.walker.betweenFrames)
      tellClosed(
        socket,
        listeners.filter((each) => !upgrade.isWalk(each)),
      )
    return prefix
  }

  #opened(ws: WebSocket, request: IncomingMessage): void {
    const { socket } = request
    const connection = this.#migration.connection(socket)
    const upgrade = connection?.upgrade
    if (connection === undefined || upgrade === undefined) return
    const { replay } = upgrade
    const open: Open = {
      ws,
      socket,
      request,
      connection,
      upgrade,
      window: windowOf(upgrade, replay),
      messages: 0,
      controls: 0,
      sending: 0,
      waits: false,
      unknown: false,
    }
    if (open.window !== undefined) upgrade.tracksCompression = true
    if (ws.extensions !== '') countSends(open)
    this.#open.set(socket, open)
    ws.on('close', () => this.#open.delete(socket))
    ws.on('message', (data: unknown) => {
      open.messages += 1
      remember(open, data)
      this.#moved(open)
    })
    const control = () => {
      open.controls += 1
      this.#moved(open)
    }
    ws.on('ping', control).on('pong', control)
    // After the app's own listeners of `connection`.
    if (replay !== undefined) process.nextTick(() => void this.#resume(open, replay))
  }

  async #resume(open: Open, replay: Replay): Promise<void> {
    if (replay.hasFailed) return
    const { ws, request, connection } = open
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

  /** Something was reported that may have been missing before. */
  #moved(open: Open): void {
    if (!open.waits) return
    open.waits = false
    this.#migration.mayLeave()
  }
}

/** All that has come was reported to the app, and all that was sent is in the kernel. */
function isStill(open: Open): boolean {
  const { ws, socket, upgrade, messages, controls } = open
  const { walker, replay, answerHead } = upgrade
  if (replay !== undefined && !replay.isOver) return false
  if (open.unknown || !(ws.extensions === '' || ws.extensions === DEFLATE)) return false
  if (ws.readyState !== OPEN || ws.bufferedAmount > 0 || open.sending > 0) return false
  // Otherwise inflating still runs, or it was a close frame.
  if (walker.messages !== messages || walker.controls !== controls || walker.tooLong) return false
  return answerHead !== undefined && canBeLeft(socket)
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

/** Undefined if the client's messages do not refer to the ones before. */
function windowOf({ answerHead }: Upgrade, replay: Replay | undefined): InflateWindow | undefined {
  const extensions = answerHead === undefined ? undefined : field(answerHead, 'Sec-WebSocket-Extensions')
  if (extensions === undefined || !extensions.includes(DEFLATE)) return undefined
  if (extensions.includes('client_no_context_takeover')) return undefined
  return new InflateWindow(replay && inflated(replay))
}

/** The last bytes that were inflated of a connection in the processes before. */
function inflated({ block }: Replay): Buffer | undefined {
  const value = field(block.answerHead, WINDOW_FIELD)
  return value === undefined || value === '' ? undefined : Buffer.from(value, 'base64')
}

function remember(open: Open, data: unknown): void {
  const { window, upgrade } = open
  if (window === undefined || upgrade.compressed.shift() !== true) return
  const parts: unknown[] = Array.isArray(data) ? data : [data]
  for (const part of parts) {
    if (part instanceof ArrayBuffer) window.add(Buffer.from(part))
    else if (Buffer.isBuffer(part)) window.add(part)
    // A Blob cannot be read in this step.
    else open.unknown = true
  }
}

/** `ws` deflates asynchronously, and `bufferedAmount` does not show an empty message (8.23). */
function countSends(open: Open): void {
  const { ws } = open
  const below = ws.send.bind(ws) as (...args: unknown[]) => void
  ws.send = (data: unknown, options?: unknown, callback?: unknown): void => {
    // By position, as `ws` does: a caller may pass on an option or a callback that it does not have.
    const [given, rest] = typeof options === 'function' ? [options, undefined] : [callback, options]
    open.sending += 1
    const over = (error?: Error) => {
      open.sending -= 1
      if (typeof given === 'function') given(error)
    }
    try {
      below(data, rest, over)
    } catch (error) {
      open.sending -= 1
      throw error
    }
  }
}

/** An inflater's dictionary is an option of the server: it is set while that opens a connection that has one. */
function inflateWithWindows(wss: WebSocketServer, replayOf: (socket: Socket) => Replay | undefined): void {
  const below = wss.handleUpgrade.bind(wss)
  wss.handleUpgrade = (request, socket, head, callback) => {
    const replay = replayOf(socket as Socket)
    const dictionary = replay && inflated(replay)
    const { options } = wss
    const { perMessageDeflate } = options
    if (dictionary === undefined || perMessageDeflate === undefined || perMessageDeflate === false)
      return below(request, socket, head, callback)
    const deflate = perMessageDeflate === true ? {} : perMessageDeflate
    const withDictionary: ServerOptions = {
      ...options,
      perMessageDeflate: { ...deflate, zlibInflateOptions: { ...deflate.zlibInflateOptions, dictionary } },
    }
    wss.options = withDictionary
    try {
      below(request, socket, head, callback)
    } finally {
      wss.options = options
    }
  }
}
