import type { EventEmitter } from 'node:events'
import type { IncomingMessage, Server as HttpServer, ServerResponse } from 'node:http'
import { type AddressInfo, Server as NetServer, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { AdoptedSockets } from './adopted-sockets.ts'
import { allowHalfOpen, applyAcceptOptions, connectionLimit } from './accept-options.ts'
import { checkAttachable } from './attachable.ts'
import { startConnectionTracking } from './connection-tracking.ts'
import { AttachError } from './errors.ts'
import { asIfFinished, betweenRequests, closeWhenQuiet } from './idle-connections.ts'
import { type IdleTaker, isRequest, LastAnswers } from './last-answers.ts'
import { isSession, LastStreams } from './last-streams.ts'
import { OpenedSocket } from '../open-socket.ts'
import { Overlay } from './overlay.ts'
import { type AttachableServer, type ServerKind, serverKind } from './server-kind.ts'
import { TlsSessions } from './tls-sessions.ts'

export interface AttachHooks {
  /** The app called `server.close()`: the backend must take no more connections. Called once. */
  onServerClose(): void
  /** A connection has had its last answer, and no request has been read behind it. */
  onIdle?(): void
  /** The server drains from now on. */
  onDrain?(): void
  /** An adopted connection has closed. */
  onClosed?(): void
  /** A client upgrades a plain HTTP connection; called before the app gets it. */
  onUpgrade?(request: IncomingMessage, socket: Socket): void
  /** A client upgrades an HTTP connection, or one of HTTPS: from now on it has no more requests. Called before the app gets it. */
  onUpgraded?(socket: Duplex): void
  /** Connections were handed back, and the broker has not answered: they may still come back. Until then the server's `close` waits. */
  awaitsAnswer?(): boolean
}

/** An HTTP/1 connection on which nothing is under way. */
export interface IdleConnection {
  readonly socket: Socket
  /** performance.now() since when. */
  readonly since: number
  /** performance.now() at which the server closes it; `Infinity` for never. */
  readonly until: number
  /** Bytes that had been read of it then. */
  readonly bytesRead: number
  /** Whether its first request has not come yet. */
  readonly fresh: boolean
}

/**
 * An app's server that receives connections it did not accept itself. While attached, its `close`, `getConnections`, `address`,
 * `listening` and `Symbol.asyncDispose` work as on a listening server, and include adopted connections. A server that also
 * listens itself continues to.
 */
export interface Attachment {
  readonly server: AttachableServer
  readonly kind: ServerKind
  /** Shares session tickets with the other processes of the service. Undefined: not a TLS server, or it does not share them. */
  readonly tlsSessions: TlsSessions | undefined
  /** The server's option, for `new net.Socket({ fd, allowHalfOpen })`. */
  readonly allowHalfOpen: boolean
  /** Returned by `server.address()` while the server does not listen itself. Unset: null, Node's answer without an address. */
  address: AddressInfo | undefined
  /** Adopted connections that are open. Those that the server accepted itself are never counted here. */
  readonly live: number
  /** Connections adopted since attaching. */
  readonly adopted: number
  /** Adopted connections that have closed since. */
  readonly closed: number
  /**
   * Whether another connection would exceed `server.maxConnections`. The broker then gives it to another backend, so no `drop`
   * event is emitted: nothing was dropped.
   *
   * @param pending connections verified but not yet adopted
   */
  overloaded(pending: number): boolean
  /**
   * Gives the socket to the server as its own listener would: applies accept options, then emits `connection`. The server owns the
   * socket from then on. It must be the raw socket, also for TLS.
   *
   * @param resumed the client has spoken before, with another process
   */
  adopt(socket: Socket, resumed?: boolean): void
  /**
   * An idle connection that comes back: the server gets it with its next byte, since `headersTimeout` counts from the moment that it gets
   * one. Closed after `keepAlive` milliseconds (`Infinity` for never) without one.
   *
   * @param onGiven called when the server has got it
   */
  adoptIdle(socket: Socket, keepAlive: number, onGiven?: () => void): void
  /**
   * Plain HTTP/1 connections, adopted or not, on which nothing is under way: by the word of Node's parser, and with nothing left
   * to be sent. Also those on which no request has begun. Looks at every connection.
   */
  idle(): IdleConnection[]
  /** One that `idle` has returned is idle still: what has not been read cannot have begun a request. */
  stillIdle(connection: IdleConnection): boolean
  /**
   * Of plain HTTP/1 connections with an open answer: those whose request was read whole, body included, and behind it nothing, by
   * the word of Node's parser. Holds until something is read.
   */
  nothingReadBehind(answers: ReadonlyMap<Socket, ServerResponse>): ReadonlySet<Socket>
  /** `awaitsAnswer` has become false. */
  answered(): void
  /** The first open adopted socket that matches. */
  find(predicate: (socket: Socket) => boolean): Socket | undefined
  /**
   * Lets connections end: each HTTP/1 connection closes after its next response, which carries `Connection: close`; each HTTP/2
   * connection gets GOAWAY and closes after its open streams. Idle HTTP/1 connections are not cut (see `closeIdle`); WebSockets,
   * `net` and plain `tls` connections continue until they end. Includes connections that the server accepted itself.
   *
   * @param taker of connections that are idle: they are not closed then
   */
  drain(taker?: IdleTaker): void
  /**
   * While draining: idle connections get a short time only, unless they can be handed back. To be called when that is no longer so.
   */
  shortenKeepAlive(): void
  /**
   * Closes HTTP/1 connections that are idle now and stay idle for half a second. For use after `drain()`, when no more requests are
   * expected because the broker is gone too.
   */
  closeIdle(): void
  /** Resolves when no adopted connection is open. */
  whenEmpty(): Promise<void>
  /** Cuts all adopted connections. */
  destroyAll(): void
  /** Restores the server's own members. Adopted connections continue, and are counted until they end. */
  detach(): void
}

const attached = new WeakSet<AttachableServer>()

/**
 * @param tls whether a TLS server may share its sessions, and with the processes of which service; undefined: it does not
 * @throws {AttachError} BATON_ERR_NOT_A_SERVER, BATON_ERR_ALREADY_ATTACHED
 */
export function attachServer(
  server: AttachableServer,
  hooks: AttachHooks,
  tls?: { readonly tlsSessions: boolean; readonly service: string },
): Attachment {
  checkAttachable(server)
  if (attached.has(server)) throw new AttachError('BATON_ERR_ALREADY_ATTACHED')
  attached.add(server)
  return new ServerAttachment(server, hooks, tls?.tlsSessions === true ? tls.service : undefined)
}

/**
 * `keepAliveTimeout` while draining, unless the server's own is shorter: how long an idle connection stays open after a response
 * that promised keep-alive. Much longer than a request spends on the network, and much shorter than a load balancer keeps
 * idle connections (a minute).
 */
const DRAIN_KEEP_ALIVE_MS = 1000

/** Milliseconds; 0 in the server's property means no limit. */
function limitOf(
  server: AttachableServer,
  name: 'keepAliveTimeout' | 'headersTimeout',
  value: unknown = Reflect.get(server, name),
): number {
  return typeof value === 'number' && value > 0 ? value : Number.POSITIVE_INFINITY
}

/** Nothing is left to be written, nothing was read and not consumed, and neither side has ended. */
function isQuiet(socket: Socket): boolean {
  const { destroyed, readable, writable, writableEnded, writableLength, readableLength } = socket
  return !destroyed && readable && writable && !writableEnded && writableLength === 0 && readableLength === 0
}

/** The `close` that follows is what counts. */
function ignoreError(): void {}

type Emit = (event: string | symbol, ...args: unknown[]) => boolean

class ServerAttachment implements Attachment {
  readonly server: AttachableServer
  readonly kind: ServerKind
  readonly tlsSessions: TlsSessions | undefined
  address: AddressInfo | undefined
  readonly #hooks: AttachHooks
  readonly #overlay: Overlay
  readonly #speaksHttp1: boolean
  readonly #sockets = new AdoptedSockets(() => this.#ended())
  readonly #answers: LastAnswers
  readonly #streams = new LastStreams()
  #accepting: Socket | undefined
  #adopted = 0
  #empty: PromiseWithResolvers | undefined
  /** From attaching to the app's `close()`. */
  #open = true
  /** From `close()` to the `close` event. */
  #closing = false
  /** Node's own server has closed; its `close` event is delayed until the adopted connections have ended. */
  #closeHeld = false
  #restoreKeepAlive: (() => void) | undefined
  /** `server.keepAliveTimeout` before draining shortened it. */
  #keepAlive: unknown
  #handsBack: (socket: Duplex | undefined) => boolean = () => false
  /** Node's own, below what lies over it while draining. */
  #closeIdleConnections: () => void = () => {}
  /** Connections of `adoptIdle` before their first byte, with the performance.now() at which their time is over. */
  readonly #returned = new Map<Socket, number>()
  /** So far, all connections of the server, and what it calls `destroy` of, are sockets of `openSocket`. */
  #areOurs: boolean
  /** https only: connections without a request so far. */
  readonly #secured = new Set<TLSSocket>()

  /** @param service whose processes share TLS sessions; undefined: the server keeps its own */
  constructor(server: AttachableServer, hooks: AttachHooks, service: string | undefined) {
    this.server = server
    this.kind = serverKind(server)
    this.#hooks = hooks
    this.#answers = new LastAnswers((socket) => this.#becameIdle(socket))
    this.#speaksHttp1 = startConnectionTracking(server)
    this.#areOurs = this.kind === 'http' && !server.listening && Reflect.get(server, '_connections') === 0
    this.#overlay = this.#behaveAsListening()
    this.tlsSessions = service === undefined ? undefined : TlsSessions.of(server, service, this.#overlay)
  }

  get allowHalfOpen(): boolean {
    return allowHalfOpen(this.server)
  }

  get live(): number {
    return this.#sockets.size
  }

  get adopted(): number {
    return this.#adopted
  }

  get closed(): number {
    return this.#adopted - this.#sockets.size
  }

  overloaded(pending: number): boolean {
    return this.#sockets.size + pending >= connectionLimit(this.server)
  }

  adopt(socket: Socket, resumed = false): void {
    this.#adopted += 1
    // Already closed: no further `close` event would remove it from the set.
    if (socket.closed) return
    this.#add(socket, resumed)
    this.#give(socket)
  }

  adoptIdle(socket: Socket, rest: number, onGiven?: () => void): void {
    this.#adopted += 1
    this.#add(socket)
    // While draining, one that cannot leave again has as little time as others that stay.
    const stays = this.#answers.draining && !this.#handsBack(socket)
    const keepAlive = stays ? Math.min(rest, DRAIN_KEEP_ALIVE_MS) : rest
    this.#returned.set(socket, performance.now() + keepAlive)
    socket.once('close', () => this.#returned.delete(socket))
    const give = () => {
      this.#returned.delete(socket)
      socket.removeListener('timeout', late)
      socket.removeListener('error', ignoreError)
      socket.setTimeout(0)
      this.#give(socket)
      onGiven?.()
    }
    const late = () => socket.destroy()
    if (Number.isFinite(keepAlive)) socket.setTimeout(Math.max(1, keepAlive))
    socket.once('timeout', late).on('error', ignoreError).once('readable', give)
  }

  idle(): IdleConnection[] {
    const { server } = this
    if (this.kind !== 'http' || !('closeIdleConnections' in server)) return []
    const now = performance.now()
    const headers = limitOf(server, 'headersTimeout')
    const silent = this.#sockets
      .silent()
      .filter(({ socket }) => isQuiet(socket))
      .map(({ socket, since }) => ({
        socket,
        since,
        until: this.#returned.get(socket) ?? since + headers,
        bytesRead: 0,
        fresh: !this.#returned.has(socket),
      }))
    // Node 26 counts connections without a request as idle, earlier lines do not.
    const unused = new Set(silent.map(({ socket }) => socket))
    const quiet = this.#betweenRequests(server)
      .filter((socket) => !unused.has(socket) && !this.#answers.isAnswering(socket) && isQuiet(socket))
      .map((socket) => {
        const since = this.#answers.idleSince(socket) ?? now
        const until = since + this.#keepAliveOf(socket)
        return { socket, since, until, bytesRead: socket.bytesRead, fresh: false }
      })
    return [...quiet, ...silent]
  }

  stillIdle({ socket, bytesRead }: IdleConnection): boolean {
    return socket.bytesRead === bytesRead && isQuiet(socket) && !this.#answers.isAnswering(socket)
  }

  nothingReadBehind(answers: ReadonlyMap<Socket, ServerResponse>): ReadonlySet<Socket> {
    const { server } = this
    if (this.kind !== 'http' || !('closeIdleConnections' in server)) return new Set()
    const quiet = this.#betweenRequests(server, () =>
      asIfFinished(answers.values(), this.#closeIdleConnections),
    )
    return new Set(
      quiet.filter((socket) => {
        const answer = answers.get(socket)
        return answer !== undefined && this.#answers.isNewest(socket, answer)
      }),
    )
  }

  answered(): void {
    this.#closeIfOver()
  }

  find(predicate: (socket: Socket) => boolean): Socket | undefined {
    for (const socket of this.#sockets) if (predicate(socket)) return socket
    return undefined
  }

  drain(taker?: IdleTaker): void {
    if (this.#answers.draining) return
    this.#handsBack = (socket) => this.kind === 'http' && taker?.takes(socket) === true
    const handsBack = this.#handsBack
    this.#answers.drain({
      takes: handsBack,
      get behind() {
        return taker?.behind === true
      },
    })
    this.#streams.drain()
    this.#hooks.onDrain?.()
    this.#keepAlive = Reflect.get(this.server, 'keepAliveTimeout')
    this.shortenKeepAlive()
  }

  shortenKeepAlive(): void {
    if (!this.#speaksHttp1 || this.#restoreKeepAlive !== undefined || this.#handsBack(undefined)) return
    this.#restoreKeepAlive = shortenKeepAlive(this.server)
  }

  closeIdle(): void {
    const { server } = this
    this.shortenKeepAlive()
    if (!this.#speaksHttp1 || !('closeIdleConnections' in server)) return
    closeWhenQuiet(() => [
      ...this.#betweenRequests(server).filter((socket) => !this.#answers.isAnswering(socket)),
      ...this.#silent(),
    ])
  }

  whenEmpty(): Promise<void> {
    if (this.#sockets.size === 0) return Promise.resolve()
    this.#empty ??= withResolvers()
    return this.#empty.promise
  }

  destroyAll(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  detach(): void {
    this.#overlay.remove()
    this.#restoreKeepAlive?.()
    this.#restoreKeepAlive = undefined
    attached.delete(this.server)
  }

  /**
   * Milliseconds from its last answer after which the server closes it: what Node has set then, a little more than the `keepAliveTimeout` that
   * the answer promises; or the server's `timeout`.
   */
  #keepAliveOf(socket: Socket): number {
    if (this.#restoreKeepAlive !== undefined) return limitOf(this.server, 'keepAliveTimeout', this.#keepAlive)
    return socket.timeout === undefined || socket.timeout === 0 ? Infinity : socket.timeout
  }

  #betweenRequests(
    server: Pick<HttpServer, 'closeIdleConnections'>,
    closeIdle = this.#closeIdleConnections,
  ): Socket[] {
    return betweenRequests(server, closeIdle, this.#answers.connections, this.#areOurs)
  }

  /** Connections without a first request, such as those that browsers open in advance. Node does not count them as idle. */
  #silent(): Socket[] {
    if (this.kind === 'https') return [...this.#secured].filter(({ bytesRead }) => bytesRead === 0)
    return this.#sockets.silent().map(({ socket }) => socket)
  }

  #add(socket: Socket, resumed = false): void {
    this.#sockets.add(socket, resumed)
  }

  #give(socket: Socket): void {
    applyAcceptOptions(this.server, socket)
    if (this.tlsSessions?.give(socket) !== true) this.server.emit('connection', socket)
  }

  #becameIdle(socket: Duplex): void {
    this.#hooks.onIdle?.()
    if (!this.#answers.draining || this.#restoreKeepAlive !== undefined || this.#handsBack(socket)) return
    // The server's time is not shortened while others can be handed back. Node has just set it, and resets it at the next request.
    if (
      socket instanceof Socket &&
      (socket.timeout ?? 0) > DRAIN_KEEP_ALIVE_MS &&
      limitOf(this.server, 'keepAliveTimeout') < Infinity
    )
      socket.setTimeout(DRAIN_KEEP_ALIVE_MS)
  }

  #ended(): void {
    this.#hooks.onClosed?.()
    if (this.#sockets.size > 0) return
    this.#empty?.resolve()
    this.#empty = undefined
    this.#closeIfOver()
  }

  /** Whether connections are open here, or may be again. */
  get #isEmpty(): boolean {
    return this.#sockets.size === 0 && this.#hooks.awaitsAnswer?.() !== true
  }

  #closeIfOver(): void {
    if (!this.#closeHeld || !this.#isEmpty) return
    this.#closeHeld = false
    // A tick later, as in Node: the app's own `close` listeners on the socket run first.
    process.nextTick(() => this.server.emit('close'))
  }

  #behaveAsListening(): Overlay {
    const { server } = this
    const overlay = new Overlay(server)
    const events: EventEmitter = server
    const base: NetServer = server
    const listens = () => Reflect.get(NetServer.prototype, 'listening', server)

    const emit: Emit = events.emit.bind(events)
    overlay.method('emit', emit, (event, ...args) => this.#emitted(emit, event, args))

    // True without a listening socket: health checks and shutdown libraries read it to learn whether connections may arrive, or
    // whether to call `close()`. Node's `listen()` does not use it.
    overlay.getter('listening', listens, () => this.#open || listens())

    const address = base.address.bind(base)
    overlay.method('address', address, () => address() ?? this.address ?? null)

    const getConnections = base.getConnections.bind(base)
    overlay.method('getConnections', getConnections, (callback) => {
      getConnections((error, count) => callback(error, count + this.#sockets.size))
      return server
    })

    const close = base.close.bind(base)
    overlay.method('close', close, (callback) => {
      // Already closed: Node reports ERR_SERVER_NOT_RUNNING.
      if (!this.#open && !listens()) return close(callback)
      if (typeof callback === 'function') server.once('close', () => callback())
      this.#closing = true
      if (this.#open) {
        this.#open = false
        this.#hooks.onServerClose()
      }
      return close()
    })

    // `close()` calls it, and so do frameworks. Connections that are about to be handed back stay.
    if ('closeIdleConnections' in server) {
      this.#closeIdleConnections = server.closeIdleConnections.bind(server)
      overlay.method('closeIdleConnections', this.#closeIdleConnections, () => {
        if (!this.#answers.draining || !this.#handsBack(undefined)) return this.#closeIdleConnections()
        for (const socket of this.#betweenRequests(server)) if (!this.#handsBack(socket)) socket.destroy()
      })
    }

    // Node's own method does nothing without a listening socket.
    const dispose = base[Symbol.asyncDispose].bind(base)
    overlay.method(Symbol.asyncDispose, dispose, async () => {
      if (!this.#open) return dispose()
      await new Promise<void>((resolve) => server.close(() => resolve()))
    })
    return overlay
  }

  /** HTTP/2 without TLS: the `session` that `connection` begins is emitted meanwhile. */
  #accepts(socket: Socket, emit: () => boolean): boolean {
    this.#accepting = socket
    try {
      return emit()
    } finally {
      this.#accepting = undefined
    }
  }

  #noteSecured(socket: TLSSocket): void {
    this.#secured.add(socket)
    socket.once('close', () => this.#secured.delete(socket))
  }

  #emitted(emit: Emit, event: string | symbol, args: unknown[]): boolean {
    if (event === 'secureConnection' && this.kind === 'https') this.#noteSecured(args[0] as TLSSocket)
    if (event === 'connection' && !(args[0] instanceof OpenedSocket)) this.#areOurs = false
    if (isRequest(event, args)) {
      if (this.#secured.size > 0) this.#secured.delete(args[0].socket as TLSSocket)
      this.#answers.received(...args)
      if (!this.#answers.draining) return emit(event, ...args)
      // Node emits the requests of one read one at a time. By the next tick all of them are known, so an app that responds
      // synchronously does not close the connection before the requests behind are answered.
      process.nextTick(() => emit(event, ...args))
      return true
    }
    if (isSession(event, args)) this.#streams.begun(...args, this.#accepting)
    if (event === 'connection' && this.kind === 'net')
      return this.#accepts(args[0] as Socket, () => emit(event, ...args))
    if (event === 'upgrade') {
      if (this.kind === 'http') this.#hooks.onUpgrade?.(args[0] as IncomingMessage, args[1] as Socket)
      this.#hooks.onUpgraded?.(args[1] as Duplex)
    }
    if (event === 'close' && this.#closing) {
      if (!this.#isEmpty) {
        this.#closeHeld = true
        return true
      }
      this.#closing = false
    }
    return emit(event, ...args)
  }
}

/** @returns restores the previous value */
function shortenKeepAlive(server: AttachableServer): () => void {
  const before: unknown = Reflect.get(server, 'keepAliveTimeout')
  if (typeof before === 'number' && before > 0 && before <= DRAIN_KEEP_ALIVE_MS) return () => {}
  Reflect.set(server, 'keepAliveTimeout', DRAIN_KEEP_ALIVE_MS)
  return () => Reflect.set(server, 'keepAliveTimeout', before)
}

/** `Promise.withResolvers` needs Node 22. */
interface PromiseWithResolvers {
  readonly promise: Promise<void>
  resolve(): void
}

function withResolvers(): PromiseWithResolvers {
  let resolve!: () => void
  const promise = new Promise<void>((settle) => {
    resolve = settle
  })
  return { promise, resolve }
}
