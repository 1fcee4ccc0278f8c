import type { Socket } from 'node:net'
import { ControlConnection, FrameOrder, type HelloFrame } from '@baton/backend-sdk/protocol'
import {
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLONESHOT,
  EPOLLRDHUP,
  type ReadinessListener,
} from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { ServiceConfig } from '../../src/config/config.ts'
import {
  type ClientConnection,
  FIRST_INHERITED,
  nextArrival,
} from '../../src/worker/connection/connection.ts'
import { Metrics } from '../../src/metrics/metrics.ts'
import type { Carried, Os } from '../../src/worker/os.ts'
import { BackendLink, READ_MS } from '../../src/worker/backend/backend-link.ts'
import { Slots } from '../../src/worker/registry/names.ts'
import type { DialHost, PendingDial } from '../../src/worker/relay/dial.ts'
import { Service } from '../../src/worker/service/service.ts'
import { Client, SimulatedFd } from './client.ts'
import { controlStream, type SimulatedSocket, SocketError, type StreamEnd } from './control.ts'
import { type Kernel, Killed, Process, Violation } from './kernel.ts'
import { SimulatedLane } from './lane.ts'
import type { Random } from './random.ts'
import { RelayPipe, type SimulatedEndpoint } from './relay-pipe.ts'
import { Succession } from './succession.ts'
import type { Terms } from './terms.ts'

export const HEARTBEAT_INTERVAL = 1000

/** Shared by all schedules: Prometheus counters are slow to create, and no decision depends on them. */
const metrics = new Metrics({ version: '0', listeners: ['web'], services: ['web'] })

interface Watched {
  readonly client: Client
  readonly listener: ReadinessListener
  events: number
}

/** The sockets of a link, for the scheduler. */
export interface BrokerLink {
  readonly link: BackendLink
  readonly socket: SimulatedSocket
  readonly lane: SimulatedLane
}

/** The broker's process: the real `Service` and `BackendLink`s on a simulated system. */
export class Broker {
  readonly process: Process
  readonly service: Service
  readonly links = new Set<BrokerLink>()
  readonly pipes = new Set<RelayPipe>()
  readonly endpoints = new Map<string, SimulatedEndpoint>()
  accepted = 0
  /** From now on no client may be rejected because no backend is available. */
  mustServe = false
  stopped = false
  /** Another worker has taken over. */
  leaving = false
  /** Where connections of predecessors arrive. */
  readonly #successions = new Set<Succession>()
  #inherited = FIRST_INHERITED
  readonly #config: ServiceConfig
  readonly #kernel: Kernel
  readonly #random: Random
  readonly #laneRoom: number
  readonly #watched = new Map<number, Watched>()
  readonly #slots = new Slots()
  readonly #os: Os
  readonly #logger: Logger

  constructor(
    kernel: Kernel,
    name: string,
    { service: config, laneRoom, protocol }: Pick<Terms, 'service' | 'laneRoom' | 'protocol'>,
    random: Random,
  ) {
    this.#kernel = kernel
    this.#config = config
    this.#laneRoom = laneRoom
    this.#random = random
    this.process = new Process(kernel, name)
    this.#os = this.#system()
    this.#logger = this.#log()
    this.service = new Service('web', config, {
      poller: { add: (fd, events, listener) => this.#watch(fd, events, listener) },
      lingeringClose: { reject: (connection) => this.#reject(connection) },
      metrics,
      logger: this.#logger,
      os: this.#os,
      listeners: () => [{ name: 'web', protocol, couldHaveAccepted: () => true }],
    })
  }

  /** One wake-up of the listener. */
  accept(clients: readonly Client[], protocol: 'http' | 'tcp'): void {
    for (const client of clients) {
      const id = Buffer.alloc(16)
      id.writeUInt32BE(client.order, 12)
      this.accepted += 1
      this.service.arrive({
        order: client.arrival,
        fd: new SimulatedFd(this.process, client),
        listener: { name: 'web', protocol },
        peer: { family: 'unix', address: '', port: 0 },
        id,
        acceptedAt: this.process.now(),
        tried: undefined,
        pressedSince: undefined,
      })
    }
    this.service.flush()
  }

  /** A reload: `successor` accepts from now on. Called again when that has died, with the next one. */
  handOver(successor: Broker): void {
    this.leaving = true
    const succession = new Succession(successor.process)
    successor.#successions.add(succession)
    for (const { link } of this.links) link.askToReconnect('reload')
    this.service.handOver({
      slice: 2,
      hasRoom: true,
      pass: (connections, taken) => {
        if (!succession.pass(this.process, connections)) return false
        taken(connections.length)
        return true
      },
      whenReady: (callback) => this.process.tasks.push(callback),
    })
  }

  get awaitsMoved(): boolean {
    return [...this.#successions].some(({ waiting }) => waiting)
  }

  receiveMoved(): void {
    const next = [...this.#successions].find(({ waiting }) => waiting)
    next?.receive(this.service, () => this.#inherited++)
  }

  /** A worker that has been replaced ends once it has settled what was in flight, and nothing waits. */
  get mayEnd(): boolean {
    const { held, inFlight, parkedCount } = this.service
    return this.leaving && !this.stopped && held + inFlight + parkedCount === 0
  }

  end(): void {
    this.stopped = true
    this.service.close().catch((error: unknown) => {
      if (!(error instanceof Killed || error instanceof Violation)) throw error
    })
    for (const succession of this.#successions) succession.close()
    this.#successions.clear()
  }

  /** Registers a backend after a valid HELLO, like the registry. `endpoint`: where the backend accepts relays. */
  welcome(
    name: string,
    end: StreamEnd,
    endpoint: SimulatedEndpoint,
    isHonest: () => boolean,
  ): { lane: SimulatedLane; slot: string; window: number | undefined; join(): void } {
    const { handBack, handoff, handBackWindow } = this.#config
    const window = handBack === 'off' || handoff === 'off' ? undefined : handBackWindow
    const slot = this.#slots.take('web')
    const order = new FrameOrder('broker')
    order.check({ type: 'hello' } as HelloFrame)
    const stream = controlStream(this.process, end)
    const control = new ControlConnection(stream, order, {
      frames: (frames) => link.read(frames),
      ended: (ended) => {
        this.#explain(ended.error)
        if (ended.error?.name === 'ProtocolError' && isHonest())
          this.#kernel.violate(`${name} is cut off without a fault: ${ended.error.message}`)
        link.controlEnded(ended)
      },
    })
    const lane = new SimulatedLane(this.process, `lane of ${name}`, this.#laneRoom, {
      sending: (clients) => {
        if (stream.socket.writableLength > 0)
          this.#kernel.violate(`an offer behind a control that is backed up`)
        this.#checkSend(clients)
      },
    })
    control.welcomed()
    const path = `${name}/${end.label}`
    this.endpoints.set(path, endpoint)
    const { ackDeadline, tokenTtl, maxStuck, failureLimit } = this.#config
    const { service } = this
    const link: BackendLink = new BackendLink(
      {
        ulid: name,
        slot,
        service: 'web',
        pid: 1,
        uid: 1,
        version: null,
        weight: 1,
        registeredAt: new Date(0),
        reconnect: path,
      },
      { control, lane },
      {
        ackDeadline,
        tokenTtl,
        maxStuck,
        failureLimit,
        heartbeatInterval: HEARTBEAT_INTERVAL,
        handBackWindow: window,
      },
      {
        handedOff: (connections) => service.handedOff(connections),
        relayed: (connection, upstream) => service.relayed(connection, upstream),
        returned: (connections, failure, by) => {
          if (this.#kernel.tracing) {
            const clients = connections.map((each) => this.#clientOf(each).order).join(', ')
            this.#kernel.trace(this.process.name, `has back (${failure.code}) clients ${clients}`)
          }
          // They had their turn and move on to the fallbacks; only held clients that were never offered are in order.
          for (const connection of connections) this.#clientOf(connection).offered = true
          service.returned(connections, failure, by)
        },
        relinquished: (connection) => {
          this.#clientOf(connection).relinquished = true
          service.relinquished(connection)
        },
        listenerOf: (fd, name) => service.listenerOf(fd, name),
        handBackRefusal: (entry, giver, before) => service.handBackRefusal(entry, giver, before),
        toResume: (hand) => service.toResume(hand),
        taken: (connections) => service.taken(connections),
        parked: (connections, giver) => service.parked(connections, giver),
        notTaken: (kind, reason, times, giver) => service.notTaken(kind, reason, times, giver),
        drainOver: (giver, counts) => service.drainOver(giver, counts),
        tokenRejected: (reason) => service.tokenRejected(reason),
        lateAnswer: () => service.lateAnswer(),
        reported: () => service.reported(),
        available: () => service.available(),
        resumable: (slot) => service.resumable(slot),
        ended: (ended) => {
          this.#slots.giveBack(slot)
          this.links.delete(entry)
          service.ended(ended)
        },
      },
      this.#logger,
      this.#os,
    )
    const entry = { link, socket: stream.socket, lane }
    this.links.add(entry)
    return { lane, slot, window, join: () => service.joined(link) }
  }

  /** The events that the poller would report now. */
  *pollEvents(): Iterable<() => void> {
    for (const [fd, watched] of this.#watched) {
      const events = eventsOf(watched.client) & (watched.events | EPOLLERR | EPOLLHUP)
      if (events === 0 || (watched.events === 0 && (events & EPOLLHUP) === 0)) continue
      yield () => {
        // EPOLLONESHOT: no further event until it is armed again.
        if ((watched.events & EPOLLONESHOT) !== 0) watched.events = 0
        watched.listener(events, fd)
        // The end of the poller's round.
        this.service.flush()
      }
    }
  }

  /** I4. */
  checkConservation(): void {
    const { service, accepted } = this
    const { taken, movedIn, movedOut, outcomes } = service.serviceStats
    const ended = Object.values(outcomes).reduce((sum, count) => sum + count, 0)
    const { held, inFlight, parkedCount } = service
    if (ended + held + parkedCount + inFlight + movedOut !== accepted + taken + movedIn) {
      this.#kernel.violate(
        `I4: ${accepted} accepted + ${taken} handed back + ${movedIn} moved in, but ${ended} ended + ${held} held + ${parkedCount} parked + ${inFlight} in flight + ${movedOut} moved out`,
      )
    }
    if (held + parkedCount !== this.#watched.size)
      this.#kernel.violate(`${held} held, ${parkedCount} parked, but ${this.#watched.size} watched`)
  }

  /** By the deadline, everything that a backend has not taken is read back. */
  checkReadBack(): void {
    const { kernel, nextDue = Infinity } = this.process
    // A broker that did not run reads first.
    if (nextDue <= kernel.now + READ_MS) return
    for (const { lane, link } of this.links) {
      if (link.stuck > this.#config.maxStuck)
        kernel.violate(`bound: ${link.stuck} are stuck at ${link.identity.ulid}`)
      // Timers have millisecond resolution, and are armed a moment before the step ends.
      const client = lane.overdue(this.#config.ackDeadline + 1)
      if (client !== undefined)
        kernel.violate(`deadline: ${client.label} is on the lane of ${link.identity.ulid} still`)
    }
  }

  #checkSend(clients: readonly Client[]): void {
    let last = Number.NEGATIVE_INFINITY
    for (const client of clients) {
      client.assertUnshared(this.process, 'offers')
      if (client.blocking) this.#kernel.violate(`I8: ${client.label} is offered while its socket blocks`)
      if (client.arrival < last)
        this.#kernel.violate(`order: ${client.label} is offered behind arrival ${last}`)
      last = client.arrival
      for (const { client: held } of this.#watched.values()) {
        if (held === client) this.#kernel.violate(`${client.label} is offered while the poller watches it`)
        // Parked ones do not wait.
        if (!client.offered && !held.parked && held.arrival < client.arrival)
          this.#kernel.violate(`order: ${client.label} is offered before ${held.label}, which waits`)
      }
    }
    for (const client of clients) client.offered = true
  }

  #watch(fd: number, events: number, listener: ReadinessListener) {
    const client = this.process.file(fd) as Client
    client.assertUnshared(this.process, 'holds')
    const watched: Watched = { client, listener, events }
    client.parked = (events & EPOLLIN) !== 0
    client.seenIdle = false
    this.process.call(`watches ${client.label}`, () => this.#watched.set(fd, watched))
    return {
      modify: (wanted: number) => {
        watched.events = wanted
      },
      remove: () => {
        if (this.#watched.get(fd) !== watched) return
        this.process.file(fd)
        this.process.call(`unwatches ${client.label}`, () => this.#watched.delete(fd))
      },
    }
  }

  #reject(connection: ClientConnection): void {
    const client = this.#clientOf(connection)
    client.assertUnshared(this.process, 'rejects')
    const { holdTimeout, maxHeld } = this.#config
    const waited = this.process.now() - connection.acceptedAt
    if (!this.stopped && (this.mustServe || (waited < holdTimeout && this.service.held < maxHeld)))
      this.#kernel.violate(`${client.label} is rejected after ${waited} ms with ${this.service.held} held`)
    client.touch(this.process)
    client.ended = true
    this.process.close(connection.fd.release())
  }

  #carry(connection: ClientConnection, upstream: Socket, onEnd: (carried: Carried) => void): Carried {
    const client = this.#clientOf(connection)
    const { pipe } = upstream as unknown as { pipe: RelayPipe }
    client.assertUnshared(this.process, 'relays')
    if (!client.ackedBy.has(pipe.endpoint.process))
      this.#kernel.violate(`I2: ${this.process.name} relays ${client.label} without an ACK`)
    client.touch(this.process)
    client.ended = true
    const fd = connection.fd.release()
    let open = true
    const carried = {
      bytes: { in: 0, out: 0 },
      close: () => {
        if (!open) return
        open = false
        this.process.close(fd)
        pipe.close()
        this.process.tasks.push(() => onEnd(carried))
      },
    }
    pipe.whenBroken(() => carried.close())
    return carried
  }

  /** Between two requests, closing a connection needs no answer. */
  #close(fd: number): void {
    const client = this.process.file(fd) as Client
    const { owner } = client
    if (
      this.#kernel.sabotage === 'what is given back is not closed first' &&
      owner !== undefined &&
      client.left.has(owner)
    )
      return
    const alone =
      client.owner === undefined && client.inFlight === 0 && client.holders.get(this.process) === 1
    const others = [...client.holders.keys()].filter(
      (holder) => holder !== this.process && !client.left.has(holder),
    )
    if (alone && others.length === 0 && client.returned && (client.unread === 0 || client.seenIdle))
      client.ended = true
    this.process.close(fd)
  }

  #dial(path: string, host: DialHost): PendingDial {
    const endpoint = this.endpoints.get(path) as SimulatedEndpoint
    const pipe = new RelayPipe(this.process, endpoint, host)
    this.pipes.add(pipe)
    return pipe.pending
  }

  #clientOf({ fd }: ClientConnection): Client {
    return this.process.file(fd.fd) as Client
  }

  #system(): Os {
    const { process } = this
    return {
      now: () => process.now(),
      hrtime: () => process.hrtime(),
      setTimeout: (callback, milliseconds) => process.setTimeout(callback, milliseconds),
      setInterval: (callback, milliseconds) => process.setInterval(callback, milliseconds),
      clear: (timer) => process.clear(timer),
      parallelism: 2,
      random: () => this.#random.next(),
      peek: (fd) => {
        const client = process.file(fd) as Client
        const { unread, finished, gone } = client
        client.seenIdle = unread === 0
        if (unread === 0 && !finished && !gone) return undefined
        return Buffer.from(unread > 0 && !gone ? 'G' : '')
      },
      peekMany: () => {
        throw new Error('no listener of the simulation has routes')
      },
      closeClients: (connections) => connections.forEach(({ fd }) => this.#close(fd.release())),
      peer: (fd) => {
        // Asked for when a parked connection arrives with its next request.
        ;(process.file(fd) as Client).arrival = nextArrival()
        return { family: 'IPv4', address: '127.0.0.1', port: 1 }
      },
      local: () => ({ family: 'IPv4', address: '127.0.0.1', port: 2 }),
      discard: (fds) => fds.forEach((fd) => process.close(fd)),
      isOfReserve: () => this.#random.chance(0.1),
      takeBack: (fd) => {
        const client = process.file(fd) as Client
        client.assertUnshared(process, 'takes back')
        if (this.#kernel.sabotage !== 'the flags of a giver stay') client.blocking = false
      },
      dial: () => this.#kernel.violate('no upstream here'),
      dialBackend: ({ path }, host) => this.#dial(path, host),
      carry: (connection, upstream, onEnd) => this.#carry(connection, upstream, onEnd),
    }
  }

  #log(): Logger {
    const say = (context: { reason?: string } | string, text?: string) => {
      if (!this.#kernel.tracing) return
      const message = typeof context === 'string' ? context : `${text} ${context.reason ?? ''}`
      this.#kernel.trace(this.process.name, `logs: ${message}`)
    }
    const logger = { info: say, warn: say, error: say, child: () => logger }
    return logger as unknown as Logger
  }

  /** A control connection may end only for reasons of the kernel or the protocol; any other error is a bug. */
  #explain(error: Error | undefined): void {
    if (error === undefined || error instanceof SocketError || error instanceof Killed) return
    if (error.name === 'ProtocolError') return
    this.#kernel.violate(`${this.process.name} failed: ${error.stack}`)
  }
}

function eventsOf({ unread, finished, gone }: Client): number {
  if (gone) return EPOLLHUP | EPOLLRDHUP | EPOLLIN
  return (finished ? EPOLLRDHUP | EPOLLIN : 0) | (unread > 0 ? EPOLLIN : 0)
}
