import { localAddress, NativeError, type OwnedFd, SocketDiagnostics } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { ListenerConfig } from '../../config/config.ts'
import { UNROUTED_REASONS, type UnroutedReason } from '../../metrics/labels.ts'
import { FIRST_REASONS } from '../../ipc/copies.ts'
import type { Metrics } from '../../metrics/metrics.ts'
import { discardClient } from '../connection/close-clients.ts'
import type { ClientConnection } from '../connection/connection.ts'
import type { Numbers } from '../copies/accounts.ts'
import { type ManyWatcher, type Os, systemOs } from '../os.ts'
import type { LingeringClose } from '../reject/lingering-close.ts'
import { BAD_REQUEST, FULL, NOT_FOUND, TOO_MANY_REQUESTS, UNRECOGNIZED_NAME } from './answers.ts'
import { Doorway } from './doorway.ts'
import { KernelTable } from './limits/connection-table.ts'
import { limitsConnections } from './limits/listener-limits.ts'

/** Milliseconds between two log lines about the same listener and reason. */
const LOG_INTERVAL_MS = 60_000

/** Normal, or reported elsewhere. */
const UNREPORTED: readonly UnroutedReason[] = ['client_gone', 'shutdown']

interface DoorwaysDeps {
  readonly poller: ManyWatcher
  readonly lingeringClose: Pick<LingeringClose, 'reject' | 'answer' | 'answerAtOnce'>
  readonly metrics: Metrics
  readonly logger: Logger
  /** The connection arrives at this service. */
  readonly arrive: (service: string, connection: ClientConnection) => void
  /** Whether the service may tell clients apart by a cookie; and that cookie, if that matters now. */
  readonly mayUseCookies: (service: string) => boolean
  readonly cookieOf: (service: string) => string | undefined
  /** All arrivals of this turn have been made. */
  readonly flush: () => void
  /** A connection has ended here. */
  readonly counted: () => void
  /** Connections of a listener are counted from now on that has no doorway here. */
  readonly unknown?: (listener: string) => void
  readonly os?: Os
}

/** `in` and `out`: from and to services of this worker; the others: from and to other workers. */
interface Passages {
  in: number
  out: number
  movedIn: number
  movedOut: number
}

const noPassages = (): Passages => ({ in: 0, out: 0, movedIn: 0, movedOut: 0 })

/** The doorways of a worker's listeners, and what becomes of connections that go to no service. */
export class Doorways {
  readonly #deps: DoorwaysDeps
  readonly #os: Os
  readonly #doorways = new Map<string, Doorway>()
  readonly #counts = new Map<string, Record<UnroutedReason, number>>()
  readonly #published = new Map<string, number>()
  readonly #logged = new Map<string, number>()
  /** By listener: connections that came here, other than by its own accept, and those that left for a service or another worker. */
  readonly #passages = new Map<string, Passages>()
  /** Listeners with limits. */
  readonly #limited = new Set<string>()
  #diagnostics: SocketDiagnostics | undefined
  /** By service. */
  readonly #arrivals = new Map<string, number>()
  /** Takes connections once another worker has taken over. */
  #successor: ((connections: readonly ClientConnection[]) => boolean) | undefined

  constructor(deps: DoorwaysDeps) {
    this.#deps = deps
    this.#os = deps.os ?? systemOs
  }

  /**
   * Where connections of a listener go that it has accepted; undefined if they need not be looked at.
   *
   * @param socket listens; borrowed
   * @throws their number is limited, and the kernel does not list connections
   */
  open(listener: ListenerConfig, socket: OwnedFd): Doorway | undefined {
    const { poller, arrive, flush, mayUseCookies, cookieOf } = this.#deps
    const { name, service: own } = listener
    if (!Doorway.isNeeded(listener, own !== null && mayUseCookies(own))) return undefined
    const passages = noPassages()
    this.#passages.set(name, passages)
    const doorway = new Doorway(
      listener,
      poller,
      {
        decided: (connection, service) => {
          if (service === null) return this.#unrouted(name, connection, 'no_route')
          passages.out += 1
          this.#arrivals.set(service, (this.#arrivals.get(service) ?? 0) + 1)
          arrive(service, connection)
        },
        unrouted: (connection, reason) => this.#unrouted(name, connection, reason),
        cannotCount: (error) =>
          // Not when this worker ends.
          this.#diagnostics &&
          this.#report(name, 'uncounted', (report) =>
            report.error(
              { listener: name, err: error },
              'cannot count open connections; their limit is not kept',
            ),
          ),
        cookieOf,
        flush,
      },
      this.#os,
      limitsConnections(listener) ? this.#table(socket) : undefined,
    )
    if (listener.limits !== null) this.#limited.add(name)
    this.#doorways.set(name, doorway)
    this.#countsOf(name)
    return doorway
  }

  /** Looks at what has come in this turn: some of it arrives at a service. */
  look(): void {
    for (const doorway of this.#doorways.values()) doorway.look()
  }

  /** Connections that are being looked at. */
  get size(): number {
    return this.#sum((doorway) => doorway.size)
  }

  /** A connection that was parked has its next request: whether it is routed again. It is then the doorway's. */
  reroute(connection: ClientConnection, routed: ReadonlySet<string>): boolean {
    const doorway = routed.has(connection.listener.name)
      ? this.#doorways.get(connection.listener.name)
      : undefined
    if (doorway === undefined) return false
    this.#passage(connection).in += 1
    doorway.addAgain(connection)
    return true
  }

  /** A connection that a predecessor has looked at (`peeked`): whether its listener still has a doorway. It is then the doorway's. */
  inherit(connection: ClientConnection): boolean {
    if (this.#successor?.([connection]) === true) return true
    this.#successor = undefined
    const doorway = this.#doorways.get(connection.listener.name)
    if (doorway === undefined || connection.peeked === undefined) return false
    this.#passage(connection).movedIn += 1
    doorway.inherit(connection, connection.peeked)
    return true
  }

  /**
   * Another worker takes over: connections, and those that a predecessor still sends, go to `successor` with their descriptors, and with what is known of them.
   *
   * @param successor returns false when it is gone; the connections then stay here
   */
  handOver(successor: (connections: readonly ClientConnection[]) => boolean): void {
    this.#successor = successor
    for (const doorway of this.#doorways.values()) {
      const all = doorway.take()
      if (all.length === 0) continue
      if (successor(all)) {
        for (const connection of all) this.#passage(connection).movedOut += 1
        continue
      }
      for (const connection of all) doorway.inherit(connection, connection.peeked ?? 'content')
    }
  }

  /** A connection of a predecessor's doorway whose listener is gone, or reads no PROXY headers any longer. */
  reject(connection: ClientConnection): void {
    const { name } = connection.listener
    if (!this.#passages.has(name)) {
      this.#passages.set(name, noPassages())
      this.#deps.unknown?.(name)
    }
    this.#passage(connection).movedIn += 1
    this.#unrouted(name, connection, 'shutdown')
  }

  /** Resolves when every connection has left. */
  async empty(): Promise<void> {
    await Promise.all([...this.#doorways.values()].map((doorway) => doorway.empty()))
  }

  /** Rejects all connections. */
  close(): void {
    for (const doorway of this.#doorways.values()) doorway.close()
    this.#diagnostics?.close()
    this.#diagnostics = undefined
  }

  /** Connections that have arrived at this service. */
  arrivals(service: string): number {
    return this.#arrivals.get(service) ?? 0
  }

  /** Why connections of this listener may go to no service; undefined: it has no limits, see `FIRST_REASONS`. */
  reasonsOf(listener: string): readonly UnroutedReason[] | undefined {
    return this.#limited.has(listener) ? UNROUTED_REASONS : undefined
  }

  /** Connections of the listener that went to no service; undefined if all go to the same one. */
  unrouted(listener: string): Readonly<Record<UnroutedReason, number>> | undefined {
    const counts = this.#doorways.has(listener) ? this.#counts.get(listener) : undefined
    return counts && { ...counts }
  }

  /** The numbers of one listener by which each of its connections has left, or is still here (`Account`). */
  account(listener: string, numbers: Numbers): void {
    const counts = this.#counts.get(listener)
    for (const reason of this.reasonsOf(listener) ?? FIRST_REASONS) numbers.push(counts?.[reason] ?? 0)
    const { in: came, out, movedIn, movedOut } = this.moves(listener)
    numbers.push(came + movedIn)
    numbers.push(out + movedOut)
  }

  moves(listener: string): Readonly<Passages> {
    return this.#passages.get(listener) ?? noPassages()
  }

  publish(): void {
    const { metrics } = this.#deps
    for (const [listener, counts] of this.#counts) {
      metrics.connectionsPeeked.set({ listener }, this.#doorways.get(listener)?.size ?? 0)
      for (const reason of UNROUTED_REASONS) {
        const key = `${listener}/${reason}`
        metrics.connectionsUnrouted.inc(
          { listener, reason },
          counts[reason] - (this.#published.get(key) ?? 0),
        )
        this.#published.set(key, counts[reason])
      }
    }
  }

  /** Also of a listener that has no doorway here: a predecessor's. */
  #countsOf(listener: string): Record<UnroutedReason, number> {
    const known = this.#counts.get(listener)
    if (known !== undefined) return known
    const zeros = UNROUTED_REASONS.map((reason) => [reason, 0])
    const counts = Object.fromEntries(zeros) as Record<UnroutedReason, number>
    this.#counts.set(listener, counts)
    return counts
  }

  #passage({ listener: { name } }: ClientConnection): Passages {
    return this.#passages.get(name) ?? noPassages()
  }

  #unrouted(listener: string, connection: ClientConnection, reason: UnroutedReason): void {
    this.#countsOf(listener)[reason] += 1
    this.#deps.counted()
    this.#log(listener, reason)
    const { lingeringClose } = this.#deps
    const { protocol } = connection.listener
    if (reason === 'shutdown') lingeringClose.reject(connection)
    else if (reason === 'ambiguous') lingeringClose.answer(connection, BAD_REQUEST)
    else if (isLimit(reason) && protocol === 'http') this.#refuse(listener, connection, reason)
    else if (reason === 'no_route' && protocol === 'http') lingeringClose.answer(connection, NOT_FOUND)
    else if (reason === 'no_route' && protocol === 'tls') lingeringClose.answer(connection, UNRECOGNIZED_NAME)
    else discardClient(connection)
  }

  #log(listener: string, reason: UnroutedReason): void {
    if (UNREPORTED.includes(reason)) return
    this.#report(listener, reason, (logger) => {
      const count = this.#counts.get(listener)?.[reason]
      logger.warn({ listener, reason, count }, 'connections that go to no service')
    })
  }

  /** Once in a while. */
  #report(listener: string, what: string, report: (logger: Logger) => void): void {
    const key = `${listener}/${what}`
    const now = this.#os.now()
    if (now - (this.#logged.get(key) ?? Number.NEGATIVE_INFINITY) < LOG_INTERVAL_MS) return
    this.#logged.set(key, now)
    report(this.#deps.logger)
  }

  /** With an answer. Under an attack, most get it without time to read it: their sockets would use up descriptors. */
  #refuse(listener: string, connection: ClientConnection, reason: UnroutedReason): void {
    const { lingeringClose } = this.#deps
    const bytes = reason === 'limit_connections' ? FULL : TOO_MANY_REQUESTS
    const closed = this.#doorways.get(listener)?.lingers(connection)
    if (closed === undefined) lingeringClose.answerAtOnce(connection, bytes)
    else lingeringClose.answer(connection, bytes, closed)
  }

  /** The connections of a listener, as the kernel lists them. */
  #table(socket: OwnedFd): KernelTable {
    // Where that is impossible, this worker does not start, and the configuration is refused.
    try {
      this.#diagnostics ??= SocketDiagnostics.open()
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      throw new Error(`limits of open connections need sock_diag(7): ${error.message}`, { cause: error })
    }
    return new KernelTable(this.#diagnostics, localAddress(socket.fd))
  }

  #sum(of: (doorway: Doorway) => number): number {
    return [...this.#doorways.values()].reduce((sum, doorway) => sum + of(doorway), 0)
  }
}

function isLimit(reason: UnroutedReason): boolean {
  return reason.startsWith('limit_')
}
