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

interface Parked {
  readonly connection: ParkedClient
  readonly watch: Pick<Watch, 'modify' | 'remove'>
  /** The tick at which its time is over; Infinity for never. */
  readonly tick: number
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
  readonly #parked = new Set<Parked>()
  /** By the tick at which they end. */
  readonly #ends = new Map<number, Set<Parked>>()
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
    const watch = this.#poller.add(connection.fd.fd, EVENTS, (events) => this.#ready(parked, events))
    const parked: Parked = {
      connection,
      watch,
      tick: Math.ceil(connection.idleUntil / TICK_MS),
      kept: this.#keeper.keep(connection),
      wakeUps: 0,
    }
    this.#parked.add(parked)
    if (!Number.isFinite(parked.tick)) return
    const ends = this.#ends.get(parked.tick)
    if (ends === undefined) this.#ends.set(parked.tick, new Set([parked]))
    else ends.add(parked)
    this.#arm()
  }

  /** Up to `count` of them, those that came first; they are not watched any longer. */
  take(count = Number.POSITIVE_INFINITY): ParkedClient[] {
    const taken: Parked[] = []
    for (const parked of this.#parked) {
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
    this.#settle([...this.#parked])
    this.close()
  }

  #ready(parked: Parked, events: number): void {
    if (!this.#parked.has(parked)) return
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
      this.#parked.delete(parked)
      const ends = this.#ends.get(parked.tick)
      ends?.delete(parked)
      if (ends?.size === 0) this.#ends.delete(parked.tick)
    }
    this.#keeper.over(all.map(({ kept }) => kept))
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#ends.size === 0) return
    this.#timer = this.#os.setTimeout(() => {
      this.#timer = undefined
      this.#expire()
      this.#arm()
    }, TICK_MS)
  }

  #expire(): void {
    const now = this.#os.now()
    const due = [...this.#ends].filter(([tick]) => tick * TICK_MS <= now)
    this.#settle(due.flatMap(([, ends]) => [...ends]))
    this.#host.flush()
  }
}
