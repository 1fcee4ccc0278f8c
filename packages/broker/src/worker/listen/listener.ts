import {
  acceptMany,
  EPOLLIN,
  localAddress,
  OwnedFd,
  type Poller,
  refuseDescriptors,
  type SocketAddress,
  type Watch,
} from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { ListenerConfig } from '../../config/config.ts'
import { AcceptedClient, type ClientConnection, nextArrival } from '../connection/connection.ts'
import { sharedReserve } from './descriptor-reserve.ts'

/** Maximum accepts per wake-up. The poller reports the rest again. */
const MAX_ACCEPTS = 64

/** Pause when out of descriptors or memory: accept fails immediately and the socket stays readable, so retrying at once would spin. */
const PRESSURE_PAUSE_MS = 100

/** Larger than any backlog, but finite, since clients may keep arriving. */
const MAX_ACCEPTS_AT_CLOSE = 65_536

/** Bound to all addresses of the host. */
const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::'])

/** An IPv4 address, also where an IPv6 socket shows it as a mapped one. */
function plain(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, '')
}

/** Owns a listening socket and accepts from it. Knows nothing about backends. */
export class Listener {
  readonly name: string
  /** Where connections go that no route takes; null: they are rejected. */
  readonly service: string | null
  /** Every service that its connections may go to. */
  readonly services: ReadonlySet<string>
  readonly protocol: ListenerConfig['protocol']
  /** The bound address, with the port that the kernel chose for port 0. */
  readonly address: string
  readonly #bound: SocketAddress
  #fd: OwnedFd
  /** Replaced sockets, until their accept queues are empty. */
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
    const named = [config.service, ...config.routes.map((route) => route.service)]
    this.services = new Set(named.filter((service) => service !== null))
    this.protocol = config.protocol
    this.#fd = fd
    this.#onConnection = onConnection
    this.#logger = logger
    this.#bound = localAddress(fd.fd)
    const { family, address, port } = this.#bound
    if (family === 'unix') {
      this.address = `unix:${address}`
      // A service manager, or an older version of the program before a reload, may have opened it without this.
      refuseDescriptors(fd.fd)
    } else this.address = family === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`
  }

  get accepted(): number {
    return this.#accepted
  }

  get accepting(): boolean {
    return this.#watch !== undefined
  }

  /** Whether a socket with this local address can be a connection that was accepted here. */
  couldHaveAccepted(local: SocketAddress): boolean {
    const { family, address, port } = this.#bound
    if (family === 'unix') return local.family === 'unix' && local.address === address
    if (local.family === 'unix' || local.port !== port) return false
    return WILDCARDS.has(address) || plain(local.address) === plain(address)
  }

  start(poller: Poller): void {
    this.#poller = poller
    const watch = (fd: OwnedFd) => poller.add(fd.fd, EPOLLIN, () => this.#accept(MAX_ACCEPTS))
    for (const former of this.#former.keys()) this.#former.set(former, watch(former))
    this.#watch = watch(this.#fd)
  }

  /** The socket's file was recreated. Clients in the former socket's queue are still accepted. Owns `fd`. */
  replaceSocket(fd: OwnedFd): void {
    if (this.#fd.closed) return fd.close()
    this.#former.set(this.#fd, this.#watch)
    this.#fd = fd
    // Before `start`, which watches both.
    if (this.#watch === undefined) return
    this.#watch = this.#poller?.add(fd.fd, EPOLLIN, () => this.#accept(MAX_ACCEPTS))
    this.#accept(MAX_ACCEPTS)
  }

  /** Accepts the clients in the kernel's queue, which a close would reset, and then closes. */
  close(): void {
    this.#stop()
    if (!this.#fd.closed) this.#accept(MAX_ACCEPTS_AT_CLOSE)
    this.#stop()
    this.#closeAll()
  }

  /** Closes this process's copy of the socket. Another process keeps it open, and accepts the clients in its queue. */
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

  #accept(max: number): void {
    for (const [former, watch] of this.#former) {
      if (!this.#acceptFrom(former, max)) return
      // Its file is gone, so no more clients can arrive.
      watch?.remove()
      this.#former.delete(former)
      former.close()
    }
    this.#acceptFrom(this.#fd, max)
  }

  /** @returns whether its queue is empty */
  #acceptFrom(socket: OwnedFd, max: number): boolean {
    const reserve = this.#reserve
    const suspected = this.#pressure !== undefined || reserve.isSuspected
    let empty = false
    for (let room = max; room > 0;) {
      // A full batch unless descriptors look scarce; then a gap of a few free numbers must not pass for room for a batch.
      const asked = Math.min(room, suspected ? reserve.roomFor(socket.fd, reserve.batch) : reserve.batch)
      if (asked === 0) return this.#pauseFor(this.#pressure ?? 'descriptor reserve reached')
      const { connections, error } = acceptMany(socket.fd, asked)
      this.#accepted += connections.length
      room -= connections.length
      let short = false
      for (const { fd, peer } of connections) {
        short ||= reserve.isReached(fd)
        this.#onConnection(new AcceptedClient(nextArrival(), new OwnedFd(fd), peer, this))
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
