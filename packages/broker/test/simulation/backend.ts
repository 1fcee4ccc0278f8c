import {
  encodeFrame,
  type Frame,
  FrameDecoder,
  FrameOrder,
  HANDBACK_CAPABILITY,
  NO_KEEP_ALIVE_LIMIT,
  POST_WELCOME_LIMIT,
  ProtocolError,
  type WelcomeFrame,
} from '../../../backend-sdk/src/protocol/index.ts'
import { type Delivery, BrokerSession, type Departure } from '../../../backend-sdk/src/broker-session.ts'
import type { ServiceConfig } from '../../src/config/config.ts'
import { type Broker, HEARTBEAT_INTERVAL } from './broker.ts'
import { type Client, Duplicate } from './client.ts'
import { controlStream, type SimulatedSocket, type StreamEnd, streamPair } from './control.ts'
import { type Kernel, Process, Violation } from './kernel.ts'
import { type SimulatedBackendLane, STRAY_TOKEN } from './lane.ts'
import type { Random } from './random.ts'
import { SimulatedEndpoint } from './relay-pipe.ts'

/** Delay before it redials, in milliseconds. */
const REDIAL = 100

/** Sequence of an offer that was never made. */
const STRANGER = 1_000_000

/** One registration, for the scheduler. */
export interface BackendSession {
  readonly session: BrokerSession
  readonly socket: SimulatedSocket
  readonly lane: SimulatedBackendLane
}

/** An adopted connection, and the app's part of it. */
export interface Live {
  /** Undefined for a relay. */
  readonly fd: number | undefined
  readonly client: Client
  readonly described: Departure['described']
  /** The byte that was read and not consumed: the connection is not idle. */
  byte: number | undefined
  /** Closes it. */
  end(): void
}

/** A backend's process: the real `BrokerSession`s, and an app that keeps adopted connections for a while. */
export class Backend {
  readonly process: Process
  readonly sessions = new Set<BackendSession>()
  /** Adopted connections that have not ended. */
  readonly live: Live[] = []
  /** Set when the broker has sent WELCOME and the backend has not read it yet. */
  pending: (() => void) | undefined
  wantsRegistration = true
  state: 'up' | 'draining' | 'closed' = 'up'
  /** Whether the app refuses new connections. */
  overloaded = false
  /** Out of descriptors. */
  starved = false
  #lies = false
  #misbehaved = false
  #adopted = 0
  #ended = 0
  #registrations = 0
  readonly #kernel: Kernel
  readonly #config: ServiceConfig
  readonly #clientOf: (order: number) => Client
  readonly #random: Random
  readonly #note: (what: string) => void

  constructor(
    kernel: Kernel,
    name: string,
    config: ServiceConfig,
    host: { clientOf: (order: number) => Client; random: Random; note: (what: string) => void },
  ) {
    this.#clientOf = host.clientOf
    this.#random = host.random
    this.#note = host.note
    this.#kernel = kernel
    this.#config = config
    this.process = new Process(kernel, name)
  }

  /** It can take connections, or will be able to. */
  get healthy(): boolean {
    return this.process.alive && this.state === 'up'
  }

  /** Registers. The broker's half takes the broker's time; the kernel's half is immediate, as with connect(2). */
  dial(broker: Broker, controlRoom: number): void {
    const { process } = this
    this.wantsRegistration = false
    const [theirs, ours] = streamPair(`control ${process.name}#${++this.#registrations}`, controlRoom)
    this.#noteFrames(ours, theirs, broker)
    const endpoint = new SimulatedEndpoint(process)
    const stream = controlStream(process, ours)
    const welcomed = broker.welcome(process.name, theirs, endpoint, () => !this.#misbehaved)
    const { slot } = welcomed
    const lane = welcomed.lane.introduce(process, () => !this.starved)
    const { tokenTtl, ackDeadline } = this.#config
    const welcome: WelcomeFrame = {
      type: 'welcome',
      protocol: 1,
      capabilities: welcomed.window === undefined ? [] : [HANDBACK_CAPABILITY],
      broker: broker.process.name,
      backend: process.name,
      slot,
      service: 'web',
      heartbeatInterval: HEARTBEAT_INTERVAL,
      tokenTtl,
      ackDeadline,
      handBackWindow: welcomed.window ?? null,
      parkAfter: null,
    }
    this.pending = () => {
      this.pending = undefined
      const order = new FrameOrder('backend')
      order.check(welcome)
      const session = new BrokerSession(
        { control: stream, lane, relays: endpoint, welcome, order },
        {
          refusal: () => {
            if (this.state !== 'up') return 'BackendDraining'
            return this.overloaded ? 'BackendOverloaded' : undefined
          },
          adopt: (offer, delivery) => {
            const client = this.#clientOf(offer.connection.readUInt32BE(12))
            try {
              this.#adopt(delivery, client, offer, lane.ended && !theirs.open)
            } catch (error) {
              // Violations are recorded by the kernel. The session would take the exception for the app's and report it to no caller.
              if (!(error instanceof Violation)) throw error
            }
          },
          rebalance: () => {},
          ticketKeys: () => {},
          adoptAgain: (departures) => {
            try {
              for (const departure of departures) this.#adoptAgain(departure)
            } catch (error) {
              if (!(error instanceof Violation)) throw error
            }
          },
          resumes: () => [],
          handBackRoom: () => {},
          settled: () => {},
          adopted: () => this.#adopted,
          rejected: (reason) => this.#kernel.trace(process.name, `has refused: ${reason}`),
          stats: () => ({ adopted: this.#adopted, closed: this.#ended, lag: 0 }),
          drainRequested: () => this.drain(),
          reconnectRequested: () => {
            this.wantsRegistration = this.state === 'up'
          },
          ended: () => this.#redial(),
          closed: () => this.sessions.delete(entry),
        },
        process,
      )
      const entry = { session, socket: stream.socket, lane }
      this.sessions.add(entry)
    }
    welcomed.join()
  }

  drain(): void {
    if (this.state !== 'up') return
    this.state = 'draining'
    for (const { session } of this.sessions) session.announceDrain(null, 'simulated')
  }

  get #session(): BrokerSession | undefined {
    return [...this.sessions].findLast(({ session }) => session.handBackRoom > 0)?.session
  }

  /** Connections that could be handed back now. */
  get idle(): readonly Live[] {
    if (this.#session === undefined) return []
    return this.live.filter(
      ({ fd, byte, client }) => fd !== undefined && byte === undefined && client.owner === this.process,
    )
  }

  /** Hands back up to `count` idle connections. */
  handBack(count: number): void {
    const session = this.#session
    if (session === undefined) return
    const leaving = this.idle.slice(0, Math.min(count, session.handBackRoom))
    const keepAlive = this.#random.pick([300, 2000, NO_KEEP_ALIVE_LIMIT])
    const departures = leaving.map(({ client, described }) => ({
      fd: new Duplicate(this.process, client, () => this.state === 'closed'),
      described,
      keepAlive,
      givenBack: 0,
    }))
    const sent = session.handBack(departures, (index) =>
      this.#letGo(leaving[index] as Live, departures[index] as Departure),
    )
    for (const { fd } of departures.slice(sent)) fd.close()
  }

  #letGo(connection: Live, { fd }: Departure): Buffer {
    const { client } = connection
    const { sabotage } = this.#kernel
    if (sabotage === 'a byte is read between the check and letting go' && client.unread > 0)
      client.readOne(this.process)
    // An app may have made the socket blocking, by whatever means.
    if (this.#random.chance(0.2)) client.blocking = true
    this.live.splice(this.live.indexOf(connection), 1)
    this.#ended += 1
    client.left.add(this.process)
    this.process.close(connection.fd as number)
    if (sabotage === 'a giver does not keep a duplicate') this.process.close(fd.release())
    this.#note('handed back')
    return Buffer.alloc(0)
  }

  #adoptAgain({ fd, described }: Departure): void {
    if (!this.process.alive || fd.closed) return
    const client = this.#clientOf(described.connection.readUInt32BE(12))
    this.#adopted += 1
    this.#note('adopted again')
    client.comeBack(this.process)
    this.#keep(fd.release(), client, described)
  }

  /** An app's step: reads a byte of a request, or answers one. */
  serve(connection: Live): void {
    const { client } = connection
    if (connection.byte === undefined) connection.byte = client.readOne(this.process)
    else {
      client.consume(this.process, connection.byte)
      connection.byte = undefined
    }
  }

  /** All adopted connections have ended. */
  finishDrain(): void {
    for (const { session } of this.sessions) session.announceDrained()
    this.close()
  }

  close(): void {
    this.state = 'closed'
    for (const { session } of this.sessions) session.close()
  }

  /** Puts a descriptor on its lane that no HANDBACK names, and goes on with the connection. */
  #stray(): void {
    const found = this.live.find(({ fd, client }) => fd !== undefined && client.owner === this.process)
    if (found?.fd === undefined) return
    for (const { lane } of this.sessions) {
      found.client.strays += lane.handBack([{ bytes: STRAY_TOKEN, fd: found.fd }])
      return
    }
  }

  /** Sends what no honest backend sends. After frames of that kind its output cannot be searched for ACKs. */
  misbehave(kind: 'garbage' | 'stranger' | 'stray'): void {
    this.#misbehaved = true
    if (kind === 'stray') return this.#stray()
    this.#lies = true
    for (const { socket } of this.sessions) {
      if (socket.destroyed) continue
      const connection = Buffer.alloc(16)
      const bytes =
        kind === 'garbage'
          ? Buffer.from([0, 0, 0, 0])
          : encodeFrame({ type: 'ack', acks: [{ sequence: STRANGER, connection }] })
      socket.write(bytes, () => undefined)
    }
  }

  endOne(index: number): void {
    const [connection] = this.live.splice(index, 1)
    this.#ended += 1
    connection?.end()
  }

  /** `alone`: no other process can ever get the connection. */
  #adopt(delivery: Delivery, client: Client, described: Departure['described'], alone: boolean): void {
    const { process } = this
    // The results of a dead process have no effect.
    if (!process.alive) return
    this.#adopted += 1
    if (typeof delivery !== 'number') {
      this.#kernel.trace(process.name, `has the relay of ${client.label}`)
      const { socket } = delivery
      this.live.push({ fd: undefined, client, described, byte: undefined, end: () => void socket.destroy() })
      return
    }
    const found = process.file(delivery)
    if (found !== client)
      this.#kernel.violate(`${process.name} was offered ${client.label} and adopts ${found.label}`)
    if (!client.ackedBy.has(process) && !alone && !this.#lies)
      this.#kernel.violate(`I2: ${process.name} adopts ${client.label}, and the kernel has no ACK of it`)
    client.touch(process)
    this.#keep(delivery, client, described)
  }

  #keep(fd: number, client: Client, described: Departure['described']): void {
    const { process } = this
    const end = () => {
      client.ended ||= client.owner === process
      process.close(fd)
    }
    this.live.push({ fd, client, described, byte: undefined, end })
  }

  /** Reads what both sides have written to the kernel: ACK and TAKEN change the owner there. */
  #noteFrames(ours: StreamEnd, theirs: StreamEnd, broker: Broker): void {
    const handedBack = new Map<number, Client>()
    tap(ours, (frame) => {
      if (frame.type === 'ack') {
        for (const { connection, sequence } of frame.acks) {
          if (sequence === STRANGER) continue
          const client = this.#clientOf(connection.readUInt32BE(12))
          client.ackedBy.add(this.process)
          client.spent.add(broker.process)
        }
      } else if (frame.type === 'handback') {
        for (const { sequence, connection } of frame.entries)
          handedBack.set(sequence, this.#clientOf(connection.readUInt32BE(12)))
      }
    })
    tap(theirs, (frame) => {
      if (frame.type === 'taken')
        for (const sequence of frame.sequences) handedBack.get(sequence)?.taken(broker.process)
      if (frame.type !== 'given_back') return
      for (const { sequence } of frame.entries) {
        this.#note('given back')
        const client = handedBack.get(sequence)
        if (client?.holders.has(broker.process))
          this.#kernel.violate(`M4: ${client.label} is given back, and ${broker.process.name} holds it`)
      }
    })
  }

  #redial(): void {
    if (this.state !== 'up') return
    this.process.setTimeout(() => {
      this.wantsRegistration ||=
        this.state === 'up' && ![...this.sessions].some(({ session }) => session.open)
    }, REDIAL)
  }
}

/** Decodes what the kernel has accepted from `end`. */
function tap(end: StreamEnd, listener: (frame: Frame) => void): void {
  const decoder = new FrameDecoder({ limit: POST_WELCOME_LIMIT })
  end.tap = (bytes) => {
    let frames: readonly Frame[]
    try {
      frames = decoder.push(bytes)
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      end.tap = undefined
      frames = error.frames
    }
    for (const frame of frames) listener(frame)
  }
}
