import { EventEmitter } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { Adoption } from './adoption.ts'
import { checkAdoption } from './adoption-check.ts'
import {
  type AttachableServer,
  AttachError,
  type Attachment,
  attachGrpc,
  type AttachHooks,
  attachServer,
  type GrpcServer,
  isGrpcServer,
  UpgradedSockets,
} from './attach/index.ts'
import { MAX_TIMER_MS } from './clock.ts'
import type { ConnectionInfo } from './connection-info.ts'
import { channels } from './diagnostics.ts'
import { Dialling } from './dialling.ts'
import { parseDuration } from './duration.ts'
import { BackendError, RegistrationRefused } from './errors.ts'
import { EventLoopLag } from './event-loop-lag.ts'
import { stopWithMaster, outliveReader, watchFromStart } from './orphan.ts'
import { HandBack } from './hand-back.ts'
import { takeInitialId } from './initial-id.ts'
import { countingLogger, type MigrationErrorCounts, noMigrationErrors } from './migrate/errors.ts'
import { type Migration, Movers, offerMigration } from './migrate/mover.ts'
import { type RawMigration, RawMover } from './migrate/raw.ts'
import { type BackendOptions, type ResolvedOptions, resolveOptions } from './options.ts'
import {
  HANDBACK_CAPABILITY,
  type HelloFrame,
  type NackReason,
  PROTOCOL_VERSION,
  TICKETS_CAPABILITY,
} from './protocol/index.ts'
import { offerRequestsOver } from './requests-over.ts'
import { closeRegistration, type Registration } from './registration.ts'
import { openTransport, BrokerSession, type BrokerSessionHost } from './broker-session.ts'
import { SDK_VERSION } from './version.ts'
import { throwLater } from './throw-later.ts'

watchFromStart()

/** Events of a `Backend`. Each is emitted one tick after its cause, except `adopt`, which is emitted during the adoption. */
export interface BackendEvents {
  /** This process now owns a client's connection, and the server has received it. */
  adopt: [socket: Socket, connection: ConnectionInfo]
  /** A connection was refused before it was touched; the broker offers the client elsewhere. */
  reject: [reason: NackReason]
  /** Registered, for the first time or again. `id` and `slot` are those of `backend.id` and `backend.slot`. */
  connected: [registration: Registered]
  /** The broker is gone or restarting. Adopted connections are not affected, and the SDK dials again. */
  disconnected: [error: Error | undefined]
  /** Draining has begun, requested by the app or by the operator. */
  drain: [reason: string]
}

/**
 * `idle` -> `registering` <-> `registered` -> `draining` -> `closed`; `close()` leads to `closed` from every state.
 */
export type BackendState = 'idle' | 'registering' | 'registered' | 'draining' | 'closed'

/** Assigned by the broker when a backend registers. */
export interface Registered {
  /** ULID, as in the broker's logs. */
  id: string
  /** Short name used in metrics, such as `web-1`. */
  slot: string
}

/** Options of `backend.drain()`. */
export interface DrainOptions {
  /**
   * How long connections may take to finish before they are cut: milliseconds, or a duration such as `"30s"`. Default: 30 s, or what the
   * drain that has already begun has left. Of several deadlines, the earliest counts.
   */
  deadline?: number | string
}

/** Options of `backend.attach()`. */
export interface AttachOptions<State = unknown> {
  /** The result of `server.address()` while the server does not listen itself. Default: null. */
  address?: AddressInfo
  /** `net` servers only: how their connections move to another process. Default: they do not. */
  migrate?: RawMigration<State>
  /**
   * TLS servers only: whether sessions resume in all processes of the service, with keys from the broker. Default: true, unless the server was
   * created with `ticketKeys`, or asks for client certificates.
   */
  tlsSessions?: boolean
  /** gRPC servers only: `ServerCredentials` for their connections. Default: without TLS. */
  credentials?: object
}

/** Reasons for a drain that this process started; any other reason comes from the broker. */
export const APP_ASKED = 'requested by the app'
export const SERVER_CLOSED = 'the server was closed'
const MASTER_GONE = 'the master is gone'

const DEFAULT_DRAIN_DEADLINE = 30_000

/** Closed connections are reported to the broker within this time, in ms. */
const CLOSED_DELAY_MS = 50

/**
 * The backend's half of Baton in one process: registers with the broker, receives connections from its lane, and gives them
 * to the attached server as if the server had accepted them itself.
 *
 * Owns the dialling, the sessions (one for each broker worker it is registered with) and the counters.
 */
export class Backend extends EventEmitter<BackendEvents> {
  readonly #options: ResolvedOptions
  readonly #migrationErrors = noMigrationErrors()
  readonly #sessions = new Set<BrokerSession>()
  readonly #adoption: Adoption
  readonly #movers: Movers
  readonly #handBack: HandBack
  readonly #lag = new EventLoopLag()
  readonly #upgraded = new UpgradedSockets()
  readonly #stop = new AbortController()
  readonly #dialling: Dialling
  readonly #waiting = new Set<{ resolve(): void; reject(error: unknown): void }>()
  readonly #stayWithoutMaster: () => void
  #attachment: Attachment | undefined
  /** Between `attach()` and `detach()`. */
  #isAttached = false
  #state: BackendState = 'idle'
  #id: string | null
  #slot: string | null = null
  #draining: Promise<void> | undefined
  #drainReason = ''
  #relayProblemLogged = false
  #endsHere = false
  #statsDue: NodeJS.Timeout | undefined
  #answers: NodeJS.Timeout | undefined
  /** While draining: cuts what is left, at this time of performance.now(). */
  #cut: NodeJS.Timeout | undefined
  #cutAt = Number.POSITIVE_INFINITY
  /** Milliseconds: the shortest deadline of the drain, and at most the default. */
  #answerLimit = Number.POSITIVE_INFINITY

  /** Use `createBackend`. */
  constructor(options: BackendOptions = {}) {
    super()
    const resolved = resolveOptions(options, process.env)
    this.#options = { ...resolved, logger: countingLogger(resolved.logger, this.#migrationErrors) }
    this.#adoption = new Adoption(this.#options, this)
    this.#movers = new Movers(() => this.#announceResumes())
    this.#handBack = this.#makeHandBack()
    this.#dialling = this.#makeDialling()
    offerMigration(this, this.#migration())
    offerRequestsOver(this, () => this.#whenRequestsOver())
    outliveReader(process.env)
    this.#id = takeInitialId(this.#options.service, process.env)
    this.#stayWithoutMaster = stopWithMaster(() => this.#stopWithMaster())
  }

  /** The current state. */
  get state(): BackendState {
    return this.#state
  }

  /**
   * ULID of this backend, as in the broker's logs. Assigned by the broker, and null before the first registration; a process
   * that Baton started has it from the beginning.
   */
  get id(): string | null {
    return this.#id
  }

  /** Short name used in metrics, such as `web-1`; null before the first registration. */
  get slot(): string | null {
    return this.#slot
  }

  /** How often connections with state could not be handed back or resumed here, by code. Each is also in the log. */
  get migrationErrors(): Readonly<MigrationErrorCounts> {
    return { ...this.#migrationErrors }
  }

  /**
   * Sets the server that receives client connections: an `http`, `https`, `http2`, `tls` or `net` server, one that a
   * framework created, or the server of `@grpc/grpc-js`. It does not need to listen; if it does, it continues to.
   *
   * @param options.address what `server.address()` returns while the server does not listen itself; default null
   * @param options.migrate `net` servers only: how their connections move to another process
   * @param options.credentials gRPC servers only: for their connections
   * @param options.tlsSessions TLS servers only: false if the app manages its session tickets itself
   * @throws {AttachError} BATON_ERR_NOT_A_SERVER; BATON_ERR_ALREADY_ATTACHED, also if this backend has another server
   * @throws {BackendError} BATON_ERR_INVALID_OPTION; BATON_ERR_UNSUPPORTED_RUNTIME for an `https` server in Bun
   */
  attach<State = unknown>(server: AttachableServer | GrpcServer, options: AttachOptions<State> = {}): this {
    const { migrate, tlsSessions = true, credentials } = options
    // Connections of the first server would have been forgotten by a drain.
    if (this.#isAttached)
      throw new AttachError('BATON_ERR_ALREADY_ATTACHED', 'this backend has a server; create another backend')
    const mover = migrate && new RawMover(this.#migration(), migrate)
    const hooks: AttachHooks = {
      onServerClose: () => void this.#drain(SERVER_CLOSED, Number.POSITIVE_INFINITY),
      onIdle: () => this.#handBack.soon(),
      onClosed: () => {
        this.#upgraded.changed()
        this.#noteClosed()
      },
      onUpgraded: (socket) => {
        if (this.#adoption.connection(socket as Socket) !== undefined) this.#upgraded.add(socket)
      },
      onUpgrade: (request, socket) => {
        if (!this.#movers.isEmpty) this.#adoption.upgraded(request, socket)
      },
      awaitsAnswer: () => [...this.#sessions].some((session) => session.awaitsAnswer),
    }
    const grpc = isGrpcServer(server)
    if (credentials !== undefined && !grpc)
      throw new BackendError('BATON_ERR_INVALID_OPTION', 'attach(): credentials are for gRPC servers')
    if (migrate !== undefined && grpc)
      throw new BackendError('BATON_ERR_INVALID_OPTION', 'attach(): migrate is for net servers')
    this.#attachment = grpc
      ? attachGrpc(server, credentials, hooks)
      : attachServer(server, hooks, { tlsSessions, service: this.#options.service })
    if (this.#attachment.kind === 'https' && process.versions['bun'] !== undefined) {
      this.#attachment.detach()
      this.#attachment = undefined
      throw new BackendError(
        'BATON_ERR_UNSUPPORTED_RUNTIME',
        'Bun reads connections that an https server is given as plain HTTP: attach a tls server that gives its sockets to an http server',
      )
    }
    this.#attachment.address = options.address
    if (mover !== undefined) {
      if (this.#attachment.kind !== 'net') {
        this.#attachment.detach()
        this.#attachment = undefined
        throw new BackendError('BATON_ERR_INVALID_OPTION', 'attach(): migrate is for net servers')
      }
      this.#adoption.raw = mover
      this.#movers.add(mover)
    }
    this.#isAttached = true
    if ('setSecureContext' in server) {
      server.prependListener('secureConnection', (secure: TLSSocket) => this.#adoption.linkSecure(secure))
    }
    return this
  }

  /**
   * Registers; resolves when connections may arrive. Without a broker it dials with backoff until there is one, and logs the
   * socket's path. Aborting `signal` rejects this promise but does not stop the dialling: a broker that starts later still
   * gets this backend.
   *
   * @throws {RegistrationRefused} the broker refused, with `retry` false (dialling continues)
   * @throws {BackendError} BATON_ERR_NOTHING_ATTACHED, BATON_ERR_BACKEND_CLOSED, BATON_ERR_UNSUPPORTED_RUNTIME
   */
  async ready(options: { signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = options
    signal?.throwIfAborted()
    if (this.#attachment === undefined) throw new BackendError('BATON_ERR_NOTHING_ATTACHED')
    if (this.#state === 'draining' || this.#state === 'closed')
      throw new BackendError('BATON_ERR_BACKEND_CLOSED')
    if (this.#state === 'registered') return
    if (this.#state === 'idle') checkAdoption()
    const registered = new Promise<void>((resolve, reject) => {
      const waiter = { resolve: settle(resolve), reject: settle(reject) }
      const abort = () => waiter.reject(signal?.reason)
      function settle<A extends unknown[]>(then: (...args: A) => void) {
        return (...args: A) => {
          signal?.removeEventListener('abort', abort)
          remove()
          then(...args)
        }
      }
      const remove = () => this.#waiting.delete(waiter)
      signal?.addEventListener('abort', abort)
      this.#waiting.add(waiter)
    })
    if (this.#state === 'idle') {
      this.#state = 'registering'
      this.#dialling.start()
    }
    return registered
  }

  /**
   * Stops taking connections. Idle HTTP/1.1 connections go back to the broker, for another backend. Those that cannot move finish (HTTP
   * responses carry `Connection: close`), or are cut at the deadline. Then it deregisters, and Baton no longer keeps the process alive. If
   * the broker dies meanwhile, it registers with the next one, which offers it nothing.
   *
   * @throws {BackendError} BATON_ERR_INVALID_OPTION, synchronously
   */
  drain(options: DrainOptions = {}): Promise<void> {
    const deadline = parseDuration(options.deadline ?? DEFAULT_DRAIN_DEADLINE)
    if (deadline === undefined) {
      throw new BackendError(
        'BATON_ERR_INVALID_OPTION',
        `deadline is ${JSON.stringify(options.deadline)}, wanted milliseconds or a duration such as "30s"`,
      )
    }
    return this.#drain(APP_ASKED, deadline, options.deadline !== undefined)
  }

  /** Closes immediately: adopted connections are cut, and those not adopted yet go back to the broker, untouched. */
  async close(): Promise<void> {
    this.#shut()
    this.#attachment?.destroyAll()
    await this.#attachment?.whenEmpty()
  }

  /**
   * After `drain()` or `close()`: gives the server its own `listening`, `address()`, `close()` and so on back, so that it can be
   * attached to another backend.
   */
  detach(): void {
    this.#attachment?.detach()
    this.#isAttached = false
  }

  /** The broker's information about a connection that the attached server received; undefined for any other socket. */
  connection(socket: Socket): ConnectionInfo | undefined {
    return this.#adoption.connection(socket)
  }

  /** No other process would stop this one, and the next master starts its own. */
  async #stopWithMaster(): Promise<void> {
    if (this.#draining === undefined && this.#state !== 'closed') {
      const { BATON_MASTER_PID: master } = process.env
      this.#options.logger.warn({ master }, 'the master that started this process is gone; draining')
    }
    await this.#drain(MASTER_GONE, DEFAULT_DRAIN_DEADLINE)
  }

  /** @param limits the deadline also counts if a drain has begun with another, or with none */
  async #drain(reason: string, deadline: number, limits = true): Promise<void> {
    if (this.#state === 'closed') return
    if (limits || this.#draining === undefined) this.#cutWithin(deadline)
    // When the broker drains this backend, other backends continue to serve. A drain from here may be part of a full stop.
    if (reason === APP_ASKED || reason === SERVER_CLOSED) this.#endsHere = true
    this.#draining ??= this.#drainOnce(reason, deadline)
    this.#limitAnswers(Math.min(deadline, DEFAULT_DRAIN_DEADLINE))
    this.#closeIdle()
    await this.#draining
  }

  /**
   * If the app ends this backend and the broker is gone too, the whole service is being stopped: no successor would answer
   * on idle connections, so there is no reason to keep them. A broker that was lost a moment ago may be back: they can still move.
   */
  #closeIdle(): void {
    if (this.#state !== 'draining' || this.#dialling.expectsBroker) return
    if (this.#handBack.receiver === undefined) this.#attachment?.shortenKeepAlive()
    if (!this.#endsHere) return
    if (![...this.#sessions].some(({ open }) => open)) this.#attachment?.closeIdle()
  }

  async #drainOnce(reason: string, deadline: number): Promise<void> {
    this.#state = 'draining'
    this.#drainReason = reason
    this.#rejectWaiting(new BackendError('BATON_ERR_BACKEND_CLOSED'))
    for (const session of this.#sessions)
      session.announceDrain(Number.isFinite(deadline) ? Math.round(deadline) : null, reason)
    process.nextTick(() => this.emit('drain', reason))
    const attachment = this.#attachment
    attachment?.drain(this.#handBack)
    this.#handBack.drain()
    // Connections that the broker gives back are live here again.
    do {
      await Promise.all([...this.#sessions].map((session) => session.whenSettled()))
      await attachment?.whenEmpty()
    } while ([...this.#sessions].some((session) => !session.isSettled))
    for (const session of this.#sessions) session.announceDrained()
    this.#shut()
  }

  /** False if the drain is over before. */
  async #whenRequestsOver(): Promise<boolean> {
    const isOver = () =>
      this.#state === 'draining' &&
      this.#movers.isEmpty &&
      this.#upgraded.size > 0 &&
      (this.#attachment?.live ?? 0) <= this.#upgraded.size &&
      [...this.#sessions].every((session) => session.isSettled)
    while (this.#state !== 'closed') {
      await Promise.all([...this.#sessions].map((session) => session.whenSettled()))
      if (isOver()) return true
      await this.#upgraded.whenChanged()
    }
    return false
  }

  /** Of several deadlines, the earliest counts. */
  #cutWithin(deadline: number): void {
    const cutAt = performance.now() + deadline
    // Longer than a timer: as if there were none.
    if (deadline > MAX_TIMER_MS || cutAt >= this.#cutAt) return
    this.#cutAt = cutAt
    clearTimeout(this.#cut)
    this.#cut = setTimeout(() => {
      const attachment = this.#attachment
      this.#options.logger.warn(
        { live: attachment?.live },
        'drain deadline reached, cutting the remaining connections',
      )
      for (const session of this.#sessions) session.close()
      attachment?.destroyAll()
    }, deadline)
  }

  #shut(): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    clearTimeout(this.#cut)
    this.#stayWithoutMaster()
    this.#stop.abort(new BackendError('BATON_ERR_BACKEND_CLOSED'))
    this.#rejectWaiting(this.#stop.signal.reason)
    for (const session of this.#sessions) session.close()
    this.#lag.stop()
    this.#handBack.stop()
    clearInterval(this.#answers)
    this.#upgraded.changed()
  }

  /**
   * A drain without a deadline, such as that of `server.close()`, waits for connections, and not for a broker that hangs: the sessions are
   * closed in which the oldest hand-back has no answer after `limit` ms, and with them these connections. The broker may have taken them.
   */
  #limitAnswers(limit: number): void {
    if (this.#state !== 'draining' || limit >= this.#answerLimit) return
    this.#answerLimit = limit
    clearInterval(this.#answers)
    const before = new Map<BrokerSession, number>()
    this.#answers = setInterval(() => {
      for (const session of this.#sessions) {
        const oldest = session.oldestUnanswered
        if (oldest === undefined) continue
        if (before.get(session) !== oldest) before.set(session, oldest)
        else {
          this.#options.logger.warn(
            { slot: this.#slot },
            'the broker does not answer; connections that were handed back to it are closed',
          )
          session.close()
          this.#closeIdle()
        }
      }
    }, limit)
    this.#answers.unref()
  }

  #makeHandBack(): HandBack {
    const { logger } = this.#options
    const draining = () => this.#state === 'draining'
    const attachment = () => this.#attachment
    return new HandBack(this.#adoption, this.#movers, logger, {
      sessions: this.#sessions,
      get draining() {
        return draining()
      },
      get attachment() {
        return attachment()
      },
    })
  }

  #makeDialling(): Dialling {
    const host = {
      hello: () => this.#hello(),
      serve: (registration: Registration) => this.#serve(registration),
      failed: (error: Error) => {
        if (error instanceof RegistrationRefused && !error.retry) this.#rejectWaiting(error)
        this.#closeIdle()
      },
      orphaned: () => {
        this.#closeIdle()
        void this.#stopWithMaster()
      },
    }
    return new Dialling(this.#options, host, this.#stop.signal)
  }

  #migration(): Migration {
    return {
      movers: this.#movers,
      logger: this.#options.logger,
      connection: (socket) => this.#adoption.connection(socket),
      mayLeave: () => this.#handBack.soon(),
      nothingReadBehind: (answers) => this.#attachment?.nothingReadBehind(answers) ?? new Set(),
    }
  }

  #announceResumes(): void {
    for (const session of this.#sessions) session.announceResumes()
  }

  /** The broker counts what is live here: it hears of closed connections soon, once for many. */
  #noteClosed(): void {
    if (this.#statsDue !== undefined) return
    this.#statsDue = setTimeout(() => {
      this.#statsDue = undefined
      for (const session of this.#sessions) session.sendStats()
    }, CLOSED_DELAY_MS)
    this.#statsDue.unref()
  }

  /** Resolves when another registration is due. If the broker asked for it, this session continues meanwhile. */
  #serve(registration: Registration): Promise<void> {
    let due!: () => void
    const over = new Promise<void>((resolve) => {
      due = resolve
    })
    let session: BrokerSession
    try {
      session = new BrokerSession(
        openTransport(registration),
        this.#hostOf(() => session, due),
      )
    } catch (error) {
      // Out of descriptors. Close the registration so that the broker stops sending clients here.
      closeRegistration(registration)
      throw error
    }
    this.#sessions.add(session)
    const { backend: id, slot, capabilities } = session.welcome
    if (!capabilities.includes(TICKETS_CAPABILITY)) this.#attachment?.tlsSessions?.forget()
    this.#dialling.registered()
    this.#handBack.registered(session.welcome)
    this.#id = id
    this.#slot = slot
    if (this.#state === 'draining') this.#goOnDraining(session)
    else this.#state = 'registered'
    this.#noteRelayProblem(registration.relayProblem)
    this.#options.logger.info({ service: this.#options.service, slot, id }, 'registered with the broker')
    const { service } = this.#options
    if (channels.registered.hasSubscribers) channels.registered.publish({ id, slot, service })
    for (const waiter of this.#waiting) waiter.resolve()
    // A tick later, like the other events: an exception in a listener must not interrupt this method.
    process.nextTick(() => this.emit('connected', { id, slot }))
    return over
  }

  /** The broker was lost in the middle of the drain, and this is the next one. */
  #goOnDraining(session: BrokerSession): void {
    const left = this.#cutAt - performance.now()
    session.announceDrain(Number.isFinite(left) ? Math.max(0, Math.round(left)) : null, this.#drainReason)
    this.#handBack.drain()
  }

  #hostOf(session: () => BrokerSession, due: () => void): BrokerSessionHost {
    return {
      refusal: (pending) => this.#refusal(pending),
      adopt: (offer, delivery) => {
        this.#lag.clientCame()
        return this.#adoption.adopt(this.#attachment as Attachment, offer, delivery)
      },
      rejected: (reason) => {
        const { service } = this.#options
        if (channels.refused.hasSubscribers) channels.refused.publish({ reason, service })
        process.nextTick(() => this.emit('reject', reason))
      },
      stats: () => ({
        adopted: this.#attachment?.adopted ?? 0,
        closed: this.#attachment?.closed ?? 0,
        lag: this.#lag.take((this.#attachment?.live ?? 0) > 0),
      }),
      drainRequested: (deadline, reason) => void this.#drain(reason, deadline ?? Number.POSITIVE_INFINITY),
      reconnectRequested: due,
      adopted: () => this.#attachment?.adopted ?? 0,
      resumes: () => this.#movers.schemas,
      ticketKeys: (keys) => this.#attachment?.tlsSessions?.use(keys),
      rebalance: (count) => this.#handBack.rebalance(count),
      handBackRoom: () => this.#handBack.rest(),
      settled: () => {
        this.#upgraded.changed()
        this.#attachment?.answered()
      },
      adoptAgain: (connections, reason) => {
        for (const each of connections) {
          try {
            this.#handBack.adoptAgain(each, reason)
          } catch (error) {
            // An app listener threw; the others are still adopted, and the session goes on.
            throwLater(error)
          }
        }
        this.#closeIdle()
        this.#handBack.rest(true)
      },
      ended: (end) => {
        // In a reload the old worker closes its session once the new worker has registered this backend.
        const elsewhere = [...this.#sessions].some(({ open }) => open)
        if (this.#state === 'registered' && !elsewhere) this.#state = 'registering'
        if (this.#state !== 'closed' && !elsewhere) {
          this.#dialling.lost()
          const { service } = this.#options
          if (channels.disconnected.hasSubscribers)
            channels.disconnected.publish({ service, error: end.error })
          this.#options.logger.warn(
            { socket: this.#options.socket, ...(end.error && { error: end.error }) },
            'broker connection lost; adopted connections continue, dialling again',
          )
        }
        this.#closeIdle()
        due()
        process.nextTick(() => this.emit('disconnected', end.error))
      },
      closed: () => void this.#sessions.delete(session()),
    }
  }

  #hello(): Omit<HelloFrame, 'reconnect'> {
    const { service, version, weight, secret } = this.#options
    return {
      type: 'hello',
      protocol: PROTOCOL_VERSION,
      capabilities:
        this.#attachment?.tlsSessions === undefined
          ? [HANDBACK_CAPABILITY]
          : [HANDBACK_CAPABILITY, TICKETS_CAPABILITY],
      service,
      version,
      weight,
      pid: process.pid,
      backend: this.#id,
      sdk: SDK_VERSION,
      secret,
      draining: this.#state === 'draining' ? true : null,
    }
  }

  /** Logged once: a process that cannot create the socket now will not be able to later either. */
  #noteRelayProblem(error: Error | undefined): void {
    if (error === undefined || this.#relayProblemLogged) return
    this.#relayProblemLogged = true
    const { logger, service } = this.#options
    logger.warn({ service, error }, 'cannot create a socket for relays; registered without one')
  }

  #rejectWaiting(error: unknown): void {
    for (const waiter of this.#waiting) waiter.reject(error)
  }

  #refusal(pending: number): 'BackendDraining' | 'BackendOverloaded' | undefined {
    if (this.#state === 'draining' || this.#state === 'closed') return 'BackendDraining'
    return this.#attachment?.overloaded(pending) ? 'BackendOverloaded' : undefined
  }
}

/**
 * Creates a backend, which registers when `ready()` is called. Options that are not given come from the environment or have
 * defaults, see `BackendOptions`.
 *
 * @throws {BackendError} BATON_ERR_NO_SERVICE, BATON_ERR_INVALID_OPTION
 */
export function createBackend(options: BackendOptions = {}): Backend {
  return new Backend(options)
}
