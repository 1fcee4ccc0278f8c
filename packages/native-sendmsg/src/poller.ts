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
import { lastErrno, libc } from './libc.ts'
import { RingWaiter } from './ring-waiter.ts'
import { mainRing, whyNoRing } from './main-ring.ts'
import { ThreadWaiter } from './thread-waiter.ts'
import type { Waiter, Waiting } from './waiter.ts'
import { closedWithEnvironment } from './wake-pipe.ts'
import { EPOLLERR, EPOLLHUP, type ReadinessListener, Watch, type Watcher } from './watch.ts'

/** Events that one wait brings back; the kernel brings the others first the next time (it goes round). */
const EVENTS_PER_WAIT = 256
/** Milliseconds; the least that a timer of Node's takes, and less than a busy backend needs for a batch. */
const MAX_HELD_BACK = 1
/** Generation of what a waiter may have in the set for itself; watches count from 1. */
const WAKE = 0
const LAST_GENERATION = 0xffff_ffff

export { type ReadinessListener } from './watch.ts'

export interface PollerOptions {
  /** Called once after the listeners of each wake-up, before the next wait: the place to send batches. */
  afterWake?: (() => void) | undefined
  /**
   * Asked after `afterWake`: whether the next round may wait for a call of `advance`, because those who would be given what
   * comes are busy with what they have. It comes by itself after a millisecond or two (`MAX_HELD_BACK`). So batches grow just
   * when they save work, and nobody waits for them otherwise.
   */
  holdBack?: (() => boolean) | undefined
  /** Whether the kernel may be asked to wait (io_uring), where it can. Default true. */
  ring?: boolean | undefined
}

/** Who waits for a poller; if it is a thread, the reason says why. */
export type Readiness = { readonly by: 'io_uring' } | { readonly by: 'thread'; readonly reason: string }

/** Pollers that this thread has open, for the one exit handler. */
const open = new Set<Poller>()

function exitAll(): void {
  for (const poller of open) poller.exit()
}

/**
 * Readiness of raw descriptors: one epoll set, level-triggered unless asked otherwise. Who waits for it is a `Waiter`: the
 * kernel, through io_uring, or a thread of libuv's pool. There is at most one wait at a time, and none that keeps the process
 * alive while nothing is watched. Listeners run on the thread that made the poller; the next wait begins after the last of them.
 *
 * Without io_uring a poller with watches takes one of the pool's threads (4 by default, for all Workers of the process
 * together), so have one.
 */
export class Poller {
  readonly readiness: Readiness
  readonly #afterWake: (() => void) | undefined
  readonly #holdBack: () => boolean
  readonly #epoll: number
  readonly #waiter: Waiter
  readonly #events = new Arena(EVENTS_PER_WAIT * EPOLL_EVENT_SIZE)
  readonly #request = new Arena(EPOLL_EVENT_SIZE)
  readonly #watches = new Map<number, Watch>()
  readonly #watcher: Watcher = {
    modify: (watch, events) => this.#modify(watch, events),
    remove: (watch) => this.#remove(watch),
  }
  #generation = WAKE
  #state: 'idle' | 'waiting' | 'dispatching' | 'held back' = 'idle'
  #heldBackUntil: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: PollerOptions = {}) {
    this.#afterWake = options.afterWake
    this.#holdBack = options.holdBack ?? (() => false)
    this.#epoll = createEpoll()
    try {
      const found = options.ring === false ? undefined : mainRing()
      const waiting: Waiting = {
        epoll: this.#epoll,
        events: this.#events,
        capacity: EVENTS_PER_WAIT,
        onEvents: (count) => this.#woken(count),
      }
      this.#waiter =
        found === undefined
          ? new ThreadWaiter(waiting)
          : new RingWaiter(found.ring, found.waitsForEvents, waiting)
      this.readiness =
        found === undefined
          ? { by: 'thread', reason: (options.ring === false ? undefined : whyNoRing()) ?? 'asked for' }
          : { by: 'io_uring' }
    } catch (error) {
      closeSync(this.#epoll)
      throw error
    }
    // First in line, because any exit listener may end the process before the later ones run.
    if (open.size === 0) process.prependListener('exit', exitAll)
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
    if (this.#state === 'idle' || this.#state === 'held back') this.#closeAll()
    else this.wake()
  }

  /** Begins the round that was held back. Not at once, but before anything else that the event loop has. */
  advance(): void {
    if (this.#state === 'held back') process.nextTick(() => this.#collect())
  }

  /** Makes an outstanding wait return. */
  wake(): void {
    if (this.#state === 'waiting') this.#waiter.wake()
  }

  /** The process ends. */
  exit(): void {
    this.#waiter.exit()
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
    if (this.#state !== 'idle' || this.#watches.size === 0) return
    this.#state = 'waiting'
    this.#waiter.arm()
  }

  /** Only a set that somebody else has closed makes epoll_wait fail; what is thrown here ends the process. */
  #woken(count: number): void {
    if (count < 0 && count !== -EINTR) throw new NativeError('epoll_wait', -count, { fd: this.#epoll })
    this.#state = 'dispatching'
    this.#dispatch(count)
    this.#state = 'idle'
    if (this.#closed) return this.#closeAll()
    if (this.#watches.size === 0) this.#waiter.rest()
    else if (count > 0 && this.#mayWait()) this.#wait()
    else this.#arm()
  }

  #mayWait(): boolean {
    let may = false
    guarded(() => {
      may = this.#holdBack()
    })
    return may
  }

  /** The timer keeps the process: no thread waits meanwhile that would. */
  #wait(): void {
    this.#state = 'held back'
    if (this.#heldBackUntil) this.#heldBackUntil.refresh()
    else this.#heldBackUntil = setTimeout(() => this.#collect(), MAX_HELD_BACK)
  }

  /** A round without a wait, since it is likely that there is something. */
  #collect(): void {
    if (this.#state !== 'held back') return
    const count = libc.epoll_wait(this.#epoll, this.#events.address, EVENTS_PER_WAIT, 0)
    this.#woken(count === -1 ? -lastErrno() : count)
  }

  #dispatch(count: number): void {
    const { buffer } = this.#events
    for (let index = 0; index < count; index++) {
      const at = index * EPOLL_EVENT_SIZE
      const generation = buffer.readUInt32LE(at + EPOLL_DATA + 4)
      if (generation === WAKE) continue
      this.#deliver(buffer.readInt32LE(at + EPOLL_DATA), generation, buffer.readUInt32LE(at))
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

  #closeAll(): void {
    // An `advance` may be on its way, and the number of the set is somebody else's soon.
    this.#state = 'idle'
    open.delete(this)
    if (open.size === 0) process.off('exit', exitAll)
    clearTimeout(this.#heldBackUntil)
    this.#waiter.close()
    closeSync(this.#epoll)
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
 * closed. It waits seldom and briefly, and in other people's programs, so it has no ring.
 */
export function sharedPoller(): Poller {
  return (shared ??= new Poller({ ring: false }))
}
