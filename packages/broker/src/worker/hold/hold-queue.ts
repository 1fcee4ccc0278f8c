import { EPOLLERR, EPOLLHUP, EPOLLONESHOT, EPOLLRDHUP, type Watch } from '@baton/native-sendmsg'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { ClientConnection } from '../connection/connection.ts'
import { type Keeper, type Kept, noKeeper } from '../copies/keeper.ts'
import { type Os, systemOs, type Watcher } from '../os.ts'

export interface HoldHost {
  /** The client disconnected while held. */
  clientGone(connection: ClientConnection): void
  /** Its hold timeout has expired. */
  timedOut(connection: ClientConnection): void
}

interface Held {
  readonly connection: ClientConnection
  readonly watch: Pick<Watch, 'modify' | 'remove'>
  readonly kept: Kept | undefined
}

/**
 * Connections waiting for a backend, unread and in order of arrival, even if they come back from an offer. The queue owns only the
 * watch on each socket; a connection leaves it by `take` or through the host.
 */
export class HoldQueue {
  readonly #poller: Watcher
  readonly #os: Os
  readonly #timeout: number
  readonly #host: HoldHost
  readonly #keeper: Keeper
  /** Sorted by arrival. */
  readonly #queue: Held[] = []
  readonly #byFd = new Map<number, Held>()
  /** One for all, as many thousands may wait. */
  readonly #listener = (events: number, fd: number) => this.#ready(fd, events)
  #timer: Timer | undefined

  /**
   * @param timeout milliseconds from accept
   * @param keeper has copies of what waits here
   */
  constructor(
    poller: Watcher,
    timeout: number,
    host: HoldHost,
    os: Os = systemOs,
    keeper: Keeper = noKeeper,
  ) {
    this.#keeper = keeper
    this.#os = os
    this.#poller = poller
    this.#timeout = timeout
    this.#host = host
  }

  get size(): number {
    return this.#queue.length
  }

  add(connection: ClientConnection): void {
    const { fd } = connection.fd
    const watch = this.#poller.add(fd, EPOLLRDHUP | EPOLLONESHOT, this.#listener)
    const held: Held = { connection, watch, kept: this.#keeper.keep(connection) }
    this.#byFd.set(fd, held)
    const last = this.#queue.at(-1)
    if (last === undefined || last.connection.order < connection.order) this.#queue.push(held)
    else this.#queue.splice(this.#indexOf(connection), 0, held)
    if (this.#queue[0] === held && this.#timer !== undefined) {
      // Inherited from another worker's queue: added later, but with an earlier deadline.
      this.#os.clear(this.#timer)
      this.#timer = undefined
    }
    this.#arm()
  }

  /** In order of arrival. */
  *connections(): Iterable<ClientConnection> {
    for (const { connection } of this.#queue) yield connection
  }

  /** Removes up to `count` connections from the head. They are no longer watched, and may be passed on. */
  take(count: number): ClientConnection[] {
    const taken = this.#queue.splice(0, count)
    this.#over(taken)
    return taken.map(({ connection }) => connection)
  }

  /** The same for those that `wanted` chooses, wherever they are in the queue. */
  takeWhere(count: number, wanted: (connection: ClientConnection) => boolean): ClientConnection[] {
    const taken: Held[] = []
    for (const held of this.#queue) {
      if (taken.length >= count) break
      if (wanted(held.connection)) taken.push(held)
    }
    if (taken.length === 0) return []
    const leaving = new Set(taken)
    const stay = this.#queue.filter((held) => !leaving.has(held))
    this.#queue.length = 0
    for (const held of stay) this.#queue.push(held)
    this.#over(taken)
    return taken.map(({ connection }) => connection)
  }

  close(): void {
    this.#os.clear(this.#timer)
  }

  #ready(fd: number, events: number): void {
    const held = this.#byFd.get(fd)
    if (held === undefined) return
    if (this.#isGone(held.connection, events)) return this.#remove(held)
    // Half-closed, but still a client. Errors and hang-ups are reported anyway (epoll_ctl(2)).
    held.watch.modify(EPOLLONESHOT)
  }

  #remove(held: Held): void {
    this.#queue.splice(this.#indexOf(held.connection), 1)
    this.#over([held])
    this.#host.clientGone(held.connection)
  }

  /** They wait no longer. */
  #over(all: readonly Held[]): void {
    for (const { connection, watch } of all) {
      watch.remove()
      this.#byFd.delete(connection.fd.fd)
    }
    this.#keeper.over(all.map(({ kept }) => kept))
  }

  /** Index of the connection, or where it would be inserted. */
  #indexOf(connection: ClientConnection): number {
    let low = 0
    let high = this.#queue.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#queue[middle] as Held).connection.order < connection.order) low = middle + 1
      else high = middle
    }
    return low
  }

  /** One timer for the head is enough: all entries share the same timeout. */
  #arm(): void {
    const head = this.#queue[0]
    if (this.#timer !== undefined || head === undefined) return
    const left = head.connection.acceptedAt + this.#timeout - this.#os.now()
    this.#timer = this.#os.setTimeout(
      () => {
        this.#timer = undefined
        this.#expire()
        this.#arm()
      },
      Math.max(1, left),
    )
  }

  #expire(): void {
    const latest = this.#os.now() - this.#timeout
    while (this.#queue[0] !== undefined && this.#queue[0].connection.acceptedAt <= latest) {
      const [connection] = this.take(1) as [ClientConnection]
      this.#host.timedOut(connection)
    }
  }

  /**
   * EPOLLERR and EPOLLHUP mean that both directions are closed. A client that has only stopped sending may still expect an answer:
   * on tcp and tls always, on http if it has sent something.
   */
  #isGone({ fd, listener }: ClientConnection, events: number): boolean {
    if ((events & (EPOLLERR | EPOLLHUP)) !== 0) return true
    return listener.protocol === 'http' && this.#os.peek(fd.fd, 1)?.length === 0
  }
}
