import type { Socket } from 'node:net'

/** A socket and its index in the list; -1 once removed. */
interface Place {
  readonly socket: Socket
  /** performance.now() when it was added. */
  readonly since: number
  /** Its client has spoken before this process got it. */
  readonly resumed: boolean
  index: number
}

/**
 * The live sockets of a server, as a dense list: on removal the last entry moves into the gap. Thousands come and go per second,
 * and a Set allocates a new table for every few dozen of them. An old table that V8 has promoted keeps its entries alive, which
 * doubled the surviving garbage.
 */
export class AdoptedSockets implements Iterable<Socket> {
  readonly #places: Place[] = []

  get size(): number {
    return this.#places.length
  }

  /** Calls `onGone` once, after the socket has closed and left the list. */
  add(socket: Socket, onGone: () => void, resumed = false): void {
    const place = { socket, since: performance.now(), resumed, index: this.#places.length }
    this.#places.push(place)
    socket.on('close', () => {
      if (this.#remove(place)) onGone()
    })
  }

  *[Symbol.iterator](): Generator<Socket> {
    // Iterate over a copy: sockets that are destroyed meanwhile leave the list.
    for (const { socket } of this.#places.slice()) yield socket
  }

  /** Those on which a client has sent nothing, with the time of `performance.now()` when each was added. */
  silent(): { socket: Socket; since: number }[] {
    return this.#places.filter(({ socket, resumed }) => socket.bytesRead === 0 && !resumed)
  }

  #remove(place: Place): boolean {
    const { index } = place
    if (index === -1) return false
    place.index = -1
    const last = this.#places.pop()
    if (last !== undefined && last !== place) {
      last.index = index
      this.#places[index] = last
    }
    return true
  }
}
