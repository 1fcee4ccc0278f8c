import { EPOLLERR, EPOLLHUP, EPOLLONESHOT, EPOLLRDHUP, type Poller, type Watch } from '@baton/native-sendmsg'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { ClientConnection } from '../connection/connection.ts'
import { type Os, systemOs } from '../os.ts'

/** What the queue needs of a poller. */
export type Watcher = {
  add(...args: Parameters<Poller['add']>): Pick<Watch, 'modify' | 'remove'>
}

export interface HoldHost {
  /** The client left while it waited. */
  clientGone(connection: ClientConnection): void
  /** It has waited for as long as it may. */
  timedOut(connection: ClientConnection): void
}

interface Held {
  readonly connection: ClientConnection
  readonly watch: Pick<Watch, 'remove'>
}

/**
 * Clients that wait, unread, until a backend can take them: first come, first served, whoever was offered in between.
 * The queue owns nothing but the watch on each socket; a connection leaves it by `take`, or through its host.
 */
export class HoldQueue {
  readonly #poller: Watcher
  readonly #os: Os
  readonly #timeout: number
  readonly #host: HoldHost
  /** Sorted by arrival. */
  readonly #queue: Held[] = []
  #timer: Timer | undefined

  /** @param timeout milliseconds from accept */
  constructor(poller: Watcher, timeout: number, host: HoldHost, os: Os = systemOs) {
    this.#os = os
    this.#poller = poller
    this.#timeout = timeout
    this.#host = host
  }

  get size(): number {
    return this.#queue.length
  }

  add(connection: ClientConnection): void {
    const watch = this.#poller.add(connection.fd.fd, EPOLLRDHUP | EPOLLONESHOT, (events) => {
      if (this.#isGone(connection, events)) return this.#remove(connection)
      // Half-closed, with a request that waits to be read: still a client. Errors and hang-ups are reported anyway.
      watch.modify(EPOLLONESHOT)
    })
    const held = { connection, watch }
    const last = this.#queue.at(-1)
    if (last === undefined || last.connection.order < connection.order) this.#queue.push(held)
    else this.#queue.splice(this.#indexOf(connection), 0, held)
    if (this.#queue[0] === held && this.#timer !== undefined) {
      // It came later and has waited longer: from the queue of another worker.
      this.#os.clear(this.#timer)
      this.#timer = undefined
    }
    this.#arm()
  }

  /** Those that wait, in order of arrival. */
  *connections(): Iterable<ClientConnection> {
    for (const { connection } of this.#queue) yield connection
  }

  /** The first `count`, in order of arrival. They are not watched any more and may be passed on. */
  take(count: number): ClientConnection[] {
    return this.#queue.splice(0, count).map(({ connection, watch }) => {
      watch.remove()
      return connection
    })
  }

  close(): void {
    this.#os.clear(this.#timer)
  }

  #remove(connection: ClientConnection): void {
    const index = this.#indexOf(connection)
    const held = this.#queue[index]
    if (held?.connection !== connection) return
    held.watch.remove()
    this.#queue.splice(index, 1)
    this.#host.clientGone(connection)
  }

  /** Where it is, or where it belongs. */
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

  /** One timer, for the head: all have the same time to wait, so nobody's is over before that of the first. */
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
   * EPOLLERR and EPOLLHUP say that both directions are over. A client that only stopped sending may still wait for its
   * answer: on tcp and tls always, on http when it has sent something to be answered.
   */
  #isGone({ fd, listener }: ClientConnection, events: number): boolean {
    if ((events & (EPOLLERR | EPOLLHUP)) !== 0) return true
    return listener.protocol === 'http' && this.#os.peek(fd.fd, 1)?.length === 0
  }
}
