import { type ConnectOpts, Socket, type SocketConstructorOpts } from 'node:net'
import { EPOLL_EVENT_SIZE, MSG_DONTWAIT, MSG_NOSIGNAL } from './abi.ts'
import { Arena } from './arena.ts'
import { EAGAIN } from './errno.ts'
import { NativeError } from './errors.ts'
import { POLLIN } from './inspect.ts'
import { lastErrno, libc } from './libc.ts'
import { CANCEL_ALL_OF_FD, HARDLINK, OPCODES, SKIP_SUCCESS } from './ring-abi.ts'
import { PENDING, type Ring, submission, type Submission } from './ring.ts'
import { socketpair } from './sockets.ts'
import type { Waiter, Waiting } from './waiter.ts'

/** The doorbell byte says who rang: the kernel, or `wake`. */
const KERNEL = 1
const SELF = 2

/** Interval, in ms, at which the set is polled while the kernel refuses chains for lack of memory. */
const REFUSED_POLL_MS = 10
/** Interval, in ms, of the check for a chain that completed without ringing. */
const CHECK_INTERVAL_MS = 1000

/** Waiters closed although the kernel refused to cancel their chain. Kept reachable, because it may still write to their memory. */
const abandoned = new Set<RingWaiter>()

/**
 * Waits without a thread. Node can wait for bytes, not for readiness, so the kernel converts one to the other: a wait for
 * the epoll set is linked to a send of one byte into a socketpair (io_uring, IOSQE_IO_HARDLINK), the doorbell, whose other end
 * libuv reads. This avoids a thread that wakes the event loop, which took 25 us and most of the context switches of a handoff.
 *
 * Since Linux 6.15, the wait also returns the events; on older kernels it is a poll, followed by epoll_wait(2).
 */
export class RingWaiter implements Waiter {
  readonly #ring: Ring
  readonly #waiting: Waiting
  readonly #fetches: boolean
  readonly #doorbell: Socket
  readonly #button: Socket
  readonly #buttonFd: number
  readonly #marks = new Arena(8)
  /** The kernel may write to it at any time while a chain is pending, so the poller gets a copy. */
  readonly #brought: Arena
  /** Index of the result of a chain's wait. */
  readonly #result: number
  readonly #chain: readonly Submission[]
  /** The poller expects a call of `onEvents`. */
  #armed = false
  /** The kernel has a chain that has not rung yet. */
  #chained = false
  /** The kernel refused the last chain; part of it may have been submitted. */
  #refused = false
  #pause: NodeJS.Timeout | undefined
  /** At the last check, the chain had completed but not rung. */
  #silent = false
  readonly #check: NodeJS.Timeout

  /** @param fetches whether the kernel has IORING_OP_EPOLL_WAIT */
  constructor(ring: Ring, fetches: boolean, waiting: Waiting) {
    this.#ring = ring
    this.#fetches = fetches
    this.#waiting = waiting
    this.#brought = new Arena(waiting.events.buffer.length)
    this.#marks.buffer.set([KERNEL, SELF])
    const [near, far] = socketpair('stream')
    this.#result = ring.reserve()
    // `onread` is also a constructor option (since Node 12.10), but missing from its types.
    const options: SocketConstructorOpts & ConnectOpts = {
      fd: near.release(),
      onread: {
        buffer: Buffer.allocUnsafeSlow(64),
        callback: (size, buffer) => this.#rung(buffer, size),
      },
    }
    this.#doorbell = new Socket(options)
    this.#doorbell.unref()
    // Never read. A Socket, so that it is closed with the environment, like the other end.
    this.#buttonFd = far.release()
    this.#button = new Socket({ fd: this.#buttonFd, readable: false, writable: true })
    this.#chain = [
      this.#wait(),
      submission({
        opcode: OPCODES.send,
        fd: this.#buttonFd,
        address: this.#markAddress(KERNEL),
        length: 1,
        operationFlags: MSG_NOSIGNAL,
        flags: SKIP_SUCCESS,
      }),
    ]
    this.#check = setInterval(() => this.#checkUp(), CHECK_INTERVAL_MS)
    this.#check.unref()
  }

  /** If the kernel is out of memory, the set is polled until it accepts a chain again. */
  arm(): void {
    if (!this.#armed) this.#doorbell.ref()
    this.#armed = true
    if (this.#chained) return
    try {
      if (this.#refused) this.#cancelChain()
      this.#ring.submitChain(this.#chain, this.#result)
      this.#chained = true
      this.#refused = false
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#refused = true
      this.#pause ??= setTimeout(() => {
        this.#pause = undefined
        if (!this.#chained && this.#disarmed()) this.#waiting.onEvents(this.#fetch())
      }, REFUSED_POLL_MS)
    }
  }

  wake(): void {
    const fd = this.#buttonFd
    if (libc.send(fd, this.#markAddress(SELF), 1, MSG_DONTWAIT | MSG_NOSIGNAL) !== -1) return
    const errno = lastErrno()
    // EAGAIN: the buffer is full, so it is ringing already.
    if (errno !== EAGAIN) throw new NativeError('send', errno, { fd })
  }

  /** Cancels the chain before the memory for its result is freed. */
  exit(): void {
    this.#cancel()
  }

  rest(): void {
    this.#doorbell.unref()
  }

  close(): void {
    clearInterval(this.#check)
    clearTimeout(this.#pause)
    // A pending chain would keep the epoll set open.
    if (this.#cancel()) this.#ring.giveBack(this.#result)
    else abandoned.add(this)
    this.#doorbell.destroy()
    this.#button.destroy()
  }

  #wait(): Submission {
    const { epoll: fd, capacity: length } = this.#waiting
    if (this.#fetches) {
      return submission({
        opcode: OPCODES.epollWait,
        fd,
        address: this.#brought.address,
        length,
        flags: HARDLINK,
      })
    }
    return submission({ opcode: OPCODES.pollAdd, fd, operationFlags: POLLIN, flags: HARDLINK })
  }

  /** Returns false if the kernel refuses. */
  #cancel(): boolean {
    if (!this.#chained && !this.#refused) return true
    this.#chained = false
    try {
      this.#cancelChain()
      return true
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      return false
    }
  }

  #cancelChain(): void {
    const { epoll: fd } = this.#waiting
    const flags = CANCEL_ALL_OF_FD
    this.#ring.submitChain([submission({ opcode: OPCODES.asyncCancel, fd, operationFlags: flags })])
  }

  #markAddress(who: typeof KERNEL | typeof SELF): number {
    return this.#marks.address + who - 1
  }

  /**
   * A ring by `wake` alone delivers no events: the pending chain may be about to deliver them, and the second report would be
   * stale. So a chain rings while the waiter is not armed only if nothing is watched.
   */
  #rung(buffer: Uint8Array, size: number): boolean {
    let byKernel = false
    for (let index = 0; index < size; index++) byKernel ||= buffer[index] === KERNEL
    if (byKernel) this.#unchained()
    if (this.#disarmed()) this.#waiting.onEvents(byKernel ? this.#take() : 0)
    return true
  }

  #unchained(): void {
    this.#chained = false
    this.#silent = false
  }

  /** True if the poller expects a call of `onEvents`, which the caller must then make. */
  #disarmed(): boolean {
    if (!this.#armed) return false
    this.#armed = false
    return true
  }

  /**
   * The send is a separate operation that needs memory, so it can fail, and the events would never be reported. Between two checks,
   * libuv reads the doorbell, so a chain that has completed before the first check and not rung by the second never will.
   */
  #checkUp(): void {
    if (!this.#chained) return
    this.#ring.poll()
    const ended = this.#ring.result(this.#result) !== PENDING
    if (!ended || !this.#silent) {
      this.#silent = ended
      return
    }
    this.#unchained()
    if (this.#disarmed()) this.#waiting.onEvents(this.#take())
  }

  #take(): number {
    return this.#fetches ? this.#fetched() : this.#fetch()
  }

  /** Copies the events that the wait returned. If the wait failed (out of memory), polls the set instead. */
  #fetched(): number {
    this.#ring.poll()
    const count = this.#ring.result(this.#result)
    if (count < 0) return this.#fetch()
    const { words } = this.#waiting.events
    const brought = this.#brought.words
    for (let word = 0; word < (count * EPOLL_EVENT_SIZE) / 4; word++) words[word] = brought[word] as number
    return count
  }

  #fetch(): number {
    const { epoll, events, capacity } = this.#waiting
    const count = libc.epoll_wait(epoll, events.address, capacity, 0)
    return count === -1 ? -lastErrno() : count
  }
}
