import {
  type BorrowedFd,
  dup,
  EPOLLIN,
  EPOLLONESHOT,
  EPOLLOUT,
  NativeError,
  OwnedFd,
  type Poller,
  receiveMessage,
  sendMessage,
  ShortSendError,
  type Watch,
} from '@baton/native-sendmsg'

/** What goes over a channel: told apart by `type`, whose rules are the two ends' own. */
export interface Message {
  readonly type: string
}

export interface ChannelHost<In extends Message> {
  /** The descriptors are the host's from now on. */
  message(message: In, fds: readonly OwnedFd[]): void
  /** The other end is gone, or what it says makes no sense (`error`). Called once, and never after `close()`. */
  ended(error: Error | undefined): void
  /**
   * Asked before each read: whether there are descriptors enough for a message (the kernel drops those for which there are not).
   * Until there are, the other end keeps them. For channels on which this end says nothing; always, if it is left out.
   */
  room?(): boolean
}

/** First byte of a frame: whether descriptors ride on it. */
const PLAIN = 0x4a
const WITH_DESCRIPTORS = 0x46

/** u32le length of what follows, u8 kind, u8 number of descriptors. */
const HEADER_BYTES = 6
const LENGTH_BYTES = 4

/** As many as one sendmsg can carry with room to spare (253). */
export const MAX_DESCRIPTORS = 200

/** A snapshot of all metrics of a broker with many services is some hundred kB. */
const MAX_FRAME_BYTES = 64 * 1024 * 1024
const CHUNK = 64 * 1024

/** When the kernel holds too many descriptors in flight, nobody tells when there is room again: milliseconds. */
const RETRY = 10
/** Nor when somebody has closed a descriptor. Less than a listener's pause, so that who came first is taken first. */
const ROOM_PAUSE_MS = 20

interface Outgoing {
  bytes: Buffer
  /** The channel's own, until the first byte has gone. */
  fds: OwnedFd[]
}

/**
 * JSON messages with descriptors between two processes of one broker, over a Unix stream socket: in order, of any size, and
 * never waiting. Both ends are ours and of one host; what is malformed ends the channel.
 *
 * Owns its socket. A message's descriptors stay the sender's, who may close them right after `send`.
 */
export class Channel<In extends Message, Out extends Message> {
  readonly #socket: OwnedFd
  readonly #host: ChannelHost<In>
  readonly #watch: Watch
  readonly #outgoing: Outgoing[] = []
  readonly #drained: (() => void)[] = []
  /** Whose frames are not whole yet, in order of arrival. */
  #fds: OwnedFd[] = []
  #read: Buffer[] = []
  #length = 0
  #retry: NodeJS.Timeout | undefined
  #untilRoom: NodeJS.Timeout | undefined
  #over = false

  /** Takes `socket`, one end of a connected pair. */
  constructor(socket: OwnedFd, poller: Poller, host: ChannelHost<In>) {
    this.#socket = socket
    this.#host = host
    this.#watch = poller.add(socket.fd, EPOLLIN, (events) => {
      if ((events & EPOLLOUT) !== 0) this.#flush()
      if (!this.#over && this.#untilRoom === undefined) this.#receive()
    })
  }

  /** To borrow, for who has to keep it across exec. */
  get fd(): BorrowedFd {
    return this.#socket.fd
  }

  get open(): boolean {
    return !this.#over
  }

  /** No message is half sent or half received: who takes the socket over loses none. */
  get quiet(): boolean {
    return this.#over || (this.#outgoing.length === 0 && this.#length === 0)
  }

  /** After the end nothing is sent and nobody is told: the end says it. NativeError EMFILE when there is no room for duplicates. */
  send(message: Out, fds: readonly BorrowedFd[] = []): void {
    if (!this.#over) this.#enqueue(message, dupAll(fds))
  }

  /** As `send`, of descriptors that are the channel's from now on, whatever happens: it needs no others. */
  give(message: Out, fds: readonly OwnedFd[]): void {
    const given = fds.map((fd) => new OwnedFd(fd.release()))
    if (this.#over) for (const fd of given) fd.close()
    else this.#enqueue(message, given)
  }

  #enqueue(message: Out, fds: OwnedFd[]): void {
    if (fds.length > MAX_DESCRIPTORS) throw new RangeError(`${fds.length} descriptors in one message`)
    const text = Buffer.from(JSON.stringify(message))
    const header = Buffer.alloc(HEADER_BYTES)
    header.writeUInt32LE(HEADER_BYTES - LENGTH_BYTES + text.length)
    header.writeUInt8(fds.length === 0 ? PLAIN : WITH_DESCRIPTORS, LENGTH_BYTES)
    header.writeUInt8(fds.length, LENGTH_BYTES + 1)
    this.#outgoing.push({ bytes: Buffer.concat([header, text]), fds })
    if (this.#outgoing.length === 1) this.#flush()
  }

  /** Resolves when all that was sent is in the kernel, or the channel is over. */
  async sent(): Promise<void> {
    if (this.#outgoing.length > 0) await new Promise<void>((resolve) => this.#drained.push(resolve))
  }

  /** What was sent and not taken by the kernel yet is dropped; see `sent`. */
  close(): void {
    if (this.#over) return
    this.#over = true
    clearTimeout(this.#retry)
    clearTimeout(this.#untilRoom)
    this.#watch.remove()
    this.#socket.close()
    for (const { fds } of this.#outgoing.splice(0)) for (const fd of fds) fd.close()
    for (const fd of this.#fds.splice(0)) fd.close()
    for (const resolve of this.#drained.splice(0)) resolve()
  }

  #flush(): void {
    try {
      for (let head = this.#outgoing[0]; head !== undefined; head = this.#outgoing[0]) {
        const sent = this.#sendSome(head)
        // The descriptors ride on the first byte.
        for (const fd of head.fds.splice(0)) fd.close()
        head.bytes = head.bytes.subarray(sent)
        if (head.bytes.length === 0) this.#outgoing.shift()
      }
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (error.code === 'EAGAIN') return this.#watch.modify(EPOLLIN | EPOLLOUT)
      if (['ETOOMANYREFS', 'ENOBUFS', 'ENOMEM'].includes(error.code)) return this.#later()
      // EPIPE: what the other end still said is read first, and its end tells.
      for (const { fds } of this.#outgoing.splice(0)) for (const fd of fds) fd.close()
    }
    this.#watch.modify(EPOLLIN)
    for (const resolve of this.#drained.splice(0)) resolve()
  }

  #sendSome({ bytes, fds }: Outgoing): number {
    try {
      return sendMessage(this.#socket.fd, { bytes: bytes.subarray(0, CHUNK), fds: fds.map(({ fd }) => fd) })
    } catch (error) {
      if (error instanceof ShortSendError) return error.sent
      throw error
    }
  }

  #later(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined
      this.#flush()
    }, RETRY)
  }

  #receive(): void {
    try {
      while (!this.#over) {
        if (this.#host.room?.() === false) return this.#waitForRoom()
        const message = receiveMessage(this.#socket.fd, { size: CHUNK, maxFds: MAX_DESCRIPTORS })
        if (message === undefined) return
        this.#fds.push(...message.fds)
        if (message.controlTruncated || message.surplus > 0)
          throw new Error('descriptors were lost on the way')
        if (message.bytes.length === 0) return this.#end(undefined)
        this.#read.push(message.bytes)
        this.#length += message.bytes.length
        this.#decode()
      }
    } catch (error) {
      this.#end(error as Error)
    }
  }

  #waitForRoom(): void {
    // A hang-up is reported whether it is asked for or not: once, and then no more.
    this.#watch.modify(EPOLLONESHOT)
    this.#untilRoom = setTimeout(() => {
      this.#untilRoom = undefined
      this.#watch.modify(EPOLLIN)
      this.#receive()
    }, ROOM_PAUSE_MS)
  }

  #decode(): void {
    while (this.#length >= HEADER_BYTES) {
      const bytes = this.#joined()
      const length = LENGTH_BYTES + bytes.readUInt32LE()
      if (length > MAX_FRAME_BYTES) throw new Error(`a frame of ${length} bytes`)
      if (bytes.length < length) return
      const kind = bytes.readUInt8(LENGTH_BYTES)
      const count = bytes.readUInt8(LENGTH_BYTES + 1)
      if (kind !== (count === 0 ? PLAIN : WITH_DESCRIPTORS)) throw new Error(`a frame of kind ${kind}`)
      if (count > this.#fds.length) throw new Error(`${this.#fds.length} descriptors came, wanted ${count}`)
      const message = JSON.parse(bytes.toString('utf8', HEADER_BYTES, length)) as In
      this.#read = [bytes.subarray(length)]
      this.#length = bytes.length - length
      this.#host.message(message, this.#fds.splice(0, count))
      if (this.#over) return
    }
  }

  #joined(): Buffer {
    const bytes = this.#read.length === 1 ? (this.#read[0] as Buffer) : Buffer.concat(this.#read)
    this.#read = [bytes]
    return bytes
  }

  #end(error: Error | undefined): void {
    if (this.#over) return
    this.close()
    this.#host.ended(error)
  }
}

/** All, or none. */
function dupAll(fds: readonly BorrowedFd[]): OwnedFd[] {
  const duplicates: OwnedFd[] = []
  try {
    for (const fd of fds) duplicates.push(dup(fd))
    return duplicates
  } catch (error) {
    for (const duplicate of duplicates) duplicate.close()
    throw error
  }
}
