import type { Socket } from 'node:net'
import { DenseList } from './dense-list.ts'

interface Place {
  readonly socket: Socket
  /** performance.now() when it was added. */
  readonly since: number
  /** Its client has spoken before this process got it. */
  readonly resumed: boolean
  index: number
}

/** The live sockets of a server. */
export class AdoptedSockets implements Iterable<Socket> {
  readonly #places = new DenseList<Place>()

  get size(): number {
    return this.#places.size
  }

  /** Calls `onGone` once, after the socket has closed and left the list. */
  add(socket: Socket, onGone: () => void, resumed = false): void {
    const place = { socket, since: performance.now(), resumed, index: -1 }
    this.#places.add(place)
    socket.on('close', () => {
      if (this.#places.remove(place)) onGone()
    })
  }

  *[Symbol.iterator](): Generator<Socket> {
    for (const { socket } of this.#places.all()) yield socket
  }

  /** Those on which a client has sent nothing, with the time of `performance.now()` when each was added. */
  silent(): { socket: Socket; since: number }[] {
    return this.#places.all().filter(({ socket, resumed }) => socket.bytesRead === 0 && !resumed)
  }
}
