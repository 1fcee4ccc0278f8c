import { align8, IOVEC_SIZE, MMSGHDR_SIZE, MSGHDR } from './abi.ts'
import { Arena } from './arena.ts'

/**
 * Memory for `capacity` messages of one iovec and one control buffer each: mmsghdr[], iovec[], control buffers,
 * payloads. All pointers are set once; for each message, only lengths, bytes and descriptors change. The kernel
 * writes `msg_controllen`, `msg_flags` and `msg_len`, never the iovec.
 */
export class MessageArena {
  readonly capacity: number
  readonly payloadSize: number
  readonly controlSize: number
  readonly buffer: Buffer
  readonly #arena: Arena
  readonly #words: Uint32Array
  readonly #iovecs: number
  readonly #controls: number
  readonly #payloads: number
  readonly #payloadStride: number

  /** Sizes in bytes, per message. */
  constructor(capacity: number, payloadSize: number, controlSize: number) {
    this.capacity = capacity
    this.payloadSize = payloadSize
    this.controlSize = align8(controlSize)
    this.#payloadStride = align8(payloadSize)
    this.#iovecs = capacity * MMSGHDR_SIZE
    this.#controls = this.#iovecs + capacity * IOVEC_SIZE
    this.#payloads = this.#controls + capacity * this.controlSize
    this.#arena = new Arena(this.#payloads + capacity * this.#payloadStride)
    this.buffer = this.#arena.buffer
    this.#words = this.#arena.words
    for (let index = 0; index < capacity; index++) this.#layOut(index)
  }

  #layOut(index: number): void {
    const header = index * MMSGHDR_SIZE
    const iovec = this.#iovecs + index * IOVEC_SIZE
    this.#arena.writePointer(header + MSGHDR.iov, iovec)
    this.#words[(header + MSGHDR.iovlen) / 4] = 1
    this.#arena.writePointer(header + MSGHDR.control, this.controlOffset(index))
    this.#arena.writePointer(iovec, this.payloadOffset(index))
    this.setPayloadLength(index, this.payloadSize)
    this.setControlLength(index, this.controlSize)
  }

  /** Address of a message's mmsghdr, which starts with its msghdr. The arena must outlive its use. */
  headerAddress(index: number): number {
    return this.#arena.address + index * MMSGHDR_SIZE
  }

  controlOffset(index: number): number {
    return this.#controls + index * this.controlSize
  }

  payloadOffset(index: number): number {
    return this.#payloads + index * this.#payloadStride
  }

  setPayloadLength(index: number, bytes: number): void {
    this.#words[(this.#iovecs + index * IOVEC_SIZE) / 4 + 2] = bytes
  }

  setControlLength(index: number, bytes: number): void {
    this.#words[(index * MMSGHDR_SIZE + MSGHDR.controllen) / 4] = bytes
  }

  /** Bytes of control messages received. */
  controlLength(index: number): number {
    return this.#words[(index * MMSGHDR_SIZE + MSGHDR.controllen) / 4] ?? 0
  }

  /** `msg_flags` as set by the kernel: MSG_TRUNC, MSG_CTRUNC. */
  flags(index: number): number {
    return this.#words[(index * MMSGHDR_SIZE + MSGHDR.flags) / 4] ?? 0
  }

  /** `msg_len` of sendmmsg and recvmmsg. */
  length(index: number): number {
    return this.#words[(index * MMSGHDR_SIZE + MSGHDR.len) / 4] ?? 0
  }
}
