import { type ConnectOpts, Socket, type SocketConstructorOpts } from 'node:net'
import { MSG_DONTWAIT, MSG_NOSIGNAL } from './abi.ts'
import { Arena } from './arena.ts'
import { EAGAIN } from './errno.ts'
import { NativeError } from './errors.ts'
import { POLLIN } from './inspect.ts'
import { lastErrno, libc } from './libc.ts'
import { CANCEL_ALL_OF_FD, LINK, OPCODES, SKIP_SUCCESS } from './ring-abi.ts'
import type { Ring } from './ring.ts'
import { socketpair } from './sockets.ts'
import type { Waiter, Waiting } from './waiter.ts'

/** What lies in the bell says who rang. */
const KERNEL = 1
const SELF = 2

/**
 * Waits without a thread. Node can wait for bytes, not for readiness, so the kernel turns the one into the other: a poll of
 * the epoll set is linked to a send of one byte into a socketpair (io_uring, IOSQE_IO_LINK) whose other end libuv reads.
 * No thread is woken to wake another one, which took 25 us and most of the context switches of a handoff.
 */
export class RingWaiter implements Waiter {
  readonly #ring: Ring
  readonly #waiting: Waiting
  readonly #bell: Socket
  readonly #clapper: Socket
  readonly #clapperFd: number
  readonly #marks = new Arena(8)
  /** The poller waits for a call. */
  #armed = false
  /** The kernel holds a chain that has not rung yet. */
  #chained = false

  constructor(ring: Ring, waiting: Waiting) {
    this.#ring = ring
    this.#waiting = waiting
    this.#marks.buffer.set([KERNEL, SELF])
    const [near, far] = socketpair('stream')
    // `onread` is an option of the constructor too (documented since 12.10); its types leave it out.
    const options: SocketConstructorOpts & ConnectOpts = {
      fd: near.release(),
      onread: {
        buffer: Buffer.allocUnsafeSlow(64),
        callback: (size, buffer) => this.#rung(buffer, size),
      },
    }
    this.#bell = new Socket(options)
    this.#bell.unref()
    // Nobody reads it. It is a handle so that it is closed with the thread, as the other end is.
    this.#clapperFd = far.release()
    this.#clapper = new Socket({ fd: this.#clapperFd, readable: false, writable: true })
  }

  arm(): void {
    if (!this.#armed) this.#bell.ref()
    this.#armed = true
    if (this.#chained) return
    this.#chained = true
    this.#ring.leave(
      {
        opcode: OPCODES.pollAdd,
        fd: this.#waiting.epoll,
        operationFlags: POLLIN,
        flags: LINK | SKIP_SUCCESS,
      },
      {
        opcode: OPCODES.send,
        fd: this.#clapperFd,
        address: this.#markAddress(KERNEL),
        length: 1,
        operationFlags: MSG_NOSIGNAL,
        flags: SKIP_SUCCESS,
      },
    )
  }

  wake(): void {
    const fd = this.#clapperFd
    if (libc.send(fd, this.#markAddress(SELF), 1, MSG_DONTWAIT | MSG_NOSIGNAL) !== -1) return
    const errno = lastErrno()
    // Full: it rings already.
    if (errno !== EAGAIN) throw new NativeError('send', errno, { fd })
  }

  /** Before the memory that the kernel would tell the end of the chain in. */
  exit(): void {
    this.#cancel()
  }

  rest(): void {
    this.#bell.unref()
  }

  close(): void {
    // The chain holds the epoll set, which would live on.
    this.#cancel()
    this.#bell.destroy()
    this.#clapper.destroy()
  }

  #cancel(): void {
    if (!this.#chained) return
    this.#chained = false
    this.#ring.leave({
      opcode: OPCODES.asyncCancel,
      fd: this.#waiting.epoll,
      operationFlags: CANCEL_ALL_OF_FD,
    })
  }

  #markAddress(who: typeof KERNEL | typeof SELF): number {
    return this.#marks.address + who - 1
  }

  #rung(buffer: Uint8Array, size: number): boolean {
    if (buffer.subarray(0, size).includes(KERNEL)) this.#chained = false
    if (!this.#armed) return true
    this.#armed = false
    const { epoll, events, capacity, onEvents } = this.#waiting
    const count = libc.epoll_wait(epoll, events, capacity, 0)
    onEvents(count === -1 ? -lastErrno() : count)
    return true
  }
}
