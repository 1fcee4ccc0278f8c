import {
  EPOLLERR,
  EPOLLET,
  EPOLLHUP,
  EPOLLIN,
  EPOLLRDHUP,
  NativeError,
  peerCredentials,
  receivePlain,
  type Watch,
} from '@baton/native-sendmsg'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { ListenerConfig } from '../../config/config.ts'
import { networksOf } from '../../config/trusted-source.ts'
import type { UnroutedReason } from '../../metrics/labels.ts'
import type { ClientConnection } from '../connection/connection.ts'
import { digestOf, type Routed } from '../connection/routed.ts'
import type { Os, Watcher } from '../os.ts'
import {
  decideContent,
  decideHeader,
  type Decision,
  MAX_PEEK,
  type Progress,
  type Stage,
} from './decision.ts'
import type { ConnectionTable } from './limits/connection-table.ts'
import { ListenerLimits } from './limits/listener-limits.ts'
import { cookieOf, type RequestHead } from './parse/request-head.ts'
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
  /** Those that were decided by now are all of this turn. Not called when a watch has fired: the poller's round has an end of its own. */
  flush(): void
}

interface Waiting {
  readonly connection: ClientConnection
  readonly until: number
  stage: Stage
  /** Within the limits. */
  admitted: boolean
  progress: Progress
  watch: Pick<Watch, 'remove'> | undefined
}

const NOTHING: Progress = { seen: 0 }

/**
 * Connections of one listener between accept and the choice of a service. Their first bytes are looked at and left where they are, for the
 * backend; only a PROXY header of a trusted peer is consumed. Owns each connection until it is decided.
 */
export class Doorway {
  readonly #config: ListenerConfig
  readonly #table: RouteTable | undefined
  readonly #limits: ListenerLimits | undefined
  readonly #isTrusted: (connection: ClientConnection) => boolean
  readonly #poller: Watcher
  readonly #host: DoorwayHost
  readonly #os: Os
  readonly #waiting = new Set<Waiting>()
  /** Those of them that wait until open connections have been counted. */
  readonly #uncounted = new Set<Waiting>()
  readonly #whenEmpty: (() => void)[] = []
  #timer: Timer | undefined
  #counting = false
  #countTimer: Timer | undefined
  #closed = false

  /** @param table needed if the number of open connections is limited (`limitsConnections`) */
  constructor(config: ListenerConfig, poller: Watcher, host: DoorwayHost, os: Os, table?: ConnectionTable) {
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
      watch: undefined,
    }
    this.#waiting.add(waiting)
    this.#begin(waiting)
  }

  #begin(waiting: Waiting): void {
    // Often everything is there already.
    if (this.#look(waiting, false)) return
    try {
      waiting.watch = this.#poller.add(waiting.connection.fd.fd, EVENTS, (events) =>
        this.#ready(waiting, events),
      )
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      return this.#late(waiting)
    }
    this.#arm()
  }

  #ready(waiting: Waiting, events: number): void {
    if (!this.#waiting.has(waiting)) return
    // After a reset its bytes can still be read; no backend could answer.
    if ((events & EPOLLERR) !== 0) this.#unrouted(waiting, 'client_gone')
    else this.#look(waiting, (events & (EPOLLRDHUP | EPOLLHUP)) !== 0)
  }

  /**
   * @param ended no more bytes will come
   * @returns whether it has left, or waits for something else than bytes
   */
  #look(waiting: Waiting, ended: boolean): boolean {
    while (this.#waiting.has(waiting)) {
      if (waiting.stage === 'content' && !this.#isAdmitted(waiting)) return true
      if (waiting.stage === 'content' && !this.#wantsContent) {
        this.#decided(waiting, this.#config.service)
        break
      }
      const bytes = this.#peek(waiting)
      if (bytes === undefined && !ended) return false
      if (bytes === undefined || bytes.length === 0) {
        this.#unrouted(waiting, 'client_gone')
        break
      }
      const decision = this.#decide(waiting, bytes)
      if (decision.action === 'wait') {
        waiting.progress = decision.progress
        if (!ended) return false
        // Half a request, or half a hello: no backend could serve it.
        this.#unrouted(waiting, 'client_gone')
        break
      } else this.#apply(waiting, decision)
    }
    return true
  }

  /** Whether anything depends on more than the PROXY header. */
  get #wantsContent(): boolean {
    if (this.#table !== undefined) return true
    const { protocol, service } = this.#config
    return protocol === 'http' && service !== null && this.#host.cookieOf(service) !== undefined
  }

  /** Undefined while there is nothing; empty at the end, or after an error. */
  #peek({ connection }: Waiting): Buffer | undefined {
    try {
      return this.#os.peek(connection.fd.fd, MAX_PEEK)
    } catch (error) {
      if (error instanceof NativeError) return Buffer.alloc(0)
      throw error
    }
  }

  #decide({ stage, progress }: Waiting, bytes: Buffer): Decision {
    if (stage === 'proxy') return decideHeader(bytes)
    const { protocol } = this.#config
    if (protocol === 'tcp') return { action: 'fallback' }
    return decideContent(bytes, protocol, this.#table, progress)
  }

  #apply(waiting: Waiting, decision: Exclude<Decision, { action: 'wait' }>): void {
    switch (decision.action) {
      case 'consume': {
        const { length, addresses } = decision.header
        if (!consume(waiting.connection, length)) return this.#unrouted(waiting, 'client_gone')
        // A client of the load balancer's own Unix socket has no address to show.
        if (addresses !== undefined && addresses.source.family !== 'unix')
          waiting.connection.proxied = addresses
        waiting.stage = 'content'
        waiting.progress = NOTHING
        return
      }
      case 'route':
        return this.#decided(waiting, decision.route.service, decision)
      case 'fallback':
        return this.#decided(waiting, this.#config.service, decision)
      case 'refuse':
        return this.#unrouted(waiting, 'ambiguous')
      case 'no-header':
        return this.#unrouted(waiting, 'proxy_header')
    }
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

  #decided(
    waiting: Waiting,
    service: string | null,
    { route, head }: { readonly route?: Route; readonly head?: RequestHead } = {},
  ): void {
    this.#leave(waiting)
    // From here on it moves like any other of its service.
    waiting.connection.peeked = undefined
    const { version } = route ?? {}
    const cookie = service === null || head === undefined ? undefined : this.#host.cookieOf(service)
    const value = cookie === undefined || head === undefined ? undefined : cookieOf(head, cookie)
    const routed: Routed = {
      ...(version !== undefined && { version }),
      ...(value !== undefined && { sticky: digestOf(value) }),
    }
    if (version !== undefined || value !== undefined) waiting.connection.routed = routed
    this.#host.decided(waiting.connection, service)
    this.#noteEmpty()
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
      for (const waiting of this.#waiting)
        if (waiting.until <= now && waiting.watch !== undefined) this.#late(waiting)
      this.#host.flush()
      this.#arm()
    }, tick)
  }
}

/** Tells trusted peers, by address, or by user where they have none. */
function trustOf({ proxyProtocol }: ListenerConfig): (connection: ClientConnection) => boolean {
  if (proxyProtocol === null) return () => false
  const { from } = proxyProtocol
  const isOfNetwork = networksOf(from)
  const uids = new Set(from.flatMap((source) => (source.kind === 'uid' ? [source.uid] : [])))
  return ({ fd, peer }) => {
    if (peer.family !== 'unix') return isOfNetwork(peer.address)
    try {
      return uids.has(peerCredentials(fd.fd).uid)
    } catch (error) {
      if (error instanceof NativeError) return false
      throw error
    }
  }
}

/** Reads exactly the bytes that were looked at. False: the client's socket has failed. */
function consume({ fd }: ClientConnection, length: number): boolean {
  try {
    // A Unix socket may deliver less at a time.
    for (let left = length; left > 0;) {
      const read = receivePlain(fd.fd, left).length
      if (read === 0) return false
      left -= read
    }
    return true
  } catch (error) {
    if (error instanceof NativeError) return false
    throw error
  }
}
