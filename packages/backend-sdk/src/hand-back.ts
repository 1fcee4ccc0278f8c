import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Adoption } from './adoption.ts'
import { type Attachment, type IdleConnection, withoutUnread } from './attach/index.ts'
import type { BrokerSession, Departure } from './broker-session.ts'
import type { Logger } from './logger.ts'
import { MigrationError } from './migrate/errors.ts'
import type { Mover, Movers, Packed } from './migrate/mover.ts'
import {
  type GivenBackReason,
  MAX_HANDBACK_BYTES,
  MAX_META_BYTES,
  NO_KEEP_ALIVE_LIMIT,
  type WelcomeFrame,
} from './protocol/index.ts'

/** How often idle connections are looked through for those to be parked, in ms: a quarter of `parkAfter` within these. */
const MIN_PARKING_INTERVAL_MS = 50
const MAX_PARKING_INTERVAL_MS = 1000

/** While draining: how often connections that could not leave are tried again, in ms. */
const RETRY_INTERVAL_MS = 100

/**
 * When a connection with state that the broker gave back is tried again, in ms; doubles each time. There was no backend for it at that
 * moment, or no memory. Each try costs a replay here, which the app notices.
 */
const GIVEN_BACK_DELAY_MS = 1000
const MAX_GIVEN_BACK_DELAY_MS = 30_000

/** Beyond this size of all that is packed, the rest waits: so much memory is enough. */
const ENOUGH_BYTES = 512 * 1024

/** The parts of a backend that `HandBack` needs. */
export interface HandBackHost {
  /** Registrations, oldest first. */
  readonly sessions: Iterable<BrokerSession>
  readonly draining: boolean
  readonly attachment: Attachment | undefined
}

/** A connection that is about to leave, and what is done to it once it has been sent. */
interface Leaving {
  readonly departure: Departure
  readonly socket: Socket
  readonly packed?: Packed
}

/**
 * Decides which connections are handed back to the broker, and when: those that are due (`parkAfter`), those that the broker wants
 * (REBALANCE), and while draining all that can move, idle ones first.
 *
 * Checking that a connection can leave and letting go of it are one step, without a turn of the event loop between them (M2).
 */
export class HandBack {
  readonly #adoption: Adoption
  readonly #movers: Movers
  readonly #logger: Logger
  readonly #host: HandBackHost
  #scheduled = false
  /** Some that were to be handed back had no room. */
  #more = false
  /** Connections that the broker wants back although they are not due. */
  #wanted = 0
  /** Found idle, and not looked at since. */
  #idle: IdleConnection[] = []
  /** performance.now() at which all connections were looked through and no idle one was left to be handed back; undefined once another may be. */
  #noneIdleAt: number | undefined
  #parking: NodeJS.Timeout | undefined
  #retries: NodeJS.Timeout | undefined

  constructor(adoption: Adoption, movers: Movers, logger: Logger, host: HandBackHost) {
    this.#adoption = adoption
    this.#movers = movers
    this.#logger = logger
    this.#host = host
  }

  /** The newest registration, if connections can be handed back there: in a reload, an older one is with a worker that leaves. */
  get receiver(): BrokerSession | undefined {
    const newest = [...this.#host.sessions].findLast(({ open }) => open)
    return newest?.takesBack === true ? newest : undefined
  }

  /** Whether this connection (undefined: any) leaves when it is idle. */
  takes(socket: Duplex | undefined): boolean {
    if (this.receiver === undefined) return false
    return socket === undefined || this.#adoption.canLeave(socket as Socket)
  }

  /** Idle connections wait until there is room for them. */
  get behind(): boolean {
    return this.#more
  }

  /** Registered: connections become due by these rules. */
  registered({ parkAfter }: WelcomeFrame): void {
    clearInterval(this.#parking)
    if (parkAfter === null || parkAfter === 0) return
    // With `parkAfter`, connections become due by time alone.
    this.#parking = setInterval(
      () => this.now(),
      Math.min(MAX_PARKING_INTERVAL_MS, Math.max(MIN_PARKING_INTERVAL_MS, parkAfter / 4)),
    )
    this.#parking.unref()
  }

  /** Draining has begun, or goes on with another broker. */
  drain(): void {
    // A connection that no backend took when the broker wanted it elsewhere has another chance: there may be one now.
    for (const socket of this.#movable()) this.#adoption.mayLeaveAgain(socket)
    this.now()
    if (this.#movers.isEmpty || this.#retries !== undefined) return
    this.#retries = setInterval(() => this.now(), RETRY_INTERVAL_MS)
    this.#retries.unref()
  }

  stop(): void {
    clearInterval(this.#parking)
    clearInterval(this.#retries)
    this.#idle = []
  }

  /** The broker wants `count` connections back. */
  rebalance(count: number): void {
    this.#wanted += count
    this.now()
  }

  /**
   * There is room, or there may be.
   *
   * @param mayBeIdle connections have come that may be idle; others are found at the end of their answers
   */
  rest(mayBeIdle = false): void {
    if (mayBeIdle) this.#noneIdleAt = undefined
    if (this.#more || this.#host.draining) this.#schedule()
  }

  /**
   * Once for all answers that end in this turn of the event loop.
   *
   * @param anyway also those that have become due by time alone
   */
  soon(anyway = this.#host.draining || this.receiver?.welcome.parkAfter === 0): void {
    this.#noneIdleAt = undefined
    if (anyway) this.#schedule()
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#now()
    })
  }

  /** Hands back what is to leave, as much as the window has room for; what is left goes when there is room again. */
  now(): void {
    this.#noneIdleAt = undefined
    this.#now()
  }

  #now(): void {
    const session = this.receiver
    const { attachment } = this.#host
    if (session === undefined || attachment === undefined) {
      this.#idle = []
      this.#wanted = 0
      return
    }
    this.#more = session.handBackRoom === 0
    if (this.#more) return
    this.#moveIdle(session, attachment)
    if (!this.#more) this.#moveOthers(session)
    if (!this.#more) this.#wanted = 0
  }

  /** Adopts again what was handed back and is this process's again. */
  adoptAgain(departure: Departure, reason: GivenBackReason | undefined): void {
    const connection = this.#adoption.adoptAgain(
      this.#host.attachment as Attachment,
      departure,
      reason !== undefined,
    )
    if (connection === undefined || reason === undefined) return
    // An idle one without a taker has lost its listener: that does not change.
    if (departure.resumed === undefined && reason === 'NoTaker') return
    const delay = Math.min(GIVEN_BACK_DELAY_MS * 2 ** departure.givenBack, MAX_GIVEN_BACK_DELAY_MS)
    connection.givenBack = departure.givenBack + 1
    setTimeout(() => (connection.stays = false), delay).unref()
  }

  #moveIdle(session: BrokerSession, attachment: Attachment): void {
    let looked = this.#noneIdleAt !== undefined && performance.now() - this.#noneIdleAt < RETRY_INTERVAL_MS
    while (!this.#more) {
      const room = session.handBackRoom
      if (this.#idle.length === 0 && !looked) {
        // Of thousands that wait for room, all would be looked at for each few that leave.
        this.#idle = attachment.idle()
        looked = true
        if (this.#idle.length === 0) this.#noneIdleAt = performance.now()
      }
      if (this.#idle.length === 0) return
      if (room === 0) {
        this.#more = true
        return
      }
      const chosen = this.#chooseIdle(attachment, room)
      const leaving = this.#each(chosen, ({ socket, until }) => this.#idleLeaving(socket, until))
      const sent = this.#send(session, leaving)
      this.#wanted = Math.max(0, this.#wanted - sent)
      if (sent < leaving.length) this.#more = true
    }
  }

  /**
   * Removes up to `room` from `#idle`: those that are due, and as many others as the broker wants. A new client whose request is on its way
   * is none of them: it would be handed over twice for nothing, and many short connections always look uneven for a moment.
   */
  #chooseIdle(attachment: Attachment, room: number): IdleConnection[] {
    const chosen: IdleConnection[] = []
    let others = this.#host.draining ? Number.POSITIVE_INFINITY : this.#wanted
    let at = 0
    for (; at < this.#idle.length && chosen.length < room; at++) {
      const each = this.#idle[at] as IdleConnection
      const due = this.#isDue(each.since)
      if (!due && each.fresh && !this.#host.draining) continue
      if (!due && others <= 0) {
        // Another turn, if one of those that were chosen cannot leave.
        if (chosen.length > 0) break
        continue
      }
      if (!this.#adoption.canLeave(each.socket) || !attachment.stillIdle(each)) continue
      if (!due) others -= 1
      chosen.push(each)
    }
    this.#idle.splice(0, at)
    // A request that is here already is answered here: it would wait, if this was the last backend.
    return withoutUnread(chosen)
  }

  /** Connections with state: while draining all, else as many as the broker wants. */
  #moveOthers(session: BrokerSession): void {
    const wanted = this.#host.draining ? Number.POSITIVE_INFINITY : this.#wanted
    if (wanted === 0 || this.#movers.isEmpty) return
    const room = Math.min(session.handBackRoom, session.moveRoom)
    if (room <= 0) {
      this.#more = true
      return
    }
    const leaving: Leaving[] = []
    let bytes = 0
    for (const mover of this.#movers) {
      for (const socket of mover.connections()) {
        this.#more = leaving.length >= room || bytes > ENOUGH_BYTES
        if (this.#more || leaving.length >= wanted) break
        const each = this.#adoption.canLeave(socket) ? this.#packed(mover, socket) : undefined
        if (each?.packed === undefined) continue
        leaving.push(each)
        bytes += sizeOf(each.packed)
      }
    }
    // `state` of one may have written to another, or closed it. That one is packed again later.
    const still = leaving.filter(({ packed }) => packed?.still())
    for (const each of leaving) if (!still.includes(each)) stay(each)
    const sent = this.#send(session, still)
    this.#wanted = Math.max(0, this.#wanted - sent)
    if (sent < leaving.length) this.#more = true
  }

  #packed(mover: Mover, socket: Socket): Leaving | undefined {
    let packed: Packed | undefined
    try {
      packed = mover.pack(socket)
      if (packed === undefined) return undefined
      this.#checkSize(socket, packed)
      const leaving = this.#leaving(socket, 0, packed)
      if (leaving === undefined) packed.stay()
      return leaving
    } catch (error) {
      packed?.stay()
      this.#noteStays(socket, error as Error)
      return undefined
    }
  }

  #noteStays(socket: Socket, error: Error): void {
    const connection = this.#adoption.connection(socket)
    // Out of descriptors: it is tried again.
    if (connection !== undefined && error instanceof MigrationError) connection.stays = true
    this.#logger.warn(
      { connection: connection?.id, error, ...(error.cause ? { cause: error.cause } : {}) },
      'a connection could not be handed back',
    )
  }

  #idleLeaving(socket: Socket, until: number): Leaving | undefined {
    try {
      this.#checkSize(socket)
    } catch (error) {
      this.#noteStays(socket, error as Error)
      return undefined
    }
    return this.#leaving(socket, keepAliveUntil(until))
  }

  /**
   * Before it is let go: what cannot be written must not have left.
   *
   * @throws {MigrationError} BATON_ERR_STATE_TOO_LARGE
   */
  #checkSize(socket: Socket, packed?: Packed): void {
    const { listener = '', meta } = this.#adoption.connection(socket) ?? {}
    const metaBytes = meta === undefined ? 0 : Buffer.byteLength(JSON.stringify(meta))
    const size = Buffer.byteLength(listener) + metaBytes + (packed === undefined ? 0 : sizeOf(packed))
    if (size <= MAX_HANDBACK_BYTES && metaBytes <= MAX_META_BYTES) return
    const parts = [`metadata ${metaBytes}`]
    if (packed !== undefined)
      parts.push(`state ${packed.block.state.length}`, `unread ${packed.prefixLength}`)
    throw new MigrationError(
      'BATON_ERR_STATE_TOO_LARGE',
      `${size} bytes (${parts.join(', ')}), at most ${MAX_HANDBACK_BYTES}, with ${MAX_META_BYTES} of metadata`,
    )
  }

  /** With a duplicate of its descriptor. */
  #leaving(socket: Socket, keepAlive: number, packed?: Packed): Leaving | undefined {
    const departure = this.#adoption.departure(socket, keepAlive, packed?.block)
    return departure && { departure, socket, ...(packed && { packed }) }
  }

  /** Those that can leave. `#more`: descriptors have run out before the end. */
  #each<T>(values: readonly T[], leaving: (value: T) => Leaving | undefined): Leaving[] {
    const found: Leaving[] = []
    try {
      for (const value of values) {
        const each = leaving(value)
        // Without a descriptor: the app has given it to another process.
        if (each !== undefined) found.push(each)
      }
    } catch (error) {
      // Out of descriptors: the rest goes later, or ends as it would have.
      this.#more = true
      this.#logger.warn({ error: error as Error }, 'connections could not be handed back')
    }
    return found
  }

  /** @returns how many have left */
  #send(session: BrokerSession, leaving: readonly Leaving[]): number {
    if (leaving.length === 0) return 0
    const sent = session.handBack(
      leaving.map(({ departure }) => departure),
      (index) => {
        const { socket, packed } = leaving[index] as Leaving
        return this.#adoption.letGo(socket, packed)
      },
    )
    for (const each of leaving.slice(sent)) stay(each)
    return sent
  }

  #isDue(since: number): boolean {
    const after = this.receiver?.welcome.parkAfter ?? null
    return after !== null && performance.now() - since >= after
  }

  *#movable(): Generator<Socket> {
    for (const mover of this.#movers) yield* mover.connections()
  }
}

/** It does not leave now. */
function stay({ departure, packed }: Leaving): void {
  departure.fd.close()
  packed?.stay()
}

function keepAliveUntil(until: number): number {
  const left = until - performance.now()
  if (!Number.isFinite(left)) return NO_KEEP_ALIVE_LIMIT
  return Math.min(Math.max(1, Math.round(left)), NO_KEEP_ALIVE_LIMIT)
}

/** Variable bytes of its HANDBACK entry, but for names and metadata. */
function sizeOf({ block, prefixLength }: Packed): number {
  const { schema, requestHead, answerHead, state } = block
  return prefixLength + Buffer.byteLength(schema) + requestHead.length + answerHead.length + state.length
}
