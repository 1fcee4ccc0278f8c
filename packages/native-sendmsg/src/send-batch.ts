import { CMSGHDR_SIZE, cmsgSpace, MSG_DONTWAIT, MSG_NOSIGNAL } from './abi.ts'
import { writeRightsHeader } from './control-message.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EINTR } from './errno.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import { MessageArena } from './message-arena.ts'

/** One message of a batch: bytes and one descriptor, which the caller keeps. */
export interface BatchItem {
  readonly bytes: Uint8Array
  readonly fd: BorrowedFd
}

export interface SendBatchResult {
  /** Number of items sent, from the start. Each was sent whole. */
  sent: number
  /** Why the next item was not sent; set if and only if `sent` is less than the number of items. */
  error?: NativeError
}

/**
 * Sends many {bytes, descriptor} messages to a seqpacket socket with few sendmmsg(2) calls. The arena is laid out
 * once; each message writes only its bytes, their length and the descriptor. Not for streams, which can
 * accept part of a message.
 */
export class SendBatch {
  readonly #arena: MessageArena

  /** Up to `capacity` messages per system call (the kernel's limit is 1,024), of up to `payloadSize` bytes each. */
  constructor(capacity: number, payloadSize: number) {
    this.#arena = new MessageArena(capacity, payloadSize, cmsgSpace(4))
    for (let index = 0; index < capacity; index++) {
      writeRightsHeader(this.#arena.buffer, this.#arena.controlOffset(index), 1)
    }
  }

  /** Sends in order, without blocking, and stops at the first message that the kernel refuses. */
  send(socketFd: BorrowedFd, items: readonly BatchItem[]): SendBatchResult {
    let sent = 0
    while (sent < items.length) {
      const count = this.#fill(items, sent)
      const went = this.#sendFilled(socketFd, count)
      sent += went
      if (went < count) return { sent, error: new NativeError('sendmmsg', lastErrno(), { fd: socketFd }) }
    }
    return { sent }
  }

  #fill(items: readonly BatchItem[], start: number): number {
    const arena = this.#arena
    const count = Math.min(arena.capacity, items.length - start)
    for (let index = 0; index < count; index++) {
      const item = items[start + index]
      if (item === undefined) return index
      if (item.bytes.length === 0 || item.bytes.length > arena.payloadSize) {
        const detail = `${item.bytes.length} bytes; must be 1 to ${arena.payloadSize}`
        throw new BatonNativeError('BATON_ERR_INVALID_ARGUMENT', detail)
      }
      arena.buffer.set(item.bytes, arena.payloadOffset(index))
      arena.setPayloadLength(index, item.bytes.length)
      arena.buffer.writeInt32LE(item.fd, arena.controlOffset(index) + CMSGHDR_SIZE)
    }
    return count
  }

  /** Sends the first `count` messages; returns how many were sent. If fewer, the reason is in `lastErrno()`. */
  #sendFilled(socketFd: BorrowedFd, count: number): number {
    let done = 0
    while (done < count) {
      // sendmmsg reports an error only if nothing was sent, so after a short count another call gets the reason.
      const went = libc.sendmmsg(
        socketFd,
        this.#arena.headerAddress(done),
        count - done,
        MSG_DONTWAIT | MSG_NOSIGNAL,
      )
      if (went !== -1) done += went
      else if (lastErrno() !== EINTR) return done
    }
    return done
  }
}
