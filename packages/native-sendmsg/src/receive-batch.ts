import {
  CMSGHDR_SIZE,
  cmsgLength,
  cmsgSpace,
  MSG_CMSG_CLOEXEC,
  MSG_CTRUNC,
  MSG_DONTWAIT,
  MSG_TRUNC,
  SCM_RIGHTS,
  SOL_SOCKET,
} from './abi.ts'
import { readControl } from './control-message.ts'
import { close, type BorrowedFd } from './descriptors.ts'
import { EAGAIN, ECONNRESET, EINTR } from './errno.ts'
import { NativeError } from './errors.ts'
import { poll, POLLHUP, POLLRDHUP } from './inspect.ts'
import { lastErrno, libc } from './libc.ts'
import { MessageArena } from './message-arena.ts'

export interface ReceivedMessage {
  /** At most `payloadSize` bytes of the message; a copy owned by the caller, except from `receiveViews`. */
  bytes: Buffer
  /** Length of the message as sent, in bytes. */
  length: number
  /** CLOEXEC from birth; the caller owns all of them. */
  fds: number[]
  /** Descriptors were lost on arrival: more than 4 were sent, or the process has reached its descriptor limit. */
  controlTruncated: boolean
}

export interface ReceiveBatchResult {
  /** In the sender's order; empty if nothing is queued. */
  messages: ReceivedMessage[]
  /** The sending end is closed and the queue is empty: EOF. */
  ended: boolean
  /** Set if a system call failed; the caller owns `messages` anyway. */
  error?: NativeError
}

/**
 * Room for four descriptors, so that extra ones are noticed (because of alignment, a buffer for one has room
 * for two), and for what socket options may add before them: SO_PASSCRED and SO_PASSPIDFD belong to the open
 * file, so any process that holds a duplicate can set them.
 */
const CONTROL_SIZE = cmsgSpace(16) + cmsgSpace(12) + cmsgSpace(4)
const FLAGS = MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC

/**
 * Receives many messages with descriptors from a seqpacket socket with few recvmmsg(2) calls. The arena is laid
 * out once; only headers that the kernel has written to are reset.
 */
export class ReceiveBatch {
  readonly #arena: MessageArena
  readonly #views: Buffer[] = []

  /** Up to `capacity` messages per system call, of up to `payloadSize` bytes each. */
  constructor(capacity: number, payloadSize: number) {
    this.#arena = new MessageArena(capacity, payloadSize, CONTROL_SIZE)
  }

  /**
   * Receives up to `max` messages, without blocking. Each message is received atomically: it is in the result,
   * or still queued for other holders of the socket.
   *
   * An empty message without descriptors looks like EOF; poll(2) distinguishes them while the peer is
   * connected. After that, empty messages at the end of the queue are treated as EOF.
   */
  receive(socketFd: BorrowedFd, max: number): ReceiveBatchResult {
    return this.#receive(socketFd, max, (view) => Buffer.from(view))
  }

  /**
   * Like `receive`, for at most `capacity` messages, without copying: `bytes` is a view of the batch's memory, which the next
   * call overwrites.
   */
  receiveViews(socketFd: BorrowedFd, max: number): ReceiveBatchResult {
    return this.#receive(socketFd, Math.min(max, this.#arena.capacity), (view) => view)
  }

  #receive(socketFd: BorrowedFd, max: number, keep: (view: Buffer) => Buffer): ReceiveBatchResult {
    const messages: ReceivedMessage[] = []
    let wasReset = false
    while (messages.length < max) {
      const wanted = Math.min(this.#arena.capacity, max - messages.length)
      const count = libc.recvmmsg(socketFd, this.#arena.headerAddress(0), wanted, FLAGS, 0)
      if (count === -1) {
        const errno = lastErrno()
        if (errno === EINTR) continue
        if (errno === EAGAIN) break
        if (errno !== ECONNRESET || wasReset) {
          return { messages, ended: false, error: new NativeError('recvmmsg', errno, { fd: socketFd }) }
        }
        // The peer closed with unread messages of its own: the kernel reports that once, then delivers the queue.
        wasReset = true
        continue
      }
      for (let index = 0; index < count; index++) messages.push(this.#take(index, keep))
      if (isBlank(messages.at(-1)) && (poll(socketFd, POLLRDHUP) & (POLLRDHUP | POLLHUP)) !== 0) {
        while (isBlank(messages.at(-1))) messages.pop()
        return { messages, ended: true }
      }
      if (count < wanted) break
    }
    return { messages, ended: false }
  }

  #take(index: number, keep: (view: Buffer) => Buffer): ReceivedMessage {
    const arena = this.#arena
    const length = arena.length(index)
    const message = {
      bytes: keep(this.#view(index, Math.min(length, arena.payloadSize))),
      length,
      fds: this.#descriptors(index),
      controlTruncated: (arena.flags(index) & MSG_CTRUNC) !== 0,
    }
    arena.setControlLength(index, arena.controlSize)
    return message
  }

  /** Most messages have the same length, so the last view of each slot is kept. */
  #view(index: number, length: number): Buffer {
    const last = this.#views[index]
    if (last?.length === length) return last
    const start = this.#arena.payloadOffset(index)
    return (this.#views[index] = this.#arena.buffer.subarray(start, start + length))
  }

  #descriptors(index: number): number[] {
    const { buffer } = this.#arena
    const control = this.#arena.controlOffset(index)
    const length = this.#arena.controlLength(index)
    if (length === 0) return []
    const single =
      length === cmsgSpace(4) &&
      buffer.readUInt32LE(control) === cmsgLength(4) &&
      buffer.readInt32LE(control + 8) === SOL_SOCKET &&
      buffer.readInt32LE(control + 12) === SCM_RIGHTS
    if (single) return [buffer.readInt32LE(control + CMSGHDR_SIZE)]
    const { fds, strays } = readControl(buffer, control, length)
    for (const stray of strays) close(stray)
    return fds
  }
}

function isBlank(message: ReceivedMessage | undefined): boolean {
  return (
    message !== undefined && message.length === 0 && message.fds.length === 0 && !message.controlTruncated
  )
}
