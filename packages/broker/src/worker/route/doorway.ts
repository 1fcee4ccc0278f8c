import {
  EPOLLERR,
  EPOLLET,
  EPOLLHUP,
  EPOLLIN,
  EPOLLRDHUP,
  MAX_PEEKS,
  NativeError,
  type Peeked,
  type Watch,
} from '@baton/native-sendmsg'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { ListenerConfig } from '../../config/config.ts'
import type { UnroutedReason } from '../../metrics/labels.ts'
import type { ClientConnection } from '../connection/connection.ts'
import { digestOf, type Routed } from '../connection/routed.ts'
import type { ManyWatcher, Os } from '../os.ts'
import { isLast, MAX_PEEK, type Progress, type Stage, type Verdict, verdictOn } from './decision.ts'
import type { ConnectionTable } from './limits/connection-table.ts'
import { ListenerLimits } from './limits/listener-limits.ts'
import { cookieOf, type RequestHead } from './parse/request-head.ts'
import { consume, trustOf } from './proxy-header-source.ts'
import { type Route, RouteTable } from './table.ts'

/**
 * An event for each arrival, and none in between: a client that sends slowly costs nothing while it does not. SO_RCVLOWAT would do the same on
 * TCP, but travels with the descriptor, and Unix sockets ignore it. Unsigned, as epoll_ctl(2) has it.
 */
const EVENTS = (EPOLLIN | EPOLLRDHUP | EPOLLET) >>> 0

/** How often connections whose time is over are looked for, in milliseconds: at least, and at most. */
const TICK_MS = { least: 10, most: 250 }

/** Maximum connections that wait for a count. Beyond it, they are refused by what is known. */
const MAX_UNCOUNTED = 1024

/** Maximum refused connections that stay open until their clients have read the answer. */
const MAX_LINGERING = 256

export interface DoorwayHost {
  /** The connection is the host's, for this service; null: no route matches it. */
  decided(connection: ClientConnection, service: string | null): void
  /** The cookie by which this service tells clients apart, if that matters now. */
  cookieOf(service: string): string | undefined
  /** It goes to no service. The connection is the host's, to be closed. */
  unrouted(connection: ClientConnection, reason: UnroutedReason): void
  /** Open connections could not be counted. */
  cannotCount(error: NativeError): void
  /** Those that were decided by now are all of this turn. Not called by `look`. */
  flush(): void
}

interface Waiting {
  readonly connection: ClientConnection
  readonly until: number
  stage: Stage
  /** Within the limits. */
  admitted: boolean
  progress: Progress
  /** No more bytes will come. */
  ended: boolean
  /** Among those of the next look. */
  isDue: boolean
  watch: Watch | undefined
}

const NOTHING: Progress = { seen: 0 }

/** Bytes that are left of a connection that has failed. */
const NO_BYTES = Buffer.alloc(0)

/**
 * Connections of one listener between accept and the choice of a service. Their first bytes are looked at and left where they are, for the
 * backend; only a PROXY header of a trusted peer is consumed. Owns each connection until it is decided.
 */
export class Doorway {
  readonly #config: ListenerConfig
  readonly #table: RouteTable | undefined
  readonly #limits: ListenerLimits | undefined
  readonly #isTrusted: (connection: ClientConnection) => boolean
  readonly #poller: ManyWatcher
  readonly #host: DoorwayHost
  readonly #os: Os
  readonly #waiting = new Set<Waiting>()
  /** Those that are looked at in the end of this turn, together: a system call for each costs more than all the rest. */
  #due: Waiting[] = []
  #planned = false
  /** Those of them that wait until open connections have been counted. */
  readonly #uncounted = new Set<Waiting>()
  readonly #whenEmpty: (() => void)[] = []
  #timer: Timer | undefined
  #counting = false
  #countTimer: Timer | undefined
  #closed = false

  /** @param table needed if the number of open connections is limited (`limitsConnections`) */
  constructor(
    config: ListenerConfig,
    poller: ManyWatcher,
    host: DoorwayHost,
    os: Os,
    table?: ConnectionTable,
  ) {
    this.#config = config
    this.#table = config.routes.length > 0 ? new RouteTable(config.routes) : undefined
    const { limits } = config
    if (limits !== null)
      this.#limits = new ListenerLimits(
        limits,
        table,
        () => os.now(),
        (error) => host.cannotCount(error),
      )
    this.#isTrusted = trustOf(config)
    this.#poller = poller
    this.#host = host
    this.#os = os
  }

  /** Whether connections of this listener must be looked at. @param mayUseCookies its service may tell clients apart by a cookie */
  static isNeeded(
    { routes, proxyProtocol, limits, protocol }: ListenerConfig,
    mayUseCookies: boolean,
  ): boolean {
    const readsCookies = protocol === 'http' && mayUseCookies
    return routes.length > 0 || proxyProtocol !== null || limits !== null || readsCookies
  }

  get size(): number {
    return this.#waiting.size
  }

  /** A connection that was accepted here. */
  add(connection: ClientConnection): void {
    this.#enter(connection, this.#isTrusted(connection) ? 'proxy' : 'content', connection.acceptedAt, false)
  }

  /** A connection that is past its PROXY header: one that was parked, whose next request is there. */
  addAgain(connection: ClientConnection): void {
    this.#enter(connection, 'content', this.#os.now(), true)
  }

  /** A connection of a predecessor's doorway. */
  inherit(connection: ClientConnection, stage: Stage): void {
    const here = this.#config.proxyProtocol === null ? 'content' : stage
    const isAdmitted = stage === 'content' && connection.unjudged !== true
    connection.unjudged = undefined
    this.#enter(connection, here, connection.acceptedAt, isAdmitted)
  }

  /** All of them, with their stage in `peeked`; they are not watched any longer. */
  take(): ClientConnection[] {
    const all = [...this.#waiting]
    for (const waiting of all) {
      if (this.#uncounted.has(waiting)) waiting.connection.unjudged = true
      this.#leave(waiting)
      waiting.connection.peeked = waiting.stage
    }
    this.#due = []
    this.#noteEmpty()
    return all.map(({ connection }) => connection)
  }

  /** Resolves when no connection is here. */
  async empty(): Promise<void> {
    if (this.#waiting.size > 0) await new Promise<void>((resolve) => this.#whenEmpty.push(resolve))
  }

  /** Rejects all of them. */
  close(): void {
    this.#closed = true
    this.#os.clear(this.#countTimer)
    for (const waiting of this.#waiting) this.#unrouted(waiting, 'shutdown')
  }

  /**
   * A connection that was refused by the limits stays open for a moment. There are bounds to that.
   *
   * @returns a callback for when it is closed; undefined: it is to be closed at once
   */
  lingers(connection: ClientConnection): (() => void) | undefined {
    const limits = this.#limits
    if (limits === undefined || limits.refused >= MAX_LINGERING) return undefined
    limits.refuses(connection)
    return () => limits.closed(connection)
  }

  #enter(connection: ClientConnection, stage: Stage, since: number, admitted: boolean): void {
    const waiting: Waiting = {
      connection,
      until: since + this.#config.peekTimeout,
      stage,
      admitted,
      progress: NOTHING,
      ended: false,
      isDue: false,
      watch: undefined,
    }
    this.#waiting.add(waiting)
    this.#begin(waiting)
  }

  #begin(waiting: Waiting): void {
    if (waiting.stage === 'content' && !this.#isAdmitted(waiting)) return
    if (waiting.stage === 'content' && !this.#wantsContent) this.#decided(waiting, this.#config.service)
    else this.#lookSoon(waiting)
  }

  #ready(waiting: Waiting, events: number): void {
    if (!this.#waiting.has(waiting)) return
    // After a reset its bytes can still be read; no backend could answer.
    if ((events & EPOLLERR) !== 0) return this.#unrouted(waiting, 'client_gone')
    if ((events & (EPOLLRDHUP | EPOLLHUP)) !== 0) waiting.ended = true
    this.#lookSoon(waiting)
  }

  #lookSoon(waiting: Waiting): void {
    this.#addDue(waiting)
    this.#arm()
    if (this.#planned) return
    this.#planned = true
    // Not every turn ends with a look: connections also come outside of the poller's rounds.
    queueMicrotask(() => {
      this.#planned = false
      if (this.#due.length === 0) return
      this.look()
      this.#host.flush()
    })
  }

  #addDue(waiting: Waiting): void {
    if (waiting.isDue) return
    waiting.isDue = true
    this.#due.push(waiting)
  }

  /** Looks at what has come in this turn: new connections, and those of which more has arrived. */
  look(): void {
    while (this.#due.length > 0) {
      const due = this.#due.splice(0, MAX_PEEKS)
      for (const waiting of due) waiting.isDue = false
      const left = due.filter((waiting) => this.#waiting.has(waiting))
      // Without one, the poller may be closed already.
      if (left.length > 0) this.#lookAt(left)
    }
  }

  #lookAt(due: readonly Waiting[]): void {
    const fds = due.map(({ connection }) => connection.fd.fd)
    const peeked = this.#os.peekMany(fds, MAX_PEEK)
    // All decisions before anything else is done: the next look overwrites the bytes.
    const decisions = due.map((waiting, index) => this.#decide(waiting, peeked[index]))
    this.#unwatch(due.filter((_, index) => isLast(decisions[index] as Verdict)))
    for (const [index, waiting] of due.entries())
      if (this.#waiting.has(waiting)) this.#apply(waiting, decisions[index] as Verdict)
    this.#watch(due.filter((_, index) => decisions[index]?.action === 'wait'))
  }

  /** Whether anything depends on more than the PROXY header. */
  get #wantsContent(): boolean {
    if (this.#table !== undefined) return true
    const { protocol, service } = this.#config
    return protocol === 'http' && service !== null && this.#host.cookieOf(service) !== undefined
  }

  #decide(waiting: Waiting, peeked: Peeked): Verdict {
    const bytes = peeked instanceof NativeError ? NO_BYTES : peeked
    return verdictOn(bytes, waiting, this.#config.protocol, this.#table)
  }

  #apply(waiting: Waiting, decision: Verdict): void {
    switch (decision.action) {
      case 'wait':
        waiting.progress = decision.progress
        return
      case 'gone':
        return this.#unrouted(waiting, 'client_gone')
      case 'consume': {
        const { length, addresses } = decision.header
        if (!consume(waiting.connection, length)) return this.#unrouted(waiting, 'client_gone')
        // A client of the load balancer's own Unix socket has no address to show.
        if (addresses !== undefined && addresses.source.family !== 'unix')
          waiting.connection.proxied = addresses
        waiting.stage = 'content'
        waiting.progress = NOTHING
        return this.#begin(waiting)
      }
      case 'route':
        return this.#decided(waiting, decision.route.service, decision.route, decision.head)
      case 'fallback':
        return this.#decided(waiting, this.#config.service, undefined, decision.head)
      case 'refuse':
        return this.#unrouted(waiting, 'ambiguous')
      case 'no-header':
        return this.#unrouted(waiting, 'proxy_header')
    }
  }

  /** An event follows at once if something has arrived since the look. */
  #watch(all: readonly Waiting[]): void {
    const fresh = all.filter((waiting) => waiting.watch === undefined && this.#waiting.has(waiting))
    if (fresh.length === 0) return
    const watches = this.#poller.addMany(
      fresh.map((waiting) => ({
        fd: waiting.connection.fd.fd,
        events: EVENTS,
        listener: (events) => this.#ready(waiting, events),
      })),
    )
    for (const [index, waiting] of fresh.entries()) {
      const watch = watches[index]
      if (watch instanceof NativeError) this.#late(waiting)
      else waiting.watch = watch
    }
  }

  /** Together: they leave in the same turn. */
  #unwatch(all: readonly Waiting[]): void {
    this.#poller.removeMany(all.flatMap(({ watch }) => watch ?? []))
    for (const waiting of all) waiting.watch = undefined
  }

  /** False: it was refused, or open connections have to be counted first. Of one behind a load balancer, the address is known now. */
  #isAdmitted(waiting: Waiting): boolean {
    const limits = this.#limits
    if (waiting.admitted || limits === undefined) return true
    let verdict = limits.judge(waiting.connection)
    if (verdict === 'later' && this.#uncounted.size >= MAX_UNCOUNTED)
      verdict = limits.judgeLate(waiting.connection)
    if (verdict === 'later') {
      waiting.watch?.remove()
      waiting.watch = undefined
      this.#uncounted.add(waiting)
    }
    if (verdict === 'later' || limits.isDue) this.#countSoon(limits)
    if (verdict === undefined) return (waiting.admitted = true)
    if (verdict !== 'later') this.#unrouted(waiting, verdict)
    return false
  }

  #countSoon(limits: ListenerLimits): void {
    if (this.#counting || this.#closed) return
    this.#counting = true
    this.#countTimer = this.#os.setTimeout(() => void this.#count(limits), limits.delay)
  }

  async #count(limits: ListenerLimits): Promise<void> {
    const uncounted = [...this.#uncounted]
    await limits.count(uncounted.map(({ connection }) => connection))
    this.#counting = false
    for (const waiting of uncounted) {
      // It may have left meanwhile, for another worker.
      if (!this.#uncounted.delete(waiting)) continue
      const reason = limits.judgeLate(waiting.connection)
      if (reason !== undefined) this.#unrouted(waiting, reason)
      else {
        waiting.admitted = true
        this.#begin(waiting)
      }
    }
    this.#host.flush()
    // Those that have come meanwhile.
    if (this.#uncounted.size > 0) this.#countSoon(limits)
  }

  /** Its time is over. */
  #late(waiting: Waiting): void {
    if (waiting.stage === 'proxy') this.#unrouted(waiting, 'proxy_header')
    else this.#decided(waiting, this.#config.service)
  }

  #decided(waiting: Waiting, service: string | null, route?: Route, head?: RequestHead): void {
    const { connection } = waiting
    this.#leave(waiting)
    // From here on it moves like any other of its service.
    connection.peeked = undefined
    const routed = this.#routed(service, route, head)
    if (routed !== undefined) connection.routed = routed
    this.#host.decided(connection, service)
    this.#noteEmpty()
  }

  #routed(service: string | null, route?: Route, head?: RequestHead): Routed | undefined {
    const version = route?.version
    const cookie = service === null || head === undefined ? undefined : this.#host.cookieOf(service)
    const value = cookie === undefined || head === undefined ? undefined : cookieOf(head, cookie)
    if (version === undefined && value === undefined) return undefined
    return {
      ...(version !== undefined && { version }),
      ...(value !== undefined && { sticky: digestOf(value) }),
    }
  }

  #unrouted(waiting: Waiting, reason: UnroutedReason): void {
    this.#leave(waiting)
    this.#host.unrouted(waiting.connection, reason)
    this.#noteEmpty()
  }

  #leave(waiting: Waiting): void {
    waiting.watch?.remove()
    this.#waiting.delete(waiting)
    this.#uncounted.delete(waiting)
    if (this.#waiting.size > 0) return
    this.#os.clear(this.#timer)
    this.#timer = undefined
  }

  #noteEmpty(): void {
    if (this.#waiting.size === 0) for (const resolve of this.#whenEmpty.splice(0)) resolve()
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#waiting.size === 0) return
    const tick = Math.min(TICK_MS.most, Math.max(TICK_MS.least, this.#config.peekTimeout / 20))
    this.#timer = this.#os.setTimeout(() => {
      this.#timer = undefined
      const now = this.#os.now()
      const over = [...this.#waiting].filter(
        (waiting) => waiting.until <= now && !this.#uncounted.has(waiting),
      )
      // Bytes that have come in time count, also if their event has not.
      for (const waiting of over) this.#addDue(waiting)
      this.look()
      for (const waiting of over)
        if (this.#waiting.has(waiting) && !this.#uncounted.has(waiting)) this.#late(waiting)
      this.#host.flush()
      this.#arm()
    }, tick)
  }
}
