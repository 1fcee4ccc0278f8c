import type { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Server, Socket } from 'socket.io'
import type { WebSocket } from 'ws'
import { BackendError } from '../../errors.ts'
import type { UpgradingServer } from '../carried-window.ts'

/** A server with any events. */
// oxlint-disable-next-line typescript/no-explicit-any -- as socket.io declares it
export type AnyServer = Server<any, any, any>
/** A socket with any events. */
// oxlint-disable-next-line typescript/no-explicit-any -- as socket.io declares it
export type AnySocket = Socket<any, any, any>

// The parts of socket.io 4 and engine.io 6 that moving needs. Those that their types do not show are checked before they are used.

/** Types of socket.io's packets (protocol 5). */
export const PACKET = {
  CONNECT: 0,
  EVENT: 2,
  ACK: 3,
  CONNECT_ERROR: 4,
  BINARY_EVENT: 5,
  BINARY_ACK: 6,
} as const

/** A packet of socket.io. */
export interface SioPacket {
  readonly type: number
  readonly nsp: string
  readonly id?: number
  readonly data?: unknown
}

/** The server of engine.io: `io.engine`. */
export interface Engine extends Pick<EventEmitter, 'prependListener'> {
  readonly opts: { readonly pingInterval: number; readonly pingTimeout: number }
  /** Created again whenever the HTTP server begins to listen. Undefined without the transport `websocket`. */
  readonly ws: UpgradingServer | undefined
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void
  generateId(request: IncomingMessage): string | PromiseLike<string>
}

/** A client's session with engine.io: `socket.conn`. */
export interface EngineSocket extends Pick<EventEmitter, 'on' | 'once' | 'emit'> {
  readonly id: string
  readonly protocol: number
  readonly readyState: string
  readonly upgrading: boolean
  readonly transport: { readonly name: string; readonly writable: boolean; readonly socket?: WebSocket }
  readonly writeBuffer: readonly unknown[]
  readonly pingIntervalTimer: NodeJS.Timeout | null
  pingTimeoutTimer: NodeJS.Timeout | null
  close(): void
  sendPacket(type: string): void
  resetPingTimeout(): void
  onClose(reason: string): void
}

/** The part of socket.io for a session with engine.io. */
export interface Client {
  readonly conn: EngineSocket
  readonly decoder: { on(event: 'decoded', listener: (packet: SioPacket) => void): unknown } & {
    /** The packet whose attachments have not all come; in socket.io's own decoder. */
    readonly reconstructor?: unknown
  }
  connect(namespace: string, auth: unknown): void
  _packet(packet: SioPacket, options?: unknown): void
}

/** The parts of a socket of socket.io that its types hide or protect. */
export interface SocketParts {
  id: string
  pid: string | undefined
  recovered: boolean
  data: unknown
  handshake: AnySocket['handshake']
  readonly acks: ReadonlyMap<number, unknown>
  run(event: unknown[], next: (error: Error | null) => void): void
}

/** A namespace. */
export interface NamespaceParts {
  readonly name: string
  _createSocket(client: Client, auth: unknown): Promise<AnySocket>
}

/** The parts of `io`. */
export interface ServerParts {
  readonly engine: Engine
  readonly encoder: { encode(packet: SioPacket): (string | Buffer)[] }
  readonly namespaces: ReadonlyMap<string, NamespaceParts>
  readonly server: AnyServer
}

const WANTED =
  'migrateSocketIo() needs socket.io 4.6 or a later 4 on an HTTP server of Node, with the ws engine'

function unsupported(missing: string): BackendError {
  return new BackendError('BATON_ERR_UNSUPPORTED_LIBRARY', `${WANTED}; missing: ${missing}`)
}

/** @throws {BackendError} BATON_ERR_UNSUPPORTED_LIBRARY */
function check(of: unknown, names: readonly string[], label: string): void {
  for (const name of names)
    if (typeof member(of, name) !== 'function') throw unsupported(`${label}.${name}()`)
}

function member(of: unknown, name: string): unknown {
  return typeof of === 'object' && of !== null ? Reflect.get(of, name) : undefined
}

/**
 * The parts of `io` that moving needs.
 *
 * @throws {BackendError} BATON_ERR_INVALID_OPTION, BATON_ERR_UNSUPPORTED_LIBRARY
 */
export function partsOf(server: AnyServer): ServerParts {
  check(server, ['of', 'on', '_checkNamespace'], 'io')
  const engine = member(server, 'engine')
  if (engine === undefined)
    throw new BackendError(
      'BATON_ERR_INVALID_OPTION',
      'migrateSocketIo(): attach io to its HTTP server first, with new Server(server) or io.attach(server)',
    )
  check(engine, ['handleUpgrade', 'generateId', 'prependListener'], 'io.engine')
  const opts = member(engine, 'opts')
  for (const name of ['pingInterval', 'pingTimeout'])
    if (typeof member(opts, name) !== 'number') throw unsupported(`io.engine.opts.${name}`)
  const ws = member(engine, 'ws')
  if (ws !== undefined) {
    check(ws, ['handleUpgrade', 'shouldHandle'], 'io.engine.ws')
    if (typeof member(ws, 'options') !== 'object') throw unsupported('io.engine.ws.options')
  }
  const encoder = member(server, 'encoder')
  check(encoder, ['encode'], 'io.encoder')
  const namespaces = member(server, '_nsps')
  if (!(namespaces instanceof Map)) throw unsupported('io._nsps')
  for (const namespace of namespaces.values()) check(namespace, ['_createSocket'], 'Namespace')
  return {
    engine: engine as Engine,
    encoder: encoder as ServerParts['encoder'],
    namespaces: namespaces as ServerParts['namespaces'],
    server,
  }
}

/** @throws {BackendError} BATON_ERR_UNSUPPORTED_LIBRARY */
export function checkClient(client: Client): void {
  check(client, ['connect', '_packet'], 'Client')
  check(client.decoder, ['on'], 'Client.decoder')
  check(client.conn, ['close', 'sendPacket', 'resetPingTimeout', 'onClose'], 'Socket of engine.io')
  if (!Array.isArray(client.conn.writeBuffer)) throw unsupported('Socket of engine.io.writeBuffer')
}

/** @throws {BackendError} BATON_ERR_UNSUPPORTED_LIBRARY */
export function partsOfSocket(socket: AnySocket): SocketParts {
  check(socket, ['run', 'join'], 'Socket')
  const parts = socket as unknown as SocketParts
  if (!(parts.acks instanceof Map)) throw unsupported('Socket.acks')
  return parts
}
