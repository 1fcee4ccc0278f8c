import { type ConnectOpts, Socket, type SocketConstructorOpts } from 'node:net'
import { EPOLL_EVENT_SIZE, MSG_DONTWAIT, MSG_NOSIGNAL } from './abi.ts'
import { Arena } from './arena.ts'
import { EAGAIN } from './errno.ts'
import { NativeError } from './errors.ts'
import { POLLIN } from './inspect.ts'
import { lastErrno, libc } from './libc.ts'
import { CANCEL_ALL_OF_FD, HARDLINK, OPCODES, SKIP_SUCCESS } from './ring-abi.ts'
import { PENDING, type Ring, type Submission } from './ring.ts'
import { socketpair } from './sockets.ts'
import type { Waiter, Waiting } from './waiter.ts'

/** What lies in the bell says who rang. */
const KERNEL = 1
const SELF = 2

/** While the kernel takes no chain, for want of memory, the set is asked so often: milliseconds. */
const REFUSED_PAUSE_MS = 10
/** How often somebody looks whether a chain has ended without a sound: milliseconds. */
const CHECK_INTERVAL_MS = 1000

/** Closed while the kernel would not give their chain back: it may write into their memory yet. */
const abandoned = new Set<RingWaiter>()

/**
 * Waits without a thread. Node can wait for bytes, not for readiness, so the kernel turns the one into the other: a wait for
 * the epoll set is linked to a send of one byte into a socketpair (io_uring, IOSQE_IO_HARDLINK) whose other end libuv reads.
 * No thread is woken to wake another one, which took 25 us and most of the context switches of a handoff.
 *
 * Since Linux 6.15 the wait brings the events along; before, it is a poll, and epoll_wait(2) follows.
 */
export class RingWaiter implements Waiter {
  readonly #ring: Ring
  readonly #waiting: Waiting
  readonly #fetches: boolean
  readonly #bell: Socket
  readonly #clapper: Socket
  readonly #clapperFd: number
  readonly #marks = new Arena(8)
  /** The kernel may write into it at any time while a chain is out, so the poller reads a copy. */
  readonly #brought: Arena
  /** Where the ring puts what the wait of a chain said. */
  readonly #result: number
  readonly #chain: readonly Submission[]
  /** The poller waits for a call. */
  #armed = false
  /** The kernel holds a chain that has not rung yet. */
  #chained = false
  /** The kernel did not take the last chain; half of it may be out. */
  #refused = false
  #pause: NodeJS.Timeout | undefined
  /** The chain had ended at the last check, and had not rung. */
  #silent = false
  readonly #check: NodeJS.Timeout

  /** `fetches`: whether the ring knows IORING_OP_EPOLL_WAIT. */
  constructor(ring: Ring, fetches: boolean, waiting: Waiting) {
    this.#ring = ring
    this.#fetches = fetches
    this.#waiting = waiting
    this.#brought = new Arena(waiting.events.buffer.length)
    this.#marks.buffer.set([KERNEL, SELF])
    const [near, far] = socketpair('stream')
    this.#result = ring.reserve()
    // `onread` is an option of the constructor too (since Node 12.10); its types leave it out.
    const options: SocketConstructorOpts & ConnectOpts = {
      fd: near.release(),
      onread: {
        buffer: Buffer.allocUnsafeSlow(64),
        callback: (size, buffer) => this.#rung(buffer, size),
      },
    }
    this.#bell = new Socket(options)
    this.#bell.unref()
    // Nobody reads it. It is a handle so that it is closed with the environment, as the other end is.
    this.#clapperFd = far.release()
    this.#clapper = new Socket({ fd: this.#clapperFd, readable: false, writable: true })
    this.#chain = [
      this.#wait(),
      {
        opcode: OPCODES.send,
        fd: this.#clapperFd,
        address: this.#markAddress(KERNEL),
        length: 1,
        operationFlags: MSG_NOSIGNAL,
        flags: SKIP_SUCCESS,
      },
    ]
    this.#check = setInterval(() => this.#checkUp(), CHECK_INTERVAL_MS)
    this.#check.unref()
  }

  /** A kernel that is out of memory does not end the process: the set is asked now and then until a chain is taken again. */
  arm(): void {
    if (!this.#armed) this.#bell.ref()
    this.#armed = true
    if (this.#chained) return
    try {
      if (this.#refused) this.#cancelChain()
      this.#ring.leave(this.#chain, this.#result)
      this.#chained = true
      this.#refused = false
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#refused = true
      this.#pause ??= setTimeout(() => {
        this.#pause = undefined
        if (!this.#chained && this.#disarmed()) this.#waiting.onEvents(this.#fetch())
      }, REFUSED_PAUSE_MS)
    }
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
    clearInterval(this.#check)
    clearTimeout(this.#pause)
    // The chain holds the epoll set, which would live on.
    if (this.#cancel()) this.#ring.giveBack(this.#result)
    else abandoned.add(this)
    this.#bell.destroy()
    this.#clapper.destroy()
  }

  #wait(): Submission {
    const { epoll: fd, capacity: length } = this.#waiting
    if (this.#fetches) {
      return { opcode: OPCODES.epollWait, fd, address: this.#brought.address, length, flags: HARDLINK }
    }
    return { opcode: OPCODES.pollAdd, fd, operationFlags: POLLIN, flags: HARDLINK }
  }

  /** False when the kernel refuses. */
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
    this.#ring.leave([{ opcode: OPCODES.asyncCancel, fd, operationFlags: CANCEL_ALL_OF_FD }])
  }

  #markAddress(who: typeof KERNEL | typeof SELF): number {
    return this.#marks.address + who - 1
  }

  /**
   * `wake` alone brings no events. A chain is out then, which may be bringing the same ones: told twice, they would be stale the
   * second time. So a chain rings for one who is not armed only when nothing is watched.
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

  /** True when the poller waits for a call, which is the caller's to make. */
  #disarmed(): boolean {
    if (!this.#armed) return false
    this.#armed = false
    return true
  }

  /**
   * The send is an operation of its own and needs memory of its own: it can fail, and nobody would ever hear of the events. Between
   * two checks libuv reads the bell, so a chain that has ended before the first and not rung before the second never will.
   */
  #checkUp(): void {
    if (!this.#chained) return
    this.#ring.look()
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

  /** What the kernel has brought along. A wait that failed (memory, again) says nothing of the set, so that is asked itself. */
  #fetched(): number {
    this.#ring.look()
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
