import { createRequire } from 'node:module'
import { createServer, type Socket } from 'node:net'
import { type Attachment, type AttachHooks, attachServer } from './attachment.ts'
import { AttachError } from './errors.ts'
import { SHUTDOWN_NOTICE } from './last-streams.ts'
import { Overlay } from './overlay.ts'

/** The server of `@grpc/grpc-js` 1.11 or later, as far as `attach()` needs it. */
export interface GrpcServer {
  /**
   * Takes connections that the server has not accepted itself.
   *
   * @param credentials of these connections
   */
  createConnectionInjector(credentials: never): GrpcInjector
  /** Stops, and calls back when the last call is over. */
  tryShutdown(callback: (error?: Error) => void): void
  /** Stops at once: calls in progress are cut. */
  forceShutdown(): void
}

/** Gives a gRPC server connections that it has not accepted itself. */
export interface GrpcInjector {
  /** Owns the socket from then on. */
  injectConnection(connection: Socket): void
  /** GOAWAY to every connection; after the time, those that are left are cut with CANCELLED. */
  drain(graceTimeMs: number): void
}

/**
 * From a notice of the end, which refuses no call, to GOAWAY, which refuses those that are on their way: longer than any round trip. Clients
 * leave before, as soon as their calls are over.
 */
const NOTICE_MS = 1000

/** Never: connections that are left at the deadline of a drain are closed, which clients see as UNAVAILABLE. */
const NO_GRACE_LIMIT_MS = 2 ** 31 - 1

export function isGrpcServer(value: unknown): value is GrpcServer {
  return (
    typeof value === 'object' &&
    value !== null &&
    ['createConnectionInjector', 'tryShutdown', 'forceShutdown'].every(
      (name) => typeof Reflect.get(value, name) === 'function',
    )
  )
}

const attached = new WeakSet<object>()

/**
 * Attaches a gRPC server: its connections are adopted by a `net.Server` that injects them. Each generation of connections has an injector of
 * its own, because one that drains ends those that are injected later, too.
 *
 * @param credentials of the connections; undefined: without TLS
 * @throws {AttachError} BATON_ERR_NOT_A_SERVER, BATON_ERR_ALREADY_ATTACHED
 */
export function attachGrpc(server: GrpcServer, credentials: unknown, hooks: AttachHooks): Attachment {
  if (attached.has(server)) throw new AttachError('BATON_ERR_ALREADY_ATTACHED')
  const chosen = credentials ?? insecureCredentials(server)
  if (chosen === undefined)
    throw new AttachError(
      'BATON_ERR_NOT_A_SERVER',
      'got a gRPC server whose module was not found (is the app bundled?): pass { credentials: ServerCredentials.createInsecure() }',
    )
  const plain = isPlain(chosen)
  let generation = new Generation(server, chosen, plain)
  let draining = false
  const bridge = createServer((socket) => {
    // Its offer was accepted before the drain: it has its first calls on the way.
    if (draining) generation = new Generation(server, chosen, plain)
    generation.add(socket)
    if (draining) generation.drain()
  })
  const attachment = attachServer(bridge, {
    ...hooks,
    onDrain: () => {
      draining = true
      generation.drain()
    },
  })
  attached.add(server)
  behaveAsAttached(server, attachment, hooks)
  return attachment
}

function behaveAsAttached(server: GrpcServer, attachment: Attachment, hooks: AttachHooks): void {
  const overlay = new Overlay(server)
  const tryShutdown = server.tryShutdown.bind(server)
  const shutDownWhenEmpty = async (callback: (error?: Error) => void) => {
    await attachment.whenEmpty()
    tryShutdown(callback)
  }
  overlay.method('tryShutdown', tryShutdown, (callback) => {
    hooks.onServerClose()
    void shutDownWhenEmpty(callback)
  })
  const forceShutdown = server.forceShutdown.bind(server)
  overlay.method('forceShutdown', forceShutdown, () => {
    hooks.onServerClose()
    attachment.destroyAll()
    forceShutdown()
  })
  const detach = attachment.detach.bind(attachment)
  attachment.detach = () => {
    detach()
    overlay.remove()
    attached.delete(server)
  }
}

/** Connections that end together. */
class Generation {
  readonly #injector: GrpcInjector
  readonly #plain: boolean
  readonly #sockets = new Set<Socket>()

  constructor(server: GrpcServer, credentials: unknown, plain: boolean) {
    this.#injector = server.createConnectionInjector(credentials as never)
    this.#plain = plain
  }

  add(socket: Socket): void {
    this.#sockets.add(socket)
    socket.once('close', () => this.#sockets.delete(socket))
    this.#injector.injectConnection(socket)
  }

  /** See `LastStreams`: the notice is written between the frames of the session, and never before its first. */
  drain(): void {
    if (this.#plain)
      for (const socket of this.#sockets)
        if (socket.writable && socket.bytesWritten > 0) socket.write(SHUTDOWN_NOTICE)
    // With TLS a new connection has no session before its handshake, which GOAWAY must not miss.
    setTimeout(() => this.#injector.drain(NO_GRACE_LIMIT_MS), NOTICE_MS).unref()
  }
}

/** grpc-js asks its credentials the same; the method is undocumented. Without it there is no notice. */
function isPlain(credentials: unknown): boolean {
  const isSecure: unknown =
    typeof credentials === 'object' && credentials !== null
      ? Reflect.get(credentials, '_isSecure')
      : undefined
  return typeof isSecure === 'function' && Reflect.apply(isSecure, credentials, []) === false
}

/** Of the very module that the server is from: others would be refused. The app has loaded it, so it is in the cache of `require()`. */
function insecureCredentials(server: GrpcServer): unknown {
  for (const [path, loaded] of Object.entries(createRequire(import.meta.url).cache)) {
    if (!path.includes('@grpc/grpc-js')) continue
    const { Server, ServerCredentials } = (loaded?.exports ?? {}) as Record<string, unknown>
    if (typeof Server !== 'function' || !(server instanceof Server)) continue
    const create: unknown = Reflect.get(ServerCredentials as object, 'createInsecure')
    if (typeof create === 'function') return Reflect.apply(create, ServerCredentials, [])
  }
  return undefined
}
