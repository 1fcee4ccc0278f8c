import type { Socket } from 'node:net'
import { DenseList } from './dense-list.ts'

interface Place {
  readonly socket: Socket
  readonly list: AdoptedSockets
  /** performance.now() when it was added. */
  readonly since: number
  /** Its client has spoken before this process got it. */
  readonly resumed: boolean
  index: number
}

/** Key of its place on a socket. */
const placeOf = Symbol('baton place')

interface Placing {
  [placeOf]?: Place
}

/** Listener of every socket: one for all, since each function of its own would cost every connection. */
function socketClosed(this: Socket & Placing): void {
  const place = this[placeOf]
  place?.list.gone(place)
}

/** The live sockets of a server. */
export class AdoptedSockets implements Iterable<Socket> {
  readonly #places = new DenseList<Place>()
  readonly #onGone: () => void

  /** @param onGone called after a socket has closed and left the list */
  constructor(onGone: () => void = () => {}) {
    this.#onGone = onGone
  }

  get size(): number {
    return this.#places.size
  }

  add(socket: Socket & Placing, resumed = false): void {
    const place = { socket, list: this, since: performance.now(), resumed, index: -1 }
    this.#places.add(place)
    socket[placeOf] = place
    socket.on('close', socketClosed)
  }

  gone(place: Place): void {
    if (this.#places.remove(place)) this.#onGone()
  }

  *[Symbol.iterator](): Generator<Socket> {
    for (const { socket } of this.#places.all()) yield socket
  }

  /** Those on which a client has sent nothing, with the time of `performance.now()` when each was added. */
  silent(): { socket: Socket; since: number }[] {
    return this.#places.all().filter(({ socket, resumed }) => socket.bytesRead === 0 && !resumed)
  }
}
