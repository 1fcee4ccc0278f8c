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
import type { ListenerConfig } from '../config/index.ts'
import { AcceptedClient, type ClientConnection } from '../connection.ts'
import { sharedReserve } from './descriptor-reserve.ts'

/** So many are accepted in one wake-up before they are handed on; the rest is reported again. */
const MOST_AT_ONCE = 64

/** Out of descriptors or memory, accept fails at once and the socket stays readable: without a pause that is a spin. */
const PRESSURE_PAUSE = 100

/** More than any backlog holds, and an end all the same when clients keep coming. */
const MOST_AT_CLOSE = 65_536

let accepts = 0

/** A listening socket: owns it, accepts from it, and knows nothing of backends. */
export class Listener {
  readonly name: string
  readonly service: string
  readonly protocol: ListenerConfig['protocol']
  /** As bound: with the port that the kernel chose. */
  readonly address: string
  readonly #fd: OwnedFd
  readonly #onConnection: (connection: ClientConnection) => void
  readonly #logger: Logger
  readonly #reserve = sharedReserve()
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
    this.#watch = poller.add(this.#fd.fd, EPOLLIN, () => this.#accept(MOST_AT_ONCE))
  }

  /** Takes what waits in the kernel's queue, whose clients would be reset by the close, and closes. */
  close(): void {
    this.#stop()
    if (!this.#fd.closed) this.#accept(MOST_AT_CLOSE)
    this.#stop()
    this.#fd.close()
  }

  /** Closes this copy of the socket: somebody else goes on with it, and has what waits in its queue. */
  leave(): void {
    this.#stop()
    this.#fd.close()
  }

  #stop(): void {
    clearTimeout(this.#resume)
    this.#watch?.remove()
    this.#watch = undefined
  }

  #accept(most: number): void {
    const reserve = this.#reserve
    const suspected = this.#pressure !== undefined || reserve.isSuspected
    if (suspected && reserve.isReachedNow(this.#fd.fd)) {
      return this.#pauseFor(this.#pressure ?? 'descriptor reserve reached')
    }
    for (let room = most; room > 0;) {
      const asked = Math.min(room, reserve.batch)
      const { connections, error } = acceptMany(this.#fd.fd, asked)
      this.#accepted += connections.length
      room -= connections.length
      let short = false
      for (const { fd, peer } of connections) {
        short ||= reserve.isReached(fd)
        this.#onConnection(new AcceptedClient(++accepts, new OwnedFd(fd), peer, this))
      }
      if (error !== undefined) return this.#pauseFor(error.code)
      if (short) return this.#pauseFor('descriptor reserve reached')
      if (connections.length < asked) break
    }
    this.#pressure = undefined
  }

  #pauseFor(reason: string): void {
    if (this.#pressure !== reason) {
      this.#logger.error({ listener: this.name, code: reason }, 'cannot accept; clients wait in the kernel')
    }
    this.#pressure = reason
    this.#pause()
  }

  #pause(): void {
    this.#watch?.modify(0)
    clearTimeout(this.#resume)
    this.#resume = setTimeout(() => this.#watch?.modify(EPOLLIN), PRESSURE_PAUSE)
  }
}
