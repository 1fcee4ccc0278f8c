import {
  encodeFrame,
  type Frame,
  FrameDecoder,
  FrameOrder,
  POST_WELCOME_LIMIT,
  ProtocolError,
  type WelcomeFrame,
} from '../../../backend-sdk/src/protocol/index.ts'
import { type Delivery, BrokerSession } from '../../../backend-sdk/src/broker-session.ts'
import type { ServiceConfig } from '../../src/config/config.ts'
import { type Broker, HEARTBEAT_INTERVAL } from './broker.ts'
import type { Client } from './client.ts'
import { controlStream, type SimulatedSocket, type StreamEnd, streamPair } from './control.ts'
import { type Kernel, Process, Violation } from './kernel.ts'
import type { SimulatedBackendLane } from './lane.ts'
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

/** A backend's process: the real `BrokerSession`s, and an app that keeps adopted connections for a while. */
export class Backend {
  readonly process: Process
  readonly sessions = new Set<BackendSession>()
  /** Functions that close the adopted connections that have not ended. */
  readonly live: (() => void)[] = []
  /** Set when the broker has sent WELCOME and the backend has not read it yet. */
  pending: (() => void) | undefined
  wantsRegistration = true
  state: 'up' | 'draining' | 'closed' = 'up'
  /** Whether the app refuses new connections. */
  overloaded = false
  /** Out of descriptors. */
  starved = false
  #lies = false
  #adopted = 0
  #ended = 0
  #registrations = 0
  readonly #kernel: Kernel
  readonly #config: ServiceConfig
  readonly #clientOf: (order: number) => Client

  constructor(kernel: Kernel, name: string, config: ServiceConfig, clientOf: (order: number) => Client) {
    this.#clientOf = clientOf
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
    this.#noteAcks(ours)
    const endpoint = new SimulatedEndpoint(process)
    const stream = controlStream(process, ours)
    const welcomed = broker.welcome(process.name, theirs, endpoint)
    const { slot } = welcomed
    const lane = welcomed.lane.introduce(process, () => !this.starved)
    const { tokenTtl, ackDeadline } = this.#config
    const welcome: WelcomeFrame = {
      type: 'welcome',
      protocol: 1,
      capabilities: [],
      broker: broker.process.name,
      backend: process.name,
      slot,
      service: 'web',
      heartbeatInterval: HEARTBEAT_INTERVAL,
      tokenTtl,
      ackDeadline,
      handBackWindow: null,
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
              this.#adopt(delivery, client, lane.ended && !theirs.open)
            } catch (error) {
              // Violations are recorded by the kernel. The session would take the exception for the app's and report it to no caller.
              if (!(error instanceof Violation)) throw error
            }
          },
          rebalance: () => {},
          adoptAgain: () => {},
          resumes: () => [],
          handBackRoom: () => {},
          settled: () => {},
          adopted: () => this.#adopted,
          rejected: (reason) => this.#kernel.trace(process.name, `has refused: ${reason}`),
          stats: () => ({ adopted: this.#adopted, closed: this.#ended, lag: 0 }),
          drainRequested: () => this.drain(),
          reconnectRequested: () => undefined,
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

  /** All adopted connections have ended. */
  finishDrain(): void {
    for (const { session } of this.sessions) session.announceDrained()
    this.close()
  }

  close(): void {
    this.state = 'closed'
    for (const { session } of this.sessions) session.close()
  }

  /** Sends what no honest backend sends: from then on its output cannot be searched for ACKs. */
  misbehave(kind: 'garbage' | 'stranger'): void {
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
    const [end] = this.live.splice(index, 1)
    this.#ended += 1
    end?.()
  }

  /** `alone`: no other process can ever get the connection. */
  #adopt(delivery: Delivery, client: Client, alone: boolean): void {
    const { process } = this
    // The results of a dead process have no effect.
    if (!process.alive) return
    this.#adopted += 1
    if (typeof delivery !== 'number') {
      this.#kernel.trace(process.name, `has the relay of ${client.label}`)
      this.live.push(() => delivery.socket.destroy())
      return
    }
    const found = process.file(delivery)
    if (found !== client)
      this.#kernel.violate(`${process.name} was offered ${client.label} and adopts ${found.label}`)
    if (!client.ackedBy.has(process) && !alone && !this.#lies)
      this.#kernel.violate(`I2: ${process.name} adopts ${client.label}, and the kernel has no ACK of it`)
    client.touch(process)
    this.live.push(() => process.close(delivery))
  }

  /** Reads what this process has written to the kernel. */
  #noteAcks(end: StreamEnd): void {
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
      for (const frame of frames) {
        if (frame.type !== 'ack') continue
        for (const { connection, sequence } of frame.acks)
          if (sequence !== STRANGER) this.#clientOf(connection.readUInt32BE(12)).ackedBy.add(this.process)
      }
    }
  }

  #redial(): void {
    if (this.state !== 'up') return
    this.process.setTimeout(() => {
      this.wantsRegistration = this.state === 'up'
    }, REDIAL)
  }
}
