import {
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLONESHOT,
  EPOLLRDHUP,
  NativeError,
  type Watch,
} from '@baton/native-sendmsg'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { ParkedClient } from '../connection/connection.ts'
import { type Keeper, type Kept, noKeeper } from '../copies/keeper.ts'
import { type Os, systemOs, type Watcher } from '../os.ts'
import { Deadlines, type Ending } from './deadlines.ts'

/** Parked connections are closed this much after their time at most, in ms: one timer serves all that end within it. */
const TICK_MS = 250

const EVENTS = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT

export interface ParkingHost {
  /** Bytes of its next request are there, unread: the connection is the host's. */
  awake(connection: ParkedClient): void
  /** Their clients have left, or their time is over: the connections are the host's, to be closed. At least one. */
  over(connections: readonly ParkedClient[]): void
  /** Those that are awake by now are all of this turn. Not called when a watch has fired: the poller's round has an end of its own. */
  flush(): void
}

/** A socket may wake up without anything to read, by a spurious event; not again and again. */
const MAX_WAKE_UPS = 4

interface Parked extends Ending {
  readonly connection: ParkedClient
  readonly watch: Pick<Watch, 'modify' | 'remove'>
  readonly kept: Kept | undefined
  /** Events without anything to read. */
  wakeUps: number
}

/**
 * Idle connections that backends have handed back. Each is watched for its first byte, and closed when the rest of its keep-alive time is
 * over. The parking owns the watch of each socket; the connection itself leaves by its host, or by `take`.
 */
export class Parking {
  readonly #poller: Watcher
  readonly #host: ParkingHost
  readonly #os: Os
  readonly #keeper: Keeper
  /** By descriptor, in order of arrival. */
  readonly #parked = new Map<number, Parked>()
  readonly #deadlines = new Deadlines<Parked>()
  /** One for all, as many thousands may be parked. */
  readonly #listener = (events: number, fd: number) => this.#ready(fd, events)
  #timer: Timer | undefined

  /** @param keeper has copies of what waits here */
  constructor(poller: Watcher, host: ParkingHost, os: Os = systemOs, keeper: Keeper = noKeeper) {
    this.#keeper = keeper
    this.#poller = poller
    this.#host = host
    this.#os = os
  }

  get size(): number {
    return this.#parked.size
  }

  /** @throws {NativeError} it cannot be watched; the connection is still the caller's */
  add(connection: ParkedClient): void {
    const { fd } = connection.fd
    const watch = this.#poller.add(fd, EVENTS, this.#listener)
    const parked: Parked = {
      connection,
      watch,
      tick: Math.ceil(connection.idleUntil / TICK_MS),
      kept: this.#keeper.keep(connection),
      wakeUps: 0,
      next: undefined,
      previous: undefined,
    }
    this.#parked.set(fd, parked)
    this.#deadlines.add(parked)
    this.#arm()
  }

  /** Up to `count` of them, those that came first; they are not watched any longer. */
  take(count = Number.POSITIVE_INFINITY): ParkedClient[] {
    const taken: Parked[] = []
    for (const parked of this.#parked.values()) {
      if (taken.length >= count) break
      taken.push(parked)
    }
    this.#remove(taken)
    return taken.map(({ connection }) => connection)
  }

  close(): void {
    this.#os.clear(this.#timer)
  }

  /** Lets all of them go: those whose next request is there are awake, the others are over. */
  end(): void {
    this.#settle([...this.#parked.values()])
    this.close()
  }

  #ready(fd: number, events: number): void {
    const parked = this.#parked.get(fd)
    if (parked === undefined) return
    const received = (events & (EPOLLERR | EPOLLHUP)) === 0 ? this.#received(parked) : 0
    // Bytes that are announced and cannot be read: the giver has changed what a look sees (SO_PEEK_OFF). Not closed, it would wake this process without end.
    if (received === undefined && ++parked.wakeUps < MAX_WAKE_UPS) return parked.watch.modify(EVENTS)
    this.#remove([parked])
    if (received !== undefined && received > 0) this.#host.awake(parked.connection)
    else this.#host.over([parked.connection])
  }

  /**
   * Bytes that wait (1 for some); 0 at the end of the client's side; undefined while there are none. A byte that is there counts, whatever
   * else has happened: a half-closed client may wait for its answer.
   */
  #received({ connection }: Parked): number | undefined {
    try {
      return this.#os.peek(connection.fd.fd, 1)?.length
    } catch (error) {
      if (error instanceof NativeError) return 0
      throw error
    }
  }

  /** Their time is over. A byte that is there counts even so; the others are closed together, in few system calls. */
  #settle(all: readonly Parked[]): void {
    const over: ParkedClient[] = []
    this.#remove(all)
    for (const parked of all) {
      if ((this.#received(parked) ?? 0) > 0) this.#host.awake(parked.connection)
      else over.push(parked.connection)
    }
    if (over.length > 0) this.#host.over(over)
  }

  #remove(all: readonly Parked[]): void {
    for (const parked of all) {
      parked.watch.remove()
      this.#parked.delete(parked.connection.fd.fd)
      this.#deadlines.remove(parked)
    }
    this.#keeper.over(all.map(({ kept }) => kept))
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#deadlines.isEmpty) return
    this.#timer = this.#os.setTimeout(() => {
      this.#timer = undefined
      this.#expire()
      this.#arm()
    }, TICK_MS)
  }

  #expire(): void {
    this.#settle(this.#deadlines.due(Math.floor(this.#os.now() / TICK_MS)))
    this.#host.flush()
  }
}
