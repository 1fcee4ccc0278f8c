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
  /** What came, at most `payloadSize` bytes of it; the caller's own, unless it asked for views. */
  bytes: Buffer
  /** The message's true length in bytes, as sent. */
  length: number
  /** CLOEXEC from birth; the caller owns all of them, however many came. */
  fds: number[]
  /** Descriptors were lost on arrival: more than 4 were sent, or the process may open no more. */
  controlTruncated: boolean
}

export interface ReceiveBatchResult {
  /** In the sender's order; empty when nothing waits. */
  messages: ReceivedMessage[]
  /** The send end is closed and the queue is empty: nothing will come any more. */
  ended: boolean
  /** Set when the kernel refused; `messages` still belong to the caller. */
  error?: NativeError
}

/**
 * Room for four descriptors, so that extra ones are seen (the kernel's alignment lets two slip into a
 * buffer for one), and for what the socket's own options may put before them: SO_PASSCRED and SO_PASSPIDFD
 * are set on the shared description, and so by anybody who holds a duplicate.
 */
const CONTROL_SIZE = cmsgSpace(16) + cmsgSpace(12) + cmsgSpace(4)
const FLAGS = MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC

/**
 * Many messages with descriptors from a seqpacket socket in few recvmmsg(2) calls. The arena is laid out
 * once; only the headers that the kernel has written to are reset.
 */
export class ReceiveBatch {
  readonly #arena: MessageArena
  readonly #views: Buffer[] = []

  /** `capacity` messages a system call, `payloadSize` bytes each at most. */
  constructor(capacity: number, payloadSize: number) {
    this.#arena = new MessageArena(capacity, payloadSize, CONTROL_SIZE)
  }

  /**
   * Takes up to `max` messages, never waiting. Taking one is atomic: it is in the result, or still in the
   * queue for another holder of the socket.
   *
   * An empty message without descriptors looks like EOF; poll(2) tells them apart as long as the peer is
   * there. Once it is gone, empty messages at the very end of what was read are taken for the end.
   */
  receive(socketFd: BorrowedFd, max: number): ReceiveBatchResult {
    return this.#receive(socketFd, max, (view) => Buffer.from(view))
  }

  /**
   * As `receive`, of at most `capacity` messages, and without a copy of their bytes: `bytes` is a view of the batch's own memory,
   * which the next call overwrites.
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
        // A peer that closed with unread messages of its own: told once, and the queue comes after it.
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

  /** Messages of one length are the rule, so each place keeps its last view. */
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
