import { NativeError } from '@baton/native-sendmsg'
import type { BackendLane } from '../../../backend-sdk/src/backend-lane.ts'
import type { HandoffLane, LaneArrival, LaneMessage } from '../../src/worker/backend/lane.ts'
import { Client } from './client.ts'
import { File, type Process } from './kernel.ts'

const EAGAIN = 11

/** Of a descriptor that no HANDBACK names. */
export const STRAY_TOKEN = Buffer.alloc(16, 7)

interface Message {
  readonly token: Buffer
  readonly client: Client
  /** When the broker was first seen to have moved on to something else. */
  since: number | undefined
}

/** The queue of a seqpacket socket: a message stays until it is received or no process can receive it. */
class ReceiveEnd extends File {
  readonly queue: Message[] = []

  /** Atomic: exactly one of the holders gets it. */
  take(): Message | undefined {
    const message = this.queue.shift()
    if (message === undefined) return undefined
    message.client.inFlight -= 1
    if (message.token.equals(STRAY_TOKEN)) message.client.strays -= 1
    return message
  }

  override released(): void {
    for (let message = this.take(); message !== undefined; message = this.take()) {
      if (!message.client.open) message.client.released(undefined)
    }
  }
}

/** The broker's own end, with what the backend has sent the other way. */
class SendEnd extends ReceiveEnd {
  closed = false

  override released(): void {
    this.closed = true
    super.released()
  }
}

/** The simulation's checks of each send, and when they run. */
export interface LaneWitness {
  sending(clients: readonly Client[]): void
}

/** Both of the broker's descriptors of one lane. */
export class SimulatedLane implements HandoffLane {
  readonly #broker: Process
  readonly #witness: LaneWitness
  readonly #room: number
  readonly #sendEnd: SendEnd
  readonly #receiveEnd: ReceiveEnd
  readonly #fds: readonly [send: number, receive: number]

  constructor(broker: Process, label: string, room: number, witness: LaneWitness) {
    this.#broker = broker
    this.#witness = witness
    this.#room = room
    this.#sendEnd = new SendEnd(`${label}, send end`)
    this.#receiveEnd = new ReceiveEnd(`${label}, receive end`)
    this.#fds = [broker.open(this.#sendEnd), broker.open(this.#receiveEnd)]
  }

  send(messages: readonly LaneMessage[]): { sent: number; error?: NativeError } {
    const clients = messages.map(({ fd }) => this.#broker.file(fd) as Client)
    this.#witness.sending(clients)
    for (const [index, client] of clients.entries()) {
      const token = Buffer.from((messages[index] as LaneMessage).bytes)
      const went = this.#broker.call(`sends ${client.label} on ${this.#sendEnd.label}`, () => {
        if (this.#receiveEnd.queue.length >= this.#room) return false
        client.inFlight += 1
        this.#receiveEnd.queue.push({ token, client, since: undefined })
        return true
      })
      if (!went) return { sent: index, error: new NativeError('sendmmsg', EAGAIN, {}) }
    }
    return { sent: messages.length }
  }

  readBack(): { tokens: Buffer[] } {
    if (this.#broker.kernel.sabotage === 'a read-back leaves the message on the lane')
      return { tokens: this.#receiveEnd.queue.map(({ token }) => token) }
    const tokens: Buffer[] = []
    for (;;) {
      const got = this.#broker.call('reads the lane back', () => {
        const message = this.#receiveEnd.take()
        return message && { token: message.token, fd: this.#broker.open(message.client) }
      })
      if (got === undefined) return { tokens }
      this.#broker.close(got.fd)
      tokens.push(got.token)
    }
  }

  takeHandBacks(max: number): LaneArrival[] {
    const arrivals: LaneArrival[] = []
    while (arrivals.length < max) {
      const arrival = this.#broker.call(`takes a connection from ${this.#sendEnd.label}`, () => {
        const message = this.#sendEnd.take()
        if (message === undefined) return undefined
        const fds = [this.#broker.open(message.client)]
        return { bytes: message.token, length: message.token.length, fds, controlTruncated: false }
      })
      if (arrival === undefined) break
      arrivals.push(arrival)
    }
    return arrivals
  }

  /** A message that has been on the lane for longer than `milliseconds`. */
  overdue(milliseconds: number): Client | undefined {
    const { now } = this.#broker.kernel
    return this.#receiveEnd.queue.find((message) => {
      message.since ??= now
      return message.since + milliseconds < now
    })?.client
  }

  close(): void {
    const [send, receive] = this.#fds
    this.#broker.close(receive)
    this.#broker.close(send)
  }

  /** The backend's end, as sent with WELCOME. */
  introduce(backend: Process, hasRoom: () => boolean): SimulatedBackendLane {
    return new SimulatedBackendLane(backend, this.#receiveEnd, this.#sendEnd, hasRoom, this.#room)
  }
}

export class SimulatedBackendLane implements BackendLane {
  readonly #process: Process
  readonly #receiveEnd: ReceiveEnd
  readonly #sendEnd: SendEnd
  readonly #fd: number
  readonly #hasRoom: () => boolean
  readonly #room: number
  #onEnd: (() => void) | undefined

  /** @param hasRoom whether the process may open descriptors: otherwise messages arrive without them */
  constructor(
    process: Process,
    receiveEnd: ReceiveEnd,
    sendEnd: SendEnd,
    hasRoom: () => boolean,
    room: number,
  ) {
    this.#room = room
    this.#process = process
    this.#receiveEnd = receiveEnd
    this.#sendEnd = sendEnd
    this.#hasRoom = hasRoom
    this.#fd = process.open(receiveEnd)
  }

  take(max: number): ReturnType<BackendLane['take']> {
    // recvmmsg returns a short count when the queue is empty; the messages it has received belong to the caller.
    const messages = this.#process.call(`takes up to ${max} from its lane`, () => {
      const taken: ReturnType<BackendLane['take']>['messages'] = []
      while (taken.length < max) {
        const message = this.#receiveEnd.take()
        if (message === undefined) break
        const { token, client } = message
        const room = this.#hasRoom()
        const fds = room ? [this.#process.open(client)] : []
        if (!client.open) client.released(this.#process)
        taken.push({ bytes: token, length: token.length, fds, controlTruncated: !room })
      }
      return taken
    })
    return { messages }
  }

  handBack(connections: readonly { readonly bytes: Buffer; readonly fd: number }[]): number {
    for (const [index, { bytes, fd }] of connections.entries()) {
      const client = this.#process.file(fd) as Client
      const went = this.#process.call(`hands ${client.label} back on its lane`, () => {
        if (this.#sendEnd.closed || this.#sendEnd.queue.length >= this.#room) return false
        client.inFlight += 1
        this.#sendEnd.queue.push({ token: Buffer.from(bytes), client, since: undefined })
        return true
      })
      if (!went) return index
    }
    return connections.length
  }

  discard(fd: number): void {
    if (this.#process.kernel.sabotage !== 'a refused descriptor stays open') this.#process.close(fd)
  }

  get ended(): boolean {
    return this.#sendEnd.closed
  }

  whenEnded(listener: () => void): () => void {
    this.#onEnd = listener
    return () => {
      this.#onEnd = undefined
    }
  }

  /** The poller has an event to report. */
  get awaited(): boolean {
    return this.#onEnd !== undefined && this.ended
  }

  report(): void {
    const listener = this.#onEnd
    this.#onEnd = undefined
    listener?.()
  }

  close(): void {
    this.#process.close(this.#fd)
  }
}
