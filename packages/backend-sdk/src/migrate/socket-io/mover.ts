/* oxlint-disable no-underscore-dangle -- names of socket.io */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { WebSocket } from 'ws'
import type { ConnectionInfo } from '../../connection-info.ts'
import { takeState } from '../app-state.ts'
import { inflateWithWindows, type UpgradingServer } from '../carried-window.ts'
import { MigrationError } from '../errors.ts'
import { LiveWebSocket } from '../live-web-socket.ts'
import type { Migration, Mover, Packed } from '../mover.ts'
import { checkMigrationOptions } from '../options.ts'
import {
  type AnyServer,
  type AnySocket,
  checkClient,
  type Client,
  type EngineSocket,
  type NamespaceParts,
  partsOf,
  partsOfSocket,
  type SocketParts,
  type ServerParts,
} from './parts.ts'
import { Pings } from './pings.ts'
import { checkPlain } from './plain-json.ts'
import { Resumption } from './resumption.ts'
import { type CarriedSocket, readSession, withoutSessionId } from './session-state.ts'
import { Work } from './work.ts'

/** The app's part, resolved. */
export interface SocketIoOptions {
  readonly schema: string
  readonly accepts?: readonly string[]
  state?(socket: AnySocket): unknown
  resume?(socket: AnySocket, state: unknown): void | Promise<void>
}

/** The protocol of socket.io 3 and 4. Clients of version 2 speak 3, and stay. */
const ENGINE_PROTOCOL = 4

/** A connection of the transport `websocket`, and the session that it carries. */
interface Carrier {
  readonly live: LiveWebSocket
  readonly resumption: Resumption | undefined
  /** Messages to the client are dropped until this is called. */
  readonly sends: (() => void) | undefined
  session?: { readonly engine: EngineSocket; readonly pings: Pings }
}

/** Moves the sessions of one server of socket.io. */
export class SocketIoMover implements Mover {
  readonly accepts: readonly string[]
  readonly #migration: Migration
  readonly #options: SocketIoOptions
  readonly #parts: ServerParts
  readonly #watched = new WeakSet<UpgradingServer>()
  readonly #byRequest = new WeakMap<IncomingMessage, Carrier>()
  readonly #byWebSocket = new WeakMap<WebSocket, Carrier>()
  readonly #byEngine = new WeakMap<object, Carrier>()
  readonly #work = new WeakMap<object, Work>()
  /** Those that carry a session. */
  readonly #carriers = new Map<Socket, Carrier>()
  /** Connects its namespaces in this very step. */
  #connecting: Resumption | undefined
  /** The parts of a client were not as expected: that is logged once. */
  #isUnsupported = false

  /** @throws {BackendError} BATON_ERR_INVALID_OPTION, BATON_ERR_UNSUPPORTED_LIBRARY */
  constructor(io: AnyServer, migration: Migration, options: SocketIoOptions) {
    const { schema, accepts } = options
    const given = (name: string): unknown => Reflect.get(options, name) ?? (() => undefined)
    this.accepts = checkMigrationOptions('migrateSocketIo()', {
      schema,
      ...(accepts && { accepts }),
      state: given('state'),
      resume: given('resume'),
    })
    this.#migration = migration
    this.#options = options
    this.#parts = partsOf(io)
    this.#layEngine()
    this.#layNamespaces(io)
  }

  connections(): Iterable<Socket> {
    return this.#carriers.keys()
  }

  /** The connection that carries this socket now. */
  connection(socket: AnySocket): ConnectionInfo | undefined {
    const carrier = this.#byEngine.get(socket.conn)
    if (carrier !== undefined) return carrier.live.connection
    // Absent over other transports.
    const request = socket.request as IncomingMessage | undefined
    return request && this.#migration.connection(request.socket)
  }

  pack(socket: Socket): Packed | undefined {
    const carrier = this.#carriers.get(socket)
    if (carrier?.session === undefined) return undefined
    const { live, session } = carrier
    const work = this.#work.get(session.engine)
    const packed = work && this.#pack(live, session.engine, session.pings, work)
    live.waits = packed === undefined
    return packed
  }

  #pack(live: LiveWebSocket, engine: EngineSocket, pings: Pings, work: Work): Packed | undefined {
    const isStill = () => live.isStill && isQuiet(engine) && !work.isBusy
    const { sockets } = work
    if (sockets.length === 0 || !isStill()) return undefined
    const carried: CarriedSocket[] = []
    for (const socket of sockets) {
      const each = this.#carriedOf(socket, live.request)
      if (each === undefined) return undefined
      carried.push(each)
    }
    // `state` may have written.
    if (!isStill()) return undefined
    const state = { engine: engine.id, pings: pings.state, sockets: carried }
    const unchanged = live.unchanged()
    return {
      block: {
        kind: 'replay',
        schema: this.#options.schema,
        requestHead: withoutSessionId(live.upgrade.requestHead),
        answerHead: live.answerHead,
        state: Buffer.from(JSON.stringify(state)),
      },
      prefixLength: live.prefixLength,
      still: () => unchanged() && isStill(),
      leave: () => {
        this.#carriers.delete(live.socket)
        const { prefix } = live.leave()
        // `disconnect` is emitted as soon as this step is over: the app's listeners may write to connections that leave with this one.
        process.nextTick(() => engine.close())
        return prefix
      },
      stay: () => undefined,
    }
  }

  /** @throws {MigrationError} BATON_ERR_STATE_FAILED, BATON_ERR_STATE_INVALID */
  #carriedOf(socket: AnySocket, request: IncomingMessage): CarriedSocket | undefined {
    const options = this.#options
    let json: Buffer | undefined
    if (options.state !== undefined) {
      json = takeState(() => options.state?.(socket))
      if (json === undefined) return undefined
    }
    const { headers, url, query, auth, time, issued, xdomain } = socket.handshake
    const data: unknown = socket.data
    checkPlain(data, 'socket.data')
    checkPlain(auth, 'socket.handshake.auth')
    const rooms = [...socket.rooms]
    for (const room of rooms) {
      if (typeof room !== 'string' && typeof room !== 'number')
        throw new MigrationError('BATON_ERR_STATE_INVALID', 'a room is neither a string nor a number')
    }
    const { pid } = partsOfSocket(socket)
    return {
      namespace: socket.nsp.name,
      id: socket.id,
      ...(pid !== undefined && { pid }),
      rooms,
      data,
      handshake: {
        auth,
        time,
        issued,
        // One that began with polling: its first request was another one.
        ...(headers !== request.headers && { headers, url, query, xdomain }),
      },
      ...(json && { state: json.toString() }),
    }
  }

  #layEngine(): void {
    const { engine } = this.#parts
    const upgrade = engine.handleUpgrade.bind(engine)
    engine.handleUpgrade = (request, socket, head) => {
      if (engine.ws !== undefined) this.#watch(engine.ws)
      upgrade(request, socket, head)
    }
    const generateId = engine.generateId.bind(engine)
    engine.generateId = (request) =>
      this.#byRequest.get(request)?.resumption?.carried.engine ?? generateId(request)
    // In front of socket.io's own.
    engine.prependListener('connection', (session: EngineSocket) => this.#begun(session))
  }

  #watch(wss: UpgradingServer): void {
    if (this.#watched.has(wss)) return
    this.#watched.add(wss)
    inflateWithWindows(wss, (socket) => this.#migration.connection(socket)?.upgrade?.replay)
    const below = wss.handleUpgrade.bind(wss)
    wss.handleUpgrade = (request, socket, head, callback) =>
      below(request, socket, head, (ws, sameRequest) => {
        this.#opened(ws, request)
        callback(ws, sameRequest)
      })
  }

  /** engine.io has not seen this WebSocket yet. */
  #opened(ws: WebSocket, request: IncomingMessage): void {
    const connection = this.#migration.connection(request.socket)
    const upgrade = connection?.upgrade
    if (connection === undefined || upgrade === undefined) return
    const live = new LiveWebSocket(ws, request, connection, upgrade, () => this.#progressed(live))
    const resumption = this.#resumptionOf(live)
    // The client has had the packet `open` that engine.io sends now.
    const carrier: Carrier = { live, resumption, sends: resumption && dropSends(ws) }
    this.#byRequest.set(request, carrier)
    this.#byWebSocket.set(ws, carrier)
    ws.on('close', () => this.#carriers.delete(live.socket))
  }

  #resumptionOf({ ws, connection, upgrade }: LiveWebSocket): Resumption | undefined {
    const { replay } = upgrade
    const { resumed } = connection
    if (replay === undefined || resumed === undefined || replay.hasFailed) return undefined
    const options = this.#options
    try {
      if (!this.accepts.includes(resumed.schema))
        throw new Error(`its schema is ${JSON.stringify(resumed.schema)}, and this server does not accept it`)
      return new Resumption(
        readSession(resumed.state),
        replay,
        (socket, { state }) => options.resume?.(socket, state === undefined ? undefined : JSON.parse(state)),
        () => {
          replay.resumed(() => ws.isPaused)
          this.#byWebSocket.get(ws)?.session?.pings.carryOn()
        },
      )
    } catch (cause) {
      replay.fail(new MigrationError('BATON_ERR_RESUME_FAILED', undefined, { cause }))
      return undefined
    }
  }

  /** engine.io has a session, and socket.io does not know it yet. */
  #begun(engine: EngineSocket): void {
    if (engine.protocol !== ENGINE_PROTOCOL) return
    const carrier = this.#carries(engine, undefined)
    if (carrier === undefined) {
      const pings = this.#pingsOf(engine)
      engine.once('upgrade', () => this.#carries(engine, pings))
      return
    }
    const { resumption } = carrier
    if (resumption === undefined) return
    carrier.sends?.()
    const { carried } = resumption
    const { pingInterval } = this.#parts.engine.opts
    if (engine.id !== carried.engine)
      return resumption.fail(new Error('io.engine.generateId was replaced after migrateSocketIo()'))
    if (pingInterval > carried.pings.interval)
      return resumption.fail(
        new MigrationError(
          'BATON_ERR_ANSWER_DIFFERS',
          `pingInterval is ${pingInterval}, and its client expects a ping each ${carried.pings.interval} ms`,
        ),
      )
    // Once socket.io has it.
    process.nextTick(() => {
      this.#connecting = resumption
      resumption.connect(engine, this.#parts)
      this.#connecting = undefined
    })
  }

  /** Ties a session to its connection. */
  #carries(engine: EngineSocket, pings: Pings | undefined): Carrier | undefined {
    const ws = engine.transport.socket
    const carrier = ws && this.#byWebSocket.get(ws)
    if (carrier === undefined) return undefined
    carrier.session = { engine, pings: pings ?? this.#pingsOf(engine, carrier.resumption) }
    this.#byEngine.set(engine, carrier)
    this.#carriers.set(carrier.live.socket, carrier)
    return carrier
  }

  #pingsOf(engine: EngineSocket, resumption?: Resumption): Pings {
    return new Pings(engine, this.#parts.engine.opts, resumption?.carried.pings)
  }

  #layNamespaces(io: AnyServer): void {
    for (const namespace of this.#parts.namespaces.values()) this.#layNamespace(namespace)
    io.on('new_namespace', (namespace) => this.#layNamespace(namespace as unknown as NamespaceParts))
    const below = Reflect.get(io, '_checkNamespace') as (...args: unknown[]) => void
    const layer = (name: string, auth: unknown, then: (found: unknown) => void) => {
      const resumption = this.#connecting
      below.call(io, name, auth, (found: unknown) => {
        if (resumption === undefined || Boolean(found)) then(found)
        else resumption.refused(name, 'this process has no such namespace')
      })
    }
    Object.defineProperty(io, '_checkNamespace', { value: layer, configurable: true, writable: true })
  }

  #layNamespace(namespace: NamespaceParts): void {
    const below = namespace._createSocket.bind(namespace)
    namespace._createSocket = async (client, auth) => {
      const work = this.#workOf(client)
      work?.connecting(namespace.name)
      const resumption = this.#byEngine.get(client.conn)?.resumption
      const carried = resumption?.of(namespace.name)
      const socket = await below(client, auth)
      try {
        const parts = partsOfSocket(socket)
        work?.created(socket, parts)
        if (carried !== undefined) restore(parts, carried)
      } catch (error) {
        this.#unsupported(error as Error)
        return socket
      }
      try {
        if (carried !== undefined) await socket.join(carried.rooms as string[])
      } catch (error) {
        resumption?.fail(error)
      }
      return socket
    }
  }

  #workOf(client: Client): Work | undefined {
    const known = this.#work.get(client.conn)
    if (known !== undefined) return known
    try {
      checkClient(client)
    } catch (error) {
      this.#unsupported(error as Error)
      return undefined
    }
    const work = new Work(client, () => {
      const carrier = this.#byEngine.get(client.conn)
      if (carrier !== undefined) this.#progressed(carrier.live)
    })
    this.#work.set(client.conn, work)
    const resumption = this.#byEngine.get(client.conn)?.resumption
    if (resumption !== undefined)
      work.filter = (packet) =>
        resumption.drops(packet, (name) => work.sockets.find(({ nsp }) => nsp.name === name))
    return work
  }

  #unsupported(error: Error): void {
    if (this.#isUnsupported) return
    this.#isUnsupported = true
    this.#migration.logger.error({ error }, 'connections of socket.io do not move')
  }

  /** Something was dealt with that may have kept it here. */
  #progressed(live: LiveWebSocket): void {
    if (!live.waits) return
    live.waits = false
    this.#migration.mayLeave()
  }
}

/** engine.io has nothing to send, and does not change the transport. */
function isQuiet(engine: EngineSocket): boolean {
  return (
    engine.readyState === 'open' &&
    !engine.upgrading &&
    engine.transport.writable &&
    engine.writeBuffer.length === 0
  )
}

/** A socket that its namespace, its middlewares and the app do not know yet. */
function restore(parts: SocketParts, { id, pid, data, handshake }: CarriedSocket): void {
  parts.id = id
  if (pid !== undefined) parts.pid = pid
  if (data !== undefined) parts.data = data
  parts.recovered = true
  parts.handshake = { ...parts.handshake, ...handshake }
}

/** @returns ends it */
function dropSends(ws: WebSocket): () => void {
  const below = ws.send.bind(ws)
  ws.send = (_data: unknown, options?: unknown, callback?: unknown): void => {
    const over: unknown = typeof options === 'function' ? options : callback
    if (typeof over === 'function') over()
  }
  return () => {
    ws.send = below
  }
}
