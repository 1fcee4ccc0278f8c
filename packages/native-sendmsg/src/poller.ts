import { closeSync } from 'node:fs'
import {
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLL_CTL_MOD,
  EPOLL_DATA,
  EPOLL_EVENT_SIZE,
  O_CLOEXEC,
} from './abi.ts'
import { Arena } from './arena.ts'
import { OwnedFd, type BorrowedFd } from './descriptors.ts'
import { EINTR } from './errno.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { epollWait, lastErrno, libc } from './libc.ts'
import { closedWithEnvironment, WakePipe } from './wake-pipe.ts'
import { EPOLLERR, EPOLLHUP, EPOLLIN, type ReadinessListener, Watch, type Watcher } from './watch.ts'

/** Events that one wait brings back; the kernel brings the others first the next time (it goes round). */
const EVENTS_PER_WAIT = 256
/** Generation of the wake pipe; watches count from 1. */
const WAKE = 0
const LAST_GENERATION = 0xffff_ffff

export { type ReadinessListener } from './watch.ts'

export interface PollerOptions {
  /** Called once after the listeners of each wake-up, before the next wait: the place to send batches. */
  afterWake?: (() => void) | undefined
}

/** Pollers that this thread has open, for the one exit handler. */
const open = new Set<Poller>()

function wakeAll(): void {
  for (const poller of open) poller.wake()
}

/**
 * Readiness of raw descriptors: one epoll set, level-triggered unless asked otherwise, whose epoll_wait(2)
 * runs on a thread of libuv's pool. There is at most one wait at a time, and none while nothing is watched,
 * so that the process can end. Listeners run on the thread that made the poller; the next wait begins after
 * the last of them.
 *
 * A poller with watches takes one of the pool's threads (4 by default, for all Workers of the process
 * together), so have one.
 */
export class Poller {
  readonly #afterWake: (() => void) | undefined
  readonly #pipe = new WakePipe()
  readonly #epoll: number
  readonly #events = new Arena(EVENTS_PER_WAIT * EPOLL_EVENT_SIZE)
  readonly #request = new Arena(EPOLL_EVENT_SIZE)
  readonly #watches = new Map<number, Watch>()
  readonly #watcher: Watcher = {
    modify: (watch, events) => this.#modify(watch, events),
    remove: (watch) => this.#remove(watch),
  }
  #generation = WAKE
  #state: 'idle' | 'waiting' | 'dispatching' = 'idle'
  #closed = false

  constructor(options: PollerOptions = {}) {
    this.#afterWake = options.afterWake
    try {
      this.#epoll = createEpoll()
    } catch (error) {
      this.#pipe.close()
      throw error
    }
    this.#control(EPOLL_CTL_ADD, this.#pipe.fd, EPOLLIN, WAKE)
    // First in line, because any exit listener may end the process before the later ones run.
    if (open.size === 0) process.prependListener('exit', wakeAll)
    open.add(this)
  }

  /** How many descriptors are watched. */
  get size(): number {
    return this.#watches.size
  }

  /**
   * Watches `fd` for `events` (EPOLLIN | ...). The listener gets those that hold. What it throws becomes an
   * uncaught exception after the round; the other listeners still run. NativeError: EEXIST (watched
   * already), EPERM (a regular file), ENOSPC.
   */
  add(fd: BorrowedFd, events: number, listener: ReadinessListener): Watch {
    if (this.#closed) throw new BatonNativeError('BATON_ERR_FD_CLOSED', 'the poller is closed')
    this.#generation = this.#generation === LAST_GENERATION ? WAKE + 1 : this.#generation + 1
    const watch = new Watch(this.#watcher, fd, this.#generation, events, listener)
    this.#control(EPOLL_CTL_ADD, fd, events, watch.generation)
    this.#watches.set(fd, watch)
    this.#arm()
    return watch
  }

  /** Drops all watches and closes the set as soon as its wait has returned. A second call does nothing. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    // Nobody else has the epoll set: its entries end with it.
    this.#watches.clear()
    if (this.#state === 'idle') this.#release()
    else this.wake()
  }

  /** Makes an outstanding wait return. */
  wake(): void {
    if (this.#state === 'waiting') this.#pipe.wake()
  }

  #modify(watch: Watch, events: number): void {
    if (this.#watches.get(watch.fd) !== watch) return
    this.#control(EPOLL_CTL_MOD, watch.fd, events, watch.generation)
  }

  #remove(watch: Watch): void {
    // Another one: the descriptor was closed without a word, and its number is watched anew.
    if (this.#watches.get(watch.fd) !== watch) return
    this.#watches.delete(watch.fd)
    if (this.#watches.size === 0) this.wake()
    this.#control(EPOLL_CTL_DEL, watch.fd, 0, watch.generation)
  }

  #control(operation: number, fd: BorrowedFd, events: number, generation: number): void {
    const { buffer, address } = this.#request
    buffer.writeUInt32LE(events, 0)
    buffer.writeInt32LE(fd, EPOLL_DATA)
    buffer.writeUInt32LE(generation, EPOLL_DATA + 4)
    if (libc.epoll_ctl(this.#epoll, operation, fd, address) === -1) {
      throw new NativeError('epoll_ctl', lastErrno(), { fd })
    }
  }

  #arm(): void {
    if (this.#state === 'idle' && this.#watches.size > 0) void this.#wait()
  }

  /** A rejection ends the process: only a set that somebody else has closed makes epoll_wait fail. */
  async #wait(): Promise<void> {
    this.#state = 'waiting'
    const count = await epollWait(this.#epoll, this.#events.address, EVENTS_PER_WAIT)
    if (count < 0 && count !== -EINTR) throw new NativeError('epoll_wait', -count, { fd: this.#epoll })
    this.#state = 'dispatching'
    this.#dispatch(count)
    this.#state = 'idle'
    if (this.#closed) this.#release()
    else this.#arm()
  }

  #dispatch(count: number): void {
    const { buffer } = this.#events
    for (let index = 0; index < count; index++) {
      const at = index * EPOLL_EVENT_SIZE
      const generation = buffer.readUInt32LE(at + EPOLL_DATA + 4)
      if (generation === WAKE) this.#pipe.drain()
      else this.#deliver(buffer.readInt32LE(at + EPOLL_DATA), generation, buffer.readUInt32LE(at))
    }
    if (!this.#closed && this.#afterWake !== undefined) guarded(this.#afterWake)
  }

  #deliver(fd: BorrowedFd, generation: number, events: number): void {
    const watch = this.#watches.get(fd)
    // A listener before this one may have removed the watch, watched the number anew, or asked for less.
    if (watch === undefined || watch.generation !== generation) return
    const wanted = events & (watch.events | EPOLLERR | EPOLLHUP)
    if (wanted !== 0) guarded(() => watch.listener(wanted))
  }

  #release(): void {
    open.delete(this)
    if (open.size === 0) process.off('exit', wakeAll)
    closeSync(this.#epoll)
    this.#pipe.close()
  }
}

function createEpoll(): number {
  const epoll = libc.epoll_create1(O_CLOEXEC)
  if (epoll === -1) throw new NativeError('epoll_create1', lastErrno())
  return closedWithEnvironment(new OwnedFd(epoll))
}

/** What `call` throws becomes an uncaught exception once the round is over. */
function guarded(call: () => void): void {
  try {
    call()
  } catch (error) {
    process.nextTick(() => {
      throw error
    })
  }
}

let shared: Poller | undefined

/**
 * The poller of this thread for those who have none of their own; made when it is first asked for, never
 * closed.
 */
export function sharedPoller(): Poller {
  return (shared ??= new Poller())
}
