import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import {
  type Frame,
  HANDBACK_CAPABILITY,
  type HandBack,
  type HelloFrame,
  type NackFrame,
  type Offer,
  encodeFrame,
  ulidFromBytes,
  type WelcomeFrame,
} from '@baton/backend-sdk/protocol'
import {
  acceptOne,
  EPOLLIN,
  listenUnix,
  OwnedFd,
  poll,
  POLLIN,
  ReceiveBatch,
  sendMessage,
  sharedPoller,
  socketpair,
} from '@baton/native-sendmsg'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { temporaryFolder } from './process.ts'
import { Wire } from './wire.ts'

const BROKER_ID = '01ARZ3NDEKTSV4RRFFQ69G5FAV'

/** A scripted broker that can break every rule: it listens on a control socket, and the test decides its answers. */
export class FalseBroker {
  readonly control: string
  readonly #t: Test
  readonly #accepted: Wire[] = []
  #registered = 0

  constructor(t: Test) {
    this.#t = t
    this.control = join(temporaryFolder(t), 'control.sock')
    const listening = listenUnix({ path: this.control })
    const watch = sharedPoller().add(listening.fd, EPOLLIN, () => {
      for (let next = acceptOne(listening.fd); next; next = acceptOne(listening.fd)) {
        this.#accepted.push(new Wire(t, new OwnedFd(next.fd)))
      }
    })
    t.teardown(() => {
      watch.remove()
      listening.close()
    })
  }

  /** Connections not yet taken by `dialled` and `registered`. */
  get pending(): number {
    return this.#accepted.length
  }

  /** The next backend that connects, with its HELLO. */
  async dialled(): Promise<{ wire: Wire; hello: HelloFrame }> {
    await eventually(() => this.#accepted.length > 0, 'a backend dials')
    const wire = (this.#accepted.shift() as Wire).read()
    return { wire, hello: await wire.frame('hello') }
  }

  /** The next backend that connects, after registering it. */
  async registered(options: { tokenTtl?: number; takesBack?: TakesBack } = {}): Promise<Registered> {
    const { wire, hello } = await this.dialled()
    const { tokenTtl = 5000, takesBack } = options
    return new Registered(this.#t, wire, hello, ++this.#registered, tokenTtl, takesBack)
  }
}

/** How connections may be handed back; see `WelcomeFrame`. */
export type TakesBack = Pick<WelcomeFrame, 'handBackWindow' | 'parkAfter'>

/** A registered backend with a lane. The test sends everything on the lane and on control. */
export class Registered {
  readonly wire: Wire
  readonly hello: HelloFrame
  readonly id: string
  readonly tokenTtl: number
  /** The end for sending descriptors. */
  readonly lane: OwnedFd
  /** The broker's own copy of the backend's end. */
  readonly receiveEnd: OwnedFd
  /** Every token that was on the wire. */
  readonly tokens: Buffer[] = []
  #sequence = 0

  constructor(
    t: Test,
    wire: Wire,
    hello: HelloFrame,
    number: number,
    tokenTtl: number,
    takesBack?: TakesBack,
  ) {
    this.wire = wire
    this.hello = hello
    this.tokenTtl = tokenTtl
    this.id = hello.backend ?? ulidFromBytes(randomBytes(16))
    ;[this.lane, this.receiveEnd] = socketpair('seqpacket')
    t.teardown(() => {
      this.lane.close()
      this.receiveEnd.close()
    })
    const welcome: Frame = {
      type: 'welcome',
      protocol: 1,
      capabilities: takesBack === undefined ? [] : [HANDBACK_CAPABILITY],
      broker: BROKER_ID,
      backend: this.id,
      slot: `web-${number}`,
      service: hello.service,
      heartbeatInterval: 1000,
      tokenTtl,
      ackDeadline: 500,
      handBackWindow: null,
      parkAfter: null,
      ...takesBack,
    }
    sendMessage(wire.fd.fd, { bytes: encodeFrame(welcome), fds: [this.receiveEnd.fd] })
  }

  /** An honest offer, except for the fields in `over`. */
  offer(over: Partial<Offer> = {}): Offer {
    const token = over.token ?? randomBytes(16)
    this.tokens.push(Buffer.from(token))
    return {
      sequence: ++this.#sequence,
      token,
      connection: randomBytes(16),
      deadline: process.hrtime.bigint() + BigInt(Math.round(this.tokenTtl * 1e6)),
      kind: 'descriptor',
      listener: 'web',
      meta: undefined,
      resumed: undefined,
      ...over,
    }
  }

  /** Sends OFFER, the doorbell. */
  ring(...offers: Offer[]): void {
    this.wire.write({ type: 'offer', offers })
  }

  /** Sends a message on the lane. */
  post(bytes: Buffer, ...fds: number[]): void {
    if (bytes.length === 16) this.tokens.push(Buffer.from(bytes))
    sendMessage(this.lane.fd, { bytes, fds })
  }

  async acked(offer: Offer): Promise<void> {
    await this.wire.frame('ack', ({ acks }) => acks.some(({ sequence }) => sequence === offer.sequence))
  }

  /** The NACK for this token, which is the lane's, zero-padded. */
  async nacked(token: Buffer): Promise<NackFrame['nacks'][number] & { at: number }> {
    const padded = Buffer.concat([token, Buffer.alloc(16)], 16)
    const matching = () =>
      this.wire.frames.flatMap(({ frame, at }) =>
        frame.type === 'nack'
          ? frame.nacks.filter((nack) => padded.equals(nack.token)).map((nack) => ({ ...nack, at }))
          : [],
      )
    await eventually(() => matching().length > 0, 'a NACK')
    const [nack] = matching() as [NackFrame['nacks'][number] & { at: number }]
    return nack
  }

  /**
   * Resolves once the backend has looked through its lane `count` times more. It sends STATS each time, and also soon after a
   * connection has closed: for those that the test has just closed, two more are waited for.
   */
  async sweeps(count: number): Promise<void> {
    await this.wire.more('stats', count + 2)
  }

  /** The first `count` hand-backs, once they have arrived. */
  async handedBack(count: number): Promise<HandBack[]> {
    const all = () => this.wire.all('handback').flatMap(({ entries }) => entries)
    await eventually(
      () => all().length >= count,
      () => `${count} hand-backs; there are ${all().length}`,
    )
    return all()
  }

  /** Takes the connections that were handed back off the lane; the caller owns them. */
  takeBack(count: number): OwnedFd[] {
    const { messages } = new ReceiveBatch(64, 16).receive(this.lane.fd, count)
    return messages.flatMap(({ fds }) => fds.map((fd) => new OwnedFd(fd)))
  }

  get nacks(): string[] {
    return this.wire.all('nack').flatMap(({ nacks }) => nacks.map(({ reason }) => reason))
  }

  /** Resolves once the backend has taken everything on the lane. */
  async laneEmpty(): Promise<void> {
    await eventually(
      () => (poll(this.receiveEnd.fd, POLLIN) & POLLIN) === 0,
      'the backend takes everything on the lane',
    )
  }

  /** Closes everything without another message, like a killed broker: the lane first, control last. */
  die(): void {
    this.receiveEnd.close()
    this.lane.close()
    this.wire.close()
  }
}
