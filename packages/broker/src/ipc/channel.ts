import {
  type BorrowedFd,
  dup,
  EPOLLIN,
  EPOLLONESHOT,
  EPOLLOUT,
  type IncomingMessage,
  NativeError,
  OwnedFd,
  poll,
  type Poller,
  POLLOUT,
  receiveMessage,
  sendMessage,
  ShortSendError,
  type Watch,
} from '@baton/native-sendmsg'

/** A message on a channel. The two ends define its types. */
export interface Message {
  readonly type: string
}

export interface ChannelHost<In extends Message> {
  /** The host takes ownership of the descriptors. */
  message(message: In, fds: readonly OwnedFd[]): void
  /** The other end has closed, or sent something malformed (`error`). Called once, and never after `close()`. */
  ended(error: Error | undefined): void
  /**
   * Called before each read: whether this process has enough free descriptors for a message (the kernel drops those that do not fit).
   * While it returns false, nothing is read. Default: always true.
   */
  room?(): boolean
}

/** Kind of a frame: whether it carries descriptors. */
const PLAIN = 0x4a
const WITH_DESCRIPTORS = 0x46

/** u32le length of the rest, u8 kind, u8 number of descriptors. */
const HEADER_BYTES = 6
const LENGTH_BYTES = 4

/** Well below the 253 that one sendmsg can carry. */
export const MAX_DESCRIPTORS = 200

/** For comparison: a snapshot of all metrics of a broker with many services has a few hundred kB. */
const MAX_FRAME_BYTES = 64 * 1024 * 1024
const CHUNK = 64 * 1024
/** Maximum reads per wake-up. The poller reports the rest again, after everything else that is ready. */
const MAX_READS = 16

/** Retry interval, in ms, while the kernel has too many descriptors in flight: no event reports when there is room again. */
const RETRY_MS = 10
/** Poll interval for free descriptors and memory, which cause no event either. Shorter than a listener's pause, so inherited clients come first. */
const ROOM_PAUSE_MS = 20

/** Errors of sendmsg and recvmsg that pass by themselves. */
const PASSING = new Set(['ETOOMANYREFS', 'ENOBUFS', 'ENOMEM'])

interface Outgoing {
  bytes: Buffer
  /** Owned by the channel until the first byte has been sent. */
  fds: OwnedFd[]
  /** Instead of `fds`: of the caller of `lend`, until the first byte has been sent. */
  lent?: readonly BorrowedFd[]
  readonly unsent: Unsent | undefined
}

/** Takes the descriptors of a message of which nothing was sent, because the channel has ended. */
export type Unsent = (fds: readonly OwnedFd[]) => void

/**
 * JSON messages with descriptors between two processes of one broker, over a Unix stream socket: ordered, up to 64 MiB each, and
 * nonblocking. Both ends are processes of Baton on one host; a malformed frame ends the channel.
 *
 * Owns its socket. The caller keeps the descriptors it passes to `send`, and may close them right after the call.
 */
export class Channel<In extends Message, Out extends Message> {
  readonly #socket: OwnedFd
  readonly #host: ChannelHost<In>
  readonly #watch: Watch
  readonly #outgoing: Outgoing[] = []
  readonly #drained: (() => void)[] = []
  /** Descriptors of incomplete frames, in order of arrival. */
  #fds: OwnedFd[] = []
  #read: Buffer[] = []
  #length = 0
  /** Bytes to wait for before the next look at them: a header, or a frame. So each byte is copied once, however long its frame is. */
  #wanted = HEADER_BYTES
  #retry: NodeJS.Timeout | undefined
  #untilRoom: NodeJS.Timeout | undefined
  #ended = false
  /** The other end reads no more; what it has sent can still be read. */
  #broken = false
  /** The kernel has reported that the other end closed without reading everything. It does so once, as the end or before what that end had sent. */
  #wasReset = false

  /** Takes ownership of `socket`, one end of a connected pair. */
  constructor(socket: OwnedFd, poller: Poller, host: ChannelHost<In>) {
    this.#socket = socket
    this.#host = host
    this.#watch = poller.add(socket.fd, EPOLLIN, (events) => {
      if ((events & EPOLLOUT) !== 0) this.#flush()
      if (!this.#ended && this.#untilRoom === undefined) this.#receive()
    })
  }

  /** Borrowed; for callers that keep it across exec. */
  get fd(): BorrowedFd {
    return this.#socket.fd
  }

  /** False once the other end is known to be gone: nothing can be sent. Messages of it may still arrive, until `ended`. */
  get open(): boolean {
    return !this.#ended && !this.#broken
  }

  /**
   * True if the kernel has accepted everything sent, and has room for more: it says so while a quarter of its buffer is used at most, so some tens of kB are
   * sent at once then. Also true if nothing can be sent any more.
   */
  get hasRoom(): boolean {
    if (!this.open) return true
    return this.#outgoing.length === 0 && (poll(this.#socket.fd, POLLOUT) & POLLOUT) !== 0
  }

  /** True if no message is partially sent or received, so that another program can take over the socket without losing one. */
  get quiet(): boolean {
    return this.#ended || (this.#outgoing.length === 0 && this.#length === 0)
  }

  /** After the channel has ended, messages are dropped silently. NativeError EMFILE if the descriptors cannot be duplicated. */
  send(message: Out, fds: readonly BorrowedFd[] = []): void {
    if (!this.#ended) this.#enqueue(message, dupAll(fds), undefined)
  }

  /**
   * Like `send`, but takes ownership of the descriptors in any case, so no duplicates are needed.
   *
   * @param unsent gets them back, in a microtask, if nothing of the message reaches the kernel. Default: they are closed
   */
  give(message: Out, fds: readonly OwnedFd[], unsent?: Unsent): void {
    const given = fds.map((fd) => new OwnedFd(fd.release()))
    if (this.#ended) drop([{ fds: given, unsent }])
    else this.#enqueue(message, given, unsent)
  }

  /**
   * Like `send`, without duplicates: the caller keeps the descriptors open until the other end has answered, or the channel has ended.
   *
   * @param unsent called in a microtask if nothing of the message reaches the kernel
   */
  lend(message: Out, fds: readonly BorrowedFd[], unsent: () => void): void {
    if (this.#ended) return queueMicrotask(unsent)
    this.#outgoing.push({ bytes: encode(message, fds.length), fds: [], lent: fds, unsent })
    if (this.#outgoing.length === 1) this.#flush()
  }

  /**
   * Like `send`, but only if the kernel takes the descriptors at once, so that none is duplicated.
   *
   * @returns false, and nothing was sent: earlier messages wait, the kernel has no room, or the channel has ended
   */
  sendNow(message: Out, fds: readonly BorrowedFd[]): boolean {
    if (this.#ended || this.#outgoing.length > 0) return false
    const bytes = encode(message, fds.length)
    let sent: number
    try {
      sent = this.#sendSome(bytes, fds)
    } catch (error) {
      if (error instanceof NativeError) return false
      throw error
    }
    if (sent === bytes.length) return true
    this.#outgoing.push({ bytes: bytes.subarray(sent), fds: [], unsent: undefined })
    this.#flush()
    return true
  }

  #enqueue(message: Out, fds: OwnedFd[], unsent: Unsent | undefined): void {
    this.#outgoing.push({ bytes: encode(message, fds.length), fds, unsent })
    if (this.#outgoing.length === 1) this.#flush()
  }

  /** Resolves when the kernel has accepted everything sent, or the channel has ended. */
  async sent(): Promise<void> {
    if (this.#outgoing.length > 0) await new Promise<void>((resolve) => this.#drained.push(resolve))
  }

  /** Resolves when there may be room (`hasRoom`), or the channel has ended. */
  async room(): Promise<void> {
    if (this.hasRoom) return
    if (this.#outgoing.length === 0) this.#watchFor(EPOLLOUT)
    await new Promise<void>((resolve) => this.#drained.push(resolve))
  }

  /** Drops what the kernel has not accepted yet; see `sent`. */
  close(): void {
    if (this.#ended) return
    this.#ended = true
    clearTimeout(this.#retry)
    clearTimeout(this.#untilRoom)
    this.#watch.remove()
    this.#socket.close()
    drop(this.#outgoing.splice(0))
    for (const fd of this.#fds.splice(0)) fd.close()
    for (const resolve of this.#drained.splice(0)) resolve()
  }

  #flush(): void {
    try {
      for (let head = this.#outgoing[0]; head !== undefined; head = this.#outgoing[0]) {
        const fds = head.lent ?? head.fds.map(({ fd }) => fd)
        const sent = this.#sendSome(head.bytes, fds)
        // The kernel attaches the descriptors to the first byte.
        head.lent = []
        for (const fd of head.fds.splice(0)) fd.close()
        head.bytes = head.bytes.subarray(sent)
        if (head.bytes.length === 0) this.#outgoing.shift()
      }
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (error.code === 'EAGAIN') return this.#watchFor(EPOLLOUT)
      if (PASSING.has(error.code)) return this.#retryLater()
      // EPIPE: read what the other end has sent; EOF follows and ends the channel. After any other error it does not, but nothing more is sent either.
      this.#broken = true
      drop(this.#outgoing.splice(0))
    }
    this.#watchFor(0)
    for (const resolve of this.#drained.splice(0)) resolve()
  }

  #sendSome(bytes: Buffer, fds: readonly BorrowedFd[]): number {
    try {
      return sendMessage(this.#socket.fd, { bytes: bytes.subarray(0, CHUNK), fds })
    } catch (error) {
      if (error instanceof ShortSendError) return error.sent
      throw error
    }
  }

  #retryLater(): void {
    this.#watchFor(0)
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined
      this.#flush()
    }, RETRY_MS)
  }

  #receive(): void {
    try {
      for (let reads = 0; reads < MAX_READS && !this.#ended; reads++) {
        if (this.#host.room?.() === false) return this.#waitForRoom()
        const message = this.#receiveOne()
        if (message === undefined) return
        this.#fds.push(...message.fds)
        if (message.controlTruncated || message.surplus > 0)
          throw new Error('descriptors were lost on arrival')
        if (message.bytes.length === 0) return this.#end(undefined)
        this.#read.push(message.bytes)
        this.#length += message.bytes.length
        this.#decode()
      }
    } catch (error) {
      this.#end(error as Error)
    }
  }

  /** Undefined if there is nothing to read now. */
  #receiveOne(): IncomingMessage | undefined {
    try {
      return receiveMessage(this.#socket.fd, { size: CHUNK, maxFds: MAX_DESCRIPTORS })
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (PASSING.has(error.code)) {
        this.#waitForRoom()
        return undefined
      }
      if (error.code !== 'ECONNRESET' || this.#wasReset) throw error
      this.#wasReset = true
      return this.#receiveOne()
    }
  }

  #waitForRoom(): void {
    this.#untilRoom = setTimeout(() => {
      this.#untilRoom = undefined
      this.#watchFor(this.#outgoing.length > 0 && this.#retry === undefined ? EPOLLOUT : 0)
      this.#receive()
    }, ROOM_PAUSE_MS)
    this.#watchFor(this.#outgoing.length > 0 && this.#retry === undefined ? EPOLLOUT : 0)
  }

  /** @param output EPOLLOUT if something waits for room in the kernel */
  #watchFor(output: number): void {
    if (this.#untilRoom === undefined) this.#watch.modify(EPOLLIN | output)
    // A hang-up is always reported; EPOLLONESHOT limits that to once.
    else this.#watch.modify(output === 0 ? EPOLLONESHOT : output)
  }

  #decode(): void {
    while (this.#length >= this.#wanted) {
      const last = this.#read.at(-1) as Buffer
      const bytes = this.#read.length === 1 ? last : Buffer.concat(this.#read)
      const length = LENGTH_BYTES + bytes.readUInt32LE()
      if (length > MAX_FRAME_BYTES) throw new Error(`a frame of ${length} bytes`)
      if (bytes.length < length) {
        this.#read = [bytes]
        this.#wanted = length
        return
      }
      const kind = bytes.readUInt8(LENGTH_BYTES)
      const count = bytes.readUInt8(LENGTH_BYTES + 1)
      if (kind !== (count === 0 ? PLAIN : WITH_DESCRIPTORS)) throw new Error(`a frame of kind ${kind}`)
      if (count > this.#fds.length) throw new Error(`got ${this.#fds.length} descriptors, wanted ${count}`)
      const message = JSON.parse(bytes.toString('utf8', HEADER_BYTES, length)) as In
      // The rest is of the last read; a slice of `bytes` would keep all of them in memory.
      this.#length = bytes.length - length
      this.#read = this.#length === 0 ? [] : [last.subarray(last.length - this.#length)]
      this.#wanted = HEADER_BYTES
      this.#host.message(message, this.#fds.splice(0, count))
      if (this.#ended) return
    }
  }

  #end(error: Error | undefined): void {
    if (this.#ended) return
    this.close()
    this.#host.ended(error)
  }
}

/** A frame. @throws {RangeError} too many descriptors */
function encode(message: Message, fds: number): Buffer {
  if (fds > MAX_DESCRIPTORS) throw new RangeError(`${fds} descriptors in one message`)
  const text = Buffer.from(JSON.stringify(message))
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt32LE(HEADER_BYTES - LENGTH_BYTES + text.length)
  header.writeUInt8(fds === 0 ? PLAIN : WITH_DESCRIPTORS, LENGTH_BYTES)
  header.writeUInt8(fds, LENGTH_BYTES + 1)
  return Buffer.concat([header, text])
}

/** Messages of which nothing is sent any more. */
function drop(messages: readonly Pick<Outgoing, 'fds' | 'lent' | 'unsent'>[]): void {
  for (const { fds, lent = [], unsent } of messages) {
    if (unsent === undefined) for (const fd of fds) fd.close()
    // Later: the caller may be in the middle of passing on several.
    else if (fds.length + lent.length > 0) queueMicrotask(() => unsent(fds))
  }
}

/** Duplicates all, or throws and leaves none open. */
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
