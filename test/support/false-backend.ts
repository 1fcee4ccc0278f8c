import {
  type Frame,
  FrameDecoder,
  encodeFrame,
  type HelloFrame,
  type Offer,
  PRE_WELCOME_LIMIT,
  type RefusedFrame,
  type WelcomeFrame,
} from '@baton/backend-sdk/protocol'
import { connectUnix, OwnedFd, ReceiveBatch, receiveExact, send, sharedPoller } from '@baton/native-sendmsg'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { Wire } from './wire.ts'

/** The HELLO of an honest backend. */
export function hello(service: string, over: Partial<HelloFrame> = {}): HelloFrame {
  return {
    type: 'hello',
    protocol: 1,
    capabilities: [],
    service,
    version: null,
    weight: 1,
    pid: process.pid,
    backend: null,
    sdk: 'by hand',
    secret: null,
    reconnect: null,
    draining: null,
    ...over,
  }
}

/** Sends HELLO and reads the broker's answer, with any descriptors. The caller owns all descriptors. */
export async function greet(
  control: string,
  frame: HelloFrame | Buffer,
): Promise<{ answer: Frame; connection: OwnedFd; lane: OwnedFd | undefined }> {
  const connection = connectUnix(control)
  const bytes = Buffer.isBuffer(frame) ? frame : encodeFrame(frame)
  for (let sent = 0; sent < bytes.length;) sent += send(connection.fd, bytes.subarray(sent))
  const { answer, lane } = await takeAnswer(connection)
  return { answer, connection, lane }
}

async function takeAnswer(connection: OwnedFd): Promise<{ answer: Frame; lane: OwnedFd | undefined }> {
  const prefix = await receiveExact(sharedPoller(), connection.fd, 4, { maxFds: 1 })
  const length = prefix.bytes.readUInt32LE(0)
  const body = await receiveExact(sharedPoller(), connection.fd, length, { maxFds: 1 })
  const decoder = new FrameDecoder({ limit: PRE_WELCOME_LIMIT })
  const [answer] = [...decoder.push(prefix.bytes), ...decoder.push(body.bytes)]
  if (answer === undefined) throw new Error('the broker answered with an unknown frame')
  return { answer, lane: [...prefix.fds, ...body.fds][0] }
}

/** The broker's REFUSED to this HELLO. */
export async function refusal(control: string, frame: HelloFrame): Promise<RefusedFrame> {
  const { answer, connection, lane } = await greet(control, frame)
  connection.close()
  lane?.close()
  if (answer.type !== 'refused') throw new Error(`the broker answered ${answer.type}, not refused`)
  return answer
}

/** A scripted backend, registered with a real broker, that can break every rule. */
export class FalseBackend {
  readonly wire: Wire
  readonly welcome: WelcomeFrame
  readonly lane: OwnedFd
  readonly #arena = new ReceiveBatch(64, 16)
  readonly #taken: OwnedFd[] = []

  /** Takes ownership of both descriptors. */
  constructor(t: Test, connection: OwnedFd, lane: OwnedFd, welcome: WelcomeFrame) {
    this.wire = new Wire(t, connection).read()
    this.lane = lane
    this.welcome = welcome
    t.teardown(() => this.die())
  }

  static async register(t: Test, control: string, frame: HelloFrame | Buffer): Promise<FalseBackend> {
    const { answer, connection, lane } = await greet(control, frame)
    if (answer.type !== 'welcome' || lane === undefined) {
      throw new Error(`not registered: ${answer.type === 'refused' ? answer.message : answer.type}`)
    }
    return new FalseBackend(t, connection, lane, answer)
  }

  /**
   * Like `register`, and it answers the broker's probes: it stays ready, however long the test takes. One that does not is not chosen any more
   * four seconds later.
   */
  static async responsive(t: Test, control: string, frame: HelloFrame): Promise<FalseBackend> {
    const peer = await FalseBackend.register(t, control, frame)
    peer.wire.answersProbes = true
    return peer
  }

  /** Like `register`, sending HELLO one byte at a time. */
  static async trickle(t: Test, control: string, frame: HelloFrame): Promise<FalseBackend> {
    const connection = connectUnix(control)
    for (const byte of encodeFrame(frame)) {
      send(connection.fd, Buffer.from([byte]))
      await new Promise(setImmediate)
    }
    const { answer, lane } = await takeAnswer(connection)
    if (answer.type !== 'welcome' || lane === undefined) throw new Error(`not registered: ${answer.type}`)
    return new FalseBackend(t, connection, lane, answer)
  }

  /** The first `count` offers, once they have arrived. */
  async offers(count: number): Promise<Offer[]> {
    const all = () => this.wire.all('offer').flatMap(({ offers }) => offers)
    await eventually(
      () => all().length >= count,
      () => `${count} offers; there are ${all().length}`,
    )
    return all().slice(0, count)
  }

  /** Takes the next `count` messages off the lane; their descriptors are closed with this backend at the latest. */
  take(count: number): { token: Buffer; fd: OwnedFd }[] {
    const { messages } = this.#arena.receive(this.lane.fd, count)
    if (messages.length !== count) throw new Error(`the lane held ${messages.length} messages, not ${count}`)
    return messages.map(({ bytes, fds }) => {
      if (fds.length !== 1) throw new Error(`a message with ${fds.length} descriptors`)
      const fd = new OwnedFd(fds[0] as number)
      this.#taken.push(fd)
      return { token: bytes, fd }
    })
  }

  /** Takes and closes the rest of the lane. `ended`: the broker has closed the other end. */
  restOfLane(): { count: number; ended: boolean } {
    const { messages, ended } = this.#arena.receive(this.lane.fd, 1000)
    for (const { fds } of messages) for (const fd of fds) new OwnedFd(fd).close()
    return { count: messages.length, ended }
  }

  ack(...offers: Offer[]): void {
    this.wire.write({
      type: 'ack',
      acks: offers.map(({ sequence, connection }) => ({ sequence, connection })),
    })
  }

  nack({ sequence, token }: Offer): void {
    this.wire.write({ type: 'nack', nacks: [{ sequence, reason: 'TokenNotPending', token }] })
  }

  /** Sends the broker a probe: once this resolves, everything written before has been handled. */
  async probe(): Promise<void> {
    const id = Math.floor(Math.random() * 2 ** 40)
    this.wire.write({ type: 'heartbeat', id, reply: false })
    await this.wire.frame('heartbeat', (frame) => frame.reply && frame.id === id)
  }

  /** Closes everything, taken descriptors first (I3 requires this of an honest backend). May be called twice. */
  die(): void {
    for (const fd of this.#taken) fd.close()
    this.lane.close()
    this.wire.close()
  }
}

/** Answers a client on a taken connection, like a server that adopted it. */
export function answerOn(fd: OwnedFd, body: string): void {
  send(fd.fd, Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`))
}
