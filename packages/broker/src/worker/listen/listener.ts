import {
  acceptMany,
  EPOLLIN,
  localAddress,
  OwnedFd,
  type Poller,
  refuseDescriptors,
  type Watch,
} from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { ListenerConfig } from '../../config/config.ts'
import { AcceptedClient, type ClientConnection } from '../connection/connection.ts'
import { sharedReserve } from './descriptor-reserve.ts'

/** So many are accepted in one wake-up before they are handed on; the rest is reported again. */
const MAX_ACCEPTS = 64

/** Out of descriptors or memory, accept fails at once and the socket stays readable: without a pause that is a spin. */
const PRESSURE_PAUSE_MS = 100

/** More than any backlog holds, and an end all the same when clients keep coming. */
const MAX_ACCEPTS_AT_CLOSE = 65_536

let accepts = 0

/** A listening socket: owns it, accepts from it, and knows nothing of backends. */
export class Listener {
  readonly name: string
  readonly service: string
  readonly protocol: ListenerConfig['protocol']
  /** As bound: with the port that the kernel chose. */
  readonly address: string
  #fd: OwnedFd
  /** Replaced ones, until their accept queues are empty. */
  readonly #former = new Map<OwnedFd, Watch | undefined>()
  readonly #onConnection: (connection: ClientConnection) => void
  readonly #logger: Logger
  readonly #reserve = sharedReserve()
  #poller: Poller | undefined
  #watch: Watch | undefined
  #resume: NodeJS.Timeout | undefined
  #pressure: string | undefined
  #accepted = 0

  constructor(
    config: ListenerConfig,
    fd: OwnedFd,
    onConnection: (connection: ClientConnection) => void,
    logger: Logger,
  ) {
    this.name = config.name
    this.service = config.service
    this.protocol = config.protocol
    this.#fd = fd
    this.#onConnection = onConnection
    this.#logger = logger
    const { family, address, port } = localAddress(fd.fd)
    if (family === 'unix') {
      this.address = `unix:${address}`
      // It may have been opened by a service manager, or by an older program before a reload.
      refuseDescriptors(fd.fd)
    } else this.address = family === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`
  }

  get accepted(): number {
    return this.#accepted
  }

  get accepting(): boolean {
    return this.#watch !== undefined
  }

  start(poller: Poller): void {
    this.#poller = poller
    const watch = (fd: OwnedFd) => poller.add(fd.fd, EPOLLIN, () => this.#accept(MAX_ACCEPTS))
    for (const former of this.#former.keys()) this.#former.set(former, watch(former))
    this.#watch = watch(this.#fd)
  }

  /** The socket's file was created again. What waits in the queue of the former socket is accepted as well. Owns `fd`. */
  replaceSocket(fd: OwnedFd): void {
    if (this.#fd.closed) return fd.close()
    this.#former.set(this.#fd, this.#watch)
    this.#fd = fd
    // Before `start`, which watches both.
    if (this.#watch === undefined) return
    this.#watch = this.#poller?.add(fd.fd, EPOLLIN, () => this.#accept(MAX_ACCEPTS))
    this.#accept(MAX_ACCEPTS)
  }

  /** Takes what waits in the kernel's queue, whose clients would be reset by the close, and closes. */
  close(): void {
    this.#stop()
    if (!this.#fd.closed) this.#accept(MAX_ACCEPTS_AT_CLOSE)
    this.#stop()
    this.#closeAll()
  }

  /** Closes this copy of the socket: somebody else goes on with it, and has what waits in its queue. */
  closeCopy(): void {
    this.#stop()
    this.#closeAll()
  }

  #stop(): void {
    clearTimeout(this.#resume)
    for (const watch of this.#watches) watch.remove()
    for (const former of this.#former.keys()) this.#former.set(former, undefined)
    this.#watch = undefined
  }

  #closeAll(): void {
    for (const former of this.#former.keys()) former.close()
    this.#former.clear()
    this.#fd.close()
  }

  get #watches(): Watch[] {
    return [...this.#former.values(), this.#watch].filter((watch) => watch !== undefined)
  }

  #accept(most: number): void {
    for (const [former, watch] of this.#former) {
      if (!this.#acceptFrom(former, most)) return
      // Its file is gone: no more can come.
      watch?.remove()
      this.#former.delete(former)
      former.close()
    }
    this.#acceptFrom(this.#fd, most)
  }

  /** @returns whether its queue is empty */
  #acceptFrom(socket: OwnedFd, most: number): boolean {
    const reserve = this.#reserve
    const suspected = this.#pressure !== undefined || reserve.isSuspected
    let empty = false
    for (let room = most; room > 0;) {
      // The first time in full; then a gap of a few free numbers must not be taken for room for a batch.
      const asked = Math.min(room, suspected ? reserve.roomFor(socket.fd, reserve.batch) : reserve.batch)
      if (asked === 0) return this.#pauseFor(this.#pressure ?? 'descriptor reserve reached')
      const { connections, error } = acceptMany(socket.fd, asked)
      this.#accepted += connections.length
      room -= connections.length
      let short = false
      for (const { fd, peer } of connections) {
        short ||= reserve.isReached(fd)
        this.#onConnection(new AcceptedClient(++accepts, new OwnedFd(fd), peer, this))
      }
      if (error !== undefined) return this.#pauseFor(error.code)
      if (short) return this.#pauseFor('descriptor reserve reached')
      empty = connections.length < asked
      if (empty) break
    }
    this.#pressure = undefined
    return empty
  }

  #pauseFor(reason: string): false {
    if (this.#pressure !== reason) {
      this.#logger.error({ listener: this.name, code: reason }, 'cannot accept; clients wait in the kernel')
    }
    this.#pressure = reason
    this.#pause()
    return false
  }

  #pause(): void {
    this.#watchFor(0)
    clearTimeout(this.#resume)
    this.#resume = setTimeout(() => this.#watchFor(EPOLLIN), PRESSURE_PAUSE_MS)
  }

  #watchFor(events: number): void {
    for (const watch of this.#watches) watch.modify(events)
  }
}
