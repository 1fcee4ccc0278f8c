import { EventEmitter } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { Adoption } from './adoption.ts'
import { type AttachableServer, type Attachment, attachServer, type IdleConnection } from './attach/index.ts'
import { Backoff } from './backoff.ts'
import type { ConnectionInfo } from './connection-info.ts'
import { parseDuration } from './duration.ts'
import { BackendError, RegistrationRefused } from './errors.ts'
import { EventLoopLag } from './event-loop-lag.ts'
import { isOrphaned, stopWithMaster, outliveReader, watchFromStart } from './orphan.ts'
import { takeInitialId } from './initial-id.ts'
import { type BackendOptions, type ResolvedOptions, resolveOptions } from './options.ts'
import { type HelloFrame, HANDBACK_CAPABILITY, type NackReason, PROTOCOL_VERSION } from './protocol/index.ts'
import { closeRegistration, register, type Registration } from './registration.ts'
import { openTransport, BrokerSession, type BrokerSessionHost, type Departure } from './broker-session.ts'
import { SDK_VERSION } from './version.ts'

watchFromStart()

/** Events of a `Backend`, each a tick after what it tells of, `adopt` excepted. */
export interface BackendEvents {
  /** A client's connection is now this process's. */
  adopt: [socket: Socket, connection: ConnectionInfo]
  /** A descriptor was refused before it was touched; the broker gives the client to somebody else. */
  reject: [reason: NackReason]
  /** Registered, anew as well: with the id (a ULID) and the slot that metrics use, as `backend.id` and `backend.slot`. */
  connected: [registration: Registered]
  /** The broker is gone or restarts; adopted connections do not notice. The SDK dials again by itself. */
  disconnected: [error: Error | undefined]
  /** Draining has begun, asked for by the app or by the operator. */
  drain: [reason: string]
}

/**
 * `idle` -> `registering` <-> `registered` -> `draining` -> `closed`; `close()` goes there from anywhere.
 */
export type BackendState = 'idle' | 'registering' | 'registered' | 'draining' | 'closed'

/** What a registration has given to a backend. */
export interface Registered {
  /** ULID, the same in the broker's logs. */
  id: string
  /** The small name that metrics use, such as `web-1`. */
  slot: string
}

/** What `backend.drain()` takes. */
export interface DrainOptions {
  /** How long connections in flight may take before they are cut: milliseconds or `"30s"`. Default: 30 s. */
  deadline?: number | string
}

/** Reasons of a drain that begins in this process; any other one comes from the broker. */
export const APP_ASKED = 'asked by the app'
export const SERVER_CLOSED = 'the server was closed'
const MASTER_GONE = 'the master is gone'

const DEFAULT_DRAIN_DEADLINE = 30_000

/** How often idle connections are looked through for those to be parked, in ms: a quarter of `parkAfter` within these. */
const MIN_PARKING_INTERVAL_MS = 50
const MAX_PARKING_INTERVAL_MS = 1000

/** Closed connections are reported to the broker within this time, in ms. */
const CLOSED_DELAY_MS = 50

/** setTimeout takes a 32-bit count; what is longer than 24 days is no deadline. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** A session that lived for less, in milliseconds, counts as a failed dial: a broker that drops whom it welcomes. */
const MIN_SESSION_MS = 1000

/** What a refusal asks for is waited for up to this, in milliseconds: the broker may be another one by then. */
const MAX_RETRY_AFTER_MS = 60_000

/**
 * The backend's half of Baton in one process: registers with the broker, takes connections off its lane, and gives them
 * to the attached server as if it had accepted them itself.
 *
 * Owner of: the registration loop, the sessions (one for each broker worker it is registered with) and the counts.
 */
export class Backend extends EventEmitter<BackendEvents> {
  readonly #options: ResolvedOptions
  readonly #sessions = new Set<BrokerSession>()
  readonly #adoption: Adoption
  readonly #lag = new EventLoopLag()
  readonly #stop = new AbortController()
  readonly #waiting = new Set<{ resolve(): void; reject(error: unknown): void }>()
  readonly #stayWithoutMaster: () => void
  #attachment: Attachment | undefined
  #state: BackendState = 'idle'
  #id: string | null
  #slot: string | null = null
  #draining: Promise<void> | undefined
  #logged: string | undefined
  #relayProblemLogged = false
  #endsHere = false
  #handBackScheduled = false
  #parking: NodeJS.Timeout | undefined
  #statsDue: NodeJS.Timeout | undefined

  /** Use `createBackend`. */
  constructor(options: BackendOptions = {}) {
    super()
    this.#options = resolveOptions(options, process.env)
    this.#adoption = new Adoption(this.#options, this)
    outliveReader(process.env)
    this.#id = takeInitialId(this.#options.service, process.env)
    this.#stayWithoutMaster = stopWithMaster(() => this.#stopWithMaster())
  }

  /** Where it stands between `createBackend()` and its end. */
  get state(): BackendState {
    return this.#state
  }

  /**
   * ULID of this backend, the same in the broker's logs. Given by the broker, and null before the first registration; a
   * process that Baton has started was given it from the beginning.
   */
  get id(): string | null {
    return this.#id
  }

  /** The small name that metrics use, such as `web-1`; null before the first registration. */
  get slot(): string | null {
    return this.#slot
  }

  /**
   * The server that client connections are given to: an `http`, `https`, `tls` or `net` server (or what a framework
   * made of one). It need not listen; whether it does is left alone.
   *
   * @param options.address what `server.address()` says while the server does not listen by itself; null without it
   * @throws {AttachError} BATON_ERR_NOT_A_SERVER, BATON_ERR_ALREADY_ATTACHED
   */
  attach(server: AttachableServer, options: { address?: AddressInfo } = {}): this {
    this.#attachment = attachServer(server, {
      onServerClose: () => void this.#drain(SERVER_CLOSED, Number.POSITIVE_INFINITY),
      onIdle: () => this.#handBackSoon(),
      onClosed: () => this.#noteClosed(),
    })
    this.#attachment.address = options.address
    if ('setSecureContext' in server) {
      server.prependListener('secureConnection', (secure: TLSSocket) => this.#adoption.linkSecure(secure))
    }
    return this
  }

  /**
   * Registers; resolves when connections may come. Without a broker it waits, dials again with backoff and logs where it
   * looks. After it was aborted the dialling goes on: a broker that comes later finds this backend all the same.
   *
   * @throws {RegistrationRefused} the broker said no (dialling goes on as well)
   * @throws {BackendError} BATON_ERR_NOTHING_ATTACHED, BATON_ERR_BACKEND_CLOSED
   */
  async ready(options: { signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = options
    signal?.throwIfAborted()
    if (this.#attachment === undefined) throw new BackendError('BATON_ERR_NOTHING_ATTACHED')
    if (this.#state === 'draining' || this.#state === 'closed')
      throw new BackendError('BATON_ERR_BACKEND_CLOSED')
    if (this.#state === 'registered') return
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
      void this.#stayRegistered()
    }
    return registered
  }

  /**
   * Takes no new connection from now on; those in flight finish (HTTP answers carry `Connection: close`), and are cut at
   * the deadline. Then deregisters. Nothing of Baton keeps the process alive afterwards.
   */
  drain(options: DrainOptions = {}): Promise<void> {
    const deadline = parseDuration(options.deadline ?? DEFAULT_DRAIN_DEADLINE)
    if (deadline === undefined) {
      throw new BackendError('BATON_ERR_INVALID_OPTION', `deadline is ${JSON.stringify(options.deadline)}`)
    }
    return this.#drain(APP_ASKED, deadline)
  }

  /** At once: adopted connections are cut, what was not adopted yet goes back to the broker untouched. */
  async close(): Promise<void> {
    this.#shut()
    this.#attachment?.destroyAll()
    await this.#attachment?.whenEmpty()
  }

  /**
   * After `drain()` or `close()`: the server answers for itself again (`listening`, `address()`, `close()`), and can be attached to
   * another backend.
   */
  detach(): void {
    this.#attachment?.detach()
  }

  /** What the broker said of a connection that the attached server was given; undefined for any other socket. */
  connection(socket: Socket): ConnectionInfo | undefined {
    return this.#adoption.connection(socket)
  }

  /** No other process would end this one, and the next master starts others. */
  async #stopWithMaster(): Promise<void> {
    if (this.#draining === undefined && this.#state !== 'closed') {
      const { BATON_MASTER_PID: master } = process.env
      this.#options.logger.warn({ master }, 'the master that started this process is gone; draining')
    }
    // A drain that goes on already may have a longer deadline, or none.
    const cut = setTimeout(() => void this.close(), DEFAULT_DRAIN_DEADLINE)
    await this.#drain(MASTER_GONE, DEFAULT_DRAIN_DEADLINE)
    clearTimeout(cut)
  }

  async #drain(reason: string, deadline: number): Promise<void> {
    if (this.#state === 'closed') return
    // Of what the broker drains, it goes on to serve elsewhere; what ends here by itself may be all there is.
    if (reason === APP_ASKED || reason === SERVER_CLOSED) this.#endsHere = true
    this.#draining ??= this.#drainOnce(reason, deadline)
    this.#closeIdle()
    await this.#draining
  }

  /**
   * A backend that was told to end, and has no broker any more, is part of a stop: nothing comes after it for which idle
   * connections would be worth keeping.
   */
  #closeIdle(): void {
    if (this.#state !== 'draining') return
    if (this.#receiver === undefined) this.#attachment?.shortenKeepAlive()
    if (!this.#endsHere) return
    if (![...this.#sessions].some(({ open }) => open)) this.#attachment?.closeIdle()
  }

  async #drainOnce(reason: string, deadline: number): Promise<void> {
    this.#state = 'draining'
    this.#stop.abort(new BackendError('BATON_ERR_BACKEND_CLOSED'))
    this.#rejectWaiting(this.#stop.signal.reason)
    for (const session of this.#sessions)
      session.announceDrain(Number.isFinite(deadline) ? Math.round(deadline) : null, reason)
    process.nextTick(() => this.emit('drain', reason))
    const attachment = this.#attachment
    attachment?.drain((socket) => this.#handsBack(socket))
    this.#handBack()
    const cut =
      deadline > MAX_TIMER_MS
        ? undefined
        : setTimeout(() => {
            this.#options.logger.warn(
              { live: attachment?.live },
              'drain deadline reached, cutting what is left',
            )
            for (const session of this.#sessions) session.close()
            attachment?.destroyAll()
          }, deadline)
    // What the broker gives back is live here again.
    do {
      await Promise.all([...this.#sessions].map((session) => session.whenSettled()))
      await attachment?.whenEmpty()
    } while ([...this.#sessions].some((session) => !session.isSettled))
    clearTimeout(cut)
    for (const session of this.#sessions) session.announceDrained()
    this.#shut()
  }

  #shut(): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#stayWithoutMaster()
    this.#stop.abort(new BackendError('BATON_ERR_BACKEND_CLOSED'))
    this.#rejectWaiting(this.#stop.signal.reason)
    for (const session of this.#sessions) session.close()
    this.#lag.stop()
    clearInterval(this.#parking)
  }

  /** The newest registration at which connections can be handed back. */
  get #receiver(): BrokerSession | undefined {
    return [...this.#sessions].findLast((session) => session.takesBack)
  }

  /** Whether this connection (undefined: any) leaves when it is idle. */
  #handsBack(socket: Duplex | undefined): boolean {
    if (this.#receiver === undefined) return false
    return socket === undefined || this.#adoption.canLeave(socket as Socket)
  }

  /** Once for all answers that end in this turn of the event loop. */
  #handBackSoon(): void {
    if (this.#handBackScheduled || (this.#state !== 'draining' && this.#receiver?.welcome.parkAfter !== 0))
      return
    this.#handBackScheduled = true
    setImmediate(() => {
      this.#handBackScheduled = false
      this.#handBack()
    })
  }

  /**
   * Hands back idle connections, as many as the window has room for; what is left goes when there is room again. Checking that a
   * connection is idle and letting go of it are one step (M2).
   */
  #handBack(
    isDue: (since: number) => boolean = (since) => this.#isDue(since),
    most: number = Number.POSITIVE_INFINITY,
  ): void {
    const session = this.#receiver
    const attachment = this.#attachment
    if (session === undefined || attachment === undefined) return
    let wanted = most
    let due: IdleConnection[] | undefined
    for (;;) {
      const room = Math.min(session.handBackRoom, wanted)
      if (room === 0) return
      due ??= attachment.idle().filter(({ socket, since }) => isDue(since) && this.#adoption.canLeave(socket))
      const chosen = due.splice(0, room)
      if (chosen.length === 0) return
      const sent = this.#handBackSome(session, chosen)
      if (sent < chosen.length) return
      wanted -= sent
    }
  }

  /** @returns how many have left */
  #handBackSome(session: BrokerSession, connections: readonly IdleConnection[]): number {
    const departures: Departure[] = []
    try {
      for (const connection of connections) {
        const departure = this.#adoption.departure(connection)
        if (departure === undefined) break
        departures.push(departure)
      }
    } catch (error) {
      // Out of descriptors: these go later, or end as they would have.
      this.#options.logger.warn({ error: error as Error }, 'connections could not be handed back')
    }
    const sent = session.handBack(departures, (index) =>
      this.#adoption.letGo((connections[index] as IdleConnection).socket),
    )
    for (const { fd } of departures.slice(sent)) fd.close()
    return sent
  }

  #isDue(since: number): boolean {
    if (this.#state === 'draining') return true
    const after = this.#receiver?.welcome.parkAfter ?? null
    return after !== null && performance.now() - since >= after
  }

  /** With `parkAfter`, connections become due by time alone. */
  #startParking(after: number | null): void {
    clearInterval(this.#parking)
    if (after === null || after === 0) return
    this.#parking = setInterval(
      () => this.#handBack(),
      Math.min(MAX_PARKING_INTERVAL_MS, Math.max(MIN_PARKING_INTERVAL_MS, after / 4)),
    )
    this.#parking.unref()
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

  /** Dials for as long as the backend lives: at first, after a broker's death, and when a broker hands over to another. */
  async #stayRegistered(): Promise<void> {
    const backoff = new Backoff()
    const { signal } = this.#stop
    while (!signal.aborted) {
      if (isOrphaned()) return void this.#stopWithMaster()
      try {
        const registration = await register(this.#options.socket, this.#hello(), signal)
        if (signal.aborted) return closeRegistration(registration)
        const since = performance.now()
        await this.#serve(registration)
        if (performance.now() - since >= MIN_SESSION_MS) backoff.reset()
        else await sleep(backoff.next(), undefined, { signal }).catch(() => undefined)
      } catch (error) {
        if (signal.aborted) return
        this.#registrationFailed(error as Error)
        const notBefore =
          error instanceof RegistrationRefused ? Math.min(error.retryAfter, MAX_RETRY_AFTER_MS) : 0
        await sleep(notBefore + backoff.next(), undefined, { signal }).catch(() => undefined)
      }
    }
  }

  /** Resolves when another registration is due. The session may live on, if it was its broker that asked for it. */
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
      // Out of descriptors. A broker that goes on believing in us would send clients to nobody.
      closeRegistration(registration)
      throw error
    }
    this.#sessions.add(session)
    const { backend: id, slot, parkAfter } = session.welcome
    this.#startParking(parkAfter)
    this.#id = id
    this.#slot = slot
    this.#state = 'registered'
    this.#logged = undefined
    this.#noteRelayProblem(registration.relayProblem)
    this.#options.logger.info({ service: this.#options.service, slot, id }, 'registered with the broker')
    for (const waiter of this.#waiting) waiter.resolve()
    // A tick later, as the others: what a listener throws must not break off what goes on here.
    process.nextTick(() => this.emit('connected', { id, slot }))
    return over
  }

  #hostOf(session: () => BrokerSession, due: () => void): BrokerSessionHost {
    return {
      refusal: (pending) => this.#refusal(pending),
      adopt: (offer, delivery) => this.#adoption.adopt(this.#attachment as Attachment, offer, delivery),
      rejected: (reason) => process.nextTick(() => this.emit('reject', reason)),
      stats: () => ({
        adopted: this.#attachment?.adopted ?? 0,
        closed: this.#attachment?.closed ?? 0,
        lag: this.#lag.take(),
      }),
      drainRequested: (deadline, reason) => void this.#drain(reason, deadline ?? Number.POSITIVE_INFINITY),
      reconnectRequested: due,
      rebalance: (count) => void this.#handBack(() => true, count),
      handBackRoom: () => this.#handBackSoon(),
      adoptAgain: (connections, reason) => {
        for (const each of connections)
          this.#adoption.adoptAgain(this.#attachment as Attachment, each, reason !== undefined)
        this.#closeIdle()
      },
      ended: (end) => {
        // A broker that reloads lets go once another one has this backend.
        const elsewhere = [...this.#sessions].some(({ open }) => open)
        if (this.#state === 'registered' && !elsewhere) this.#state = 'registering'
        if (this.#state !== 'closed' && !elsewhere) {
          this.#options.logger.warn(
            { socket: this.#options.socket, ...(end.error && { error: end.error }) },
            this.#state === 'draining'
              ? 'broker connection lost; adopted connections go on'
              : 'broker connection lost; adopted connections go on, dialling again',
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
      capabilities: [HANDBACK_CAPABILITY],
      service,
      version,
      weight,
      pid: process.pid,
      backend: this.#id,
      sdk: SDK_VERSION,
      secret,
    }
  }

  /** Said once: a process that cannot make a socket will not be able to the next time. */
  #noteRelayProblem(error: Error | undefined): void {
    if (error === undefined || this.#relayProblemLogged) return
    this.#relayProblemLogged = true
    const { logger, service } = this.#options
    logger.warn({ service, error }, 'no socket for relays could be made; registered without')
  }

  /** Says each reason once, not at each dial. */
  #registrationFailed(error: Error & { code?: string }): void {
    const { socket, logger, service } = this.#options
    const reason = `${error.code} ${error.message}`
    if (reason !== this.#logged) {
      this.#logged = reason
      const refused = error instanceof RegistrationRefused
      const message = refused
        ? 'the broker refused the registration'
        : error.code === 'BATON_ERR_TEMPORARY_FOLDER'
          ? 'not registered, dialling again'
          : 'no broker yet, dialling again'
      logger.warn({ socket, service, error }, message)
    }
    if (error instanceof RegistrationRefused && !error.retry) this.#rejectWaiting(error)
  }

  #rejectWaiting(error: unknown): void {
    for (const waiter of this.#waiting) waiter.reject(error)
  }

  #refusal(pending: number): 'BackendDraining' | 'BackendOverloaded' | undefined {
    if (this.#state === 'draining' || this.#state === 'closed') return 'BackendDraining'
    return this.#attachment?.overloaded(pending) ? 'BackendOverloaded' : undefined
  }
}

/** All options have defaults beside the environment; see `BackendOptions`. */
export function createBackend(options: BackendOptions = {}): Backend {
  return new Backend(options)
}
