import type { Socket } from 'node:net'

/** Where a socket stands in the list. */
interface Place {
  readonly socket: Socket
  /** performance.now() when it was added. */
  readonly since: number
  index: number
}

/**
 * The live sockets of a server. They come and go by the thousand, so they are a dense list in which the last one moves into
 * the place that becomes free. A Set makes a new table for every few dozen; an old table that was promoted keeps alive what
 * was in it, which doubled the garbage that survives.
 */
export class AdoptedSockets implements Iterable<Socket> {
  readonly #places: Place[] = []

  get size(): number {
    return this.#places.length
  }

  /** `onGone` is called once, when the socket has closed and is in the list no more. */
  add(socket: Socket, onGone: () => void): void {
    const place = { socket, since: performance.now(), index: this.#places.length }
    this.#places.push(place)
    socket.on('close', () => {
      if (this.#remove(place)) onGone()
    })
  }

  *[Symbol.iterator](): Generator<Socket> {
    // Of a copy: whoever is destroyed while the list is gone through leaves it.
    for (const { socket } of this.#places.slice()) yield socket
  }

  /** Those that have received nothing, with the time of `performance.now()` when each was added. */
  silent(): { socket: Socket; since: number }[] {
    return this.#places.filter(({ socket }) => socket.bytesRead === 0)
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
