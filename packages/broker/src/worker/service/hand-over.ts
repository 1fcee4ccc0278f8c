import type { OwnedFd } from '@baton/native-sendmsg'
import {
  type ClientConnection,
  IdleClient,
  InheritedClient,
  type ParkedClient,
} from '../connection/connection.ts'
import type { ResumeState } from '../connection/resume-state.ts'
import type { Os } from '../os.ts'
import type { Parking } from '../park/parking.ts'
import type { Recorder } from '../recorder/recorder.ts'
import type { Waiting } from '../copies/held-client.ts'
import { inOrder } from './candidates.ts'
import type { ServiceStats } from './service-stats.ts'

export type { Waiting } from '../copies/held-client.ts'

/** The worker that takes over, as far as the connections of one service are concerned. */
export interface Successor {
  /**
   * Takes over these connections, in this order.
   *
   * @param taken called, once or for parts of them, with the number of those that it has; the others come back (`takeBack`)
   * @returns false: it is gone, and has taken nothing
   */
  pass(connections: readonly Waiting[], taken: (count: number) => void): boolean
  /** Connections that move in one turn of the event loop. */
  readonly slice: number
  /** The kernel has all that was passed, and room for a slice. What it does not have would be lost with this process. */
  readonly hasRoom: boolean
  /** Calls back, in a later turn of the event loop, once it has room for more or is gone. */
  whenReady(callback: () => void): void
}

export interface HandOverHost {
  /** How many connections wait for a backend here. */
  waiting(): number
  /** Takes up to `count` of them, in order of arrival. */
  take(count: number): readonly ClientConnection[]
  /** Lets these wait there as well, until their turn comes. Returns those that cannot wait. */
  wait(connections: readonly ClientConnection[]): readonly ClientConnection[]
  /** The successor is gone: these are the host's again, in order of arrival. */
  stay(connections: readonly ClientConnection[]): void
  /** The same for idle ones. */
  park(connection: ParkedClient): void
  /** Some have moved. All that wait, are parked or under way may have, or the successor is gone. */
  moved(): void
}

export interface HandOverDeps {
  readonly parking: Parking
  readonly serviceStats: ServiceStats
  readonly recorder: Recorder
  readonly os: Os
}

/**
 * Moves connections to the worker that takes over, in slices: those that wait for a backend, then parked ones. Those that have not moved yet
 * are watched here as before, and the master has copies of them, so they outlive this process; a parked one whose next request comes meanwhile moves as a
 * client that waits.
 */
export class HandOver {
  readonly #host: HandOverHost
  readonly #deps: HandOverDeps
  /** Undefined before the hand-over, and once the successor is known to be gone. */
  #successor: Successor | undefined
  /** A slice is on its way, and the next one follows. */
  #slicing = false
  /** Connections that the successor has not taken yet. */
  #underWay = 0

  constructor(host: HandOverHost, deps: HandOverDeps) {
    this.#host = host
    this.#deps = deps
  }

  get active(): boolean {
    return this.#successor !== undefined
  }

  /** Connections on their way, which may come back. */
  get underWay(): number {
    return this.#underWay
  }

  /** From now on. A second call names the next successor, because the one before has died. */
  begin(successor: Successor): void {
    this.#successor = successor
  }

  /** Sends connections to the successor, in this order: at once if it takes them, and none waits before them. */
  pass(connections: readonly ClientConnection[]): void {
    if (connections.length === 0) return
    const successor = this.#successor
    const isLate =
      successor !== undefined &&
      (this.#host.waiting() > 0 || !successor.hasRoom || connections.length > successor.slice)
    const passed = isLate ? this.#host.wait(connections) : connections
    this.#pass(passed)
    if (isLate) this.start()
  }

  #pass(connections: readonly ClientConnection[]): void {
    if (connections.length === 0) return
    if (!this.#send(connections)) return this.#host.stay(inOrder(connections))
    // It waits in the broker; this worker does not learn of its end.
    for (const { resume } of connections) resume?.settled('parked')
  }

  /** Parked here, or with the successor. */
  keep(connections: readonly ParkedClient[]): void {
    if (!this.active || !this.#send(connections))
      for (const connection of connections) this.#host.park(connection)
  }

  /** Sends what waits and what is parked. */
  start(): void {
    if (!this.#slicing) this.#slice()
  }

  /**
   * The successor has ended before these reached it: they wait here again, or with the next one.
   *
   * @param fds their descriptors, in the same order
   * @param keepState keeps a state again that was let go with its connection
   */
  takeBack(
    connections: readonly Waiting[],
    fds: readonly OwnedFd[],
    keepState: (state: ResumeState) => ResumeState,
  ): void {
    this.#deps.serviceStats.movedOut -= connections.length
    this.#underWay -= connections.length
    const idle: ParkedClient[] = []
    const waiting: ClientConnection[] = []
    for (const [index, connection] of connections.entries()) {
      const fd = fds[index] as OwnedFd
      if (isParked(connection)) idle.push(withDescriptor(connection, fd))
      else {
        const { resume } = connection
        const fields = fieldsOf(connection)
        waiting.push(new InheritedClient(fd, resume ? { ...fields, resume: keepState(resume) } : fields))
      }
    }
    this.#deps.recorder.note('parked', idle, this.#deps.os.now())
    this.keep(idle)
    if (this.active) this.pass(waiting)
    else this.#host.stay(waiting)
    this.#host.moved()
  }

  #slice(): void {
    this.#slicing = false
    if (this.#successor?.hasRoom === false) return this.#sliceLater(this.#successor)
    const size = this.#successor?.slice ?? 0
    const waiting = this.#host.take(size)
    this.#pass(waiting)
    const idle = this.active ? this.#deps.parking.take(size - waiting.length) : []
    if (idle.length > 0) this.keep(idle)
    const successor = this.#successor
    // Not the one from before, if that was gone.
    if (successor === undefined || this.#host.waiting() + this.#deps.parking.size === 0)
      return this.#host.moved()
    this.#sliceLater(successor)
  }

  #sliceLater(successor: Successor): void {
    this.#slicing = true
    successor.whenReady(() => this.#slice())
  }

  #send(connections: readonly Waiting[]): boolean {
    this.#underWay += connections.length
    const taken = (count: number) => {
      this.#underWay -= count
      this.#host.moved()
    }
    if (this.#successor?.pass(connections, taken) !== true) {
      this.#underWay -= connections.length
      this.#successor = undefined
      return false
    }
    this.#deps.serviceStats.movedOut += connections.length
    this.#deps.recorder.note('moved', connections, this.#deps.os.now())
    return true
  }
}

function isParked(connection: Waiting): connection is ParkedClient {
  return 'idleUntil' in connection
}

/** One by one: a spread leaves out what a class has accessors for. */
function withDescriptor({ listener, id, idleUntil, proxied, record }: ParkedClient, fd: OwnedFd): IdleClient {
  const parked = new IdleClient({ fd, listener, id, idleUntil, proxied })
  parked.record = record
  return parked
}

/** One by one: the id of an accepted client is made on first use. */
export function fieldsOf(connection: ClientConnection) {
  const { order, listener, peer, id, acceptedAt, handedBack, quietUntil } = connection
  const { record, proxied, routed, peeked, unjudged } = connection
  return {
    order,
    listener,
    peer,
    id,
    acceptedAt,
    record,
    proxied,
    routed,
    ...(handedBack !== undefined && { handedBack }),
    ...(quietUntil !== undefined && { quietUntil }),
    ...(peeked !== undefined && { peeked }),
    ...(unjudged !== undefined && { unjudged }),
  }
}
