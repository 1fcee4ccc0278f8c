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
import { EpollControls, writeEvent } from './epoll-controls.ts'
import { RingWaiter } from './ring-waiter.ts'
import { mainRing, whyNoRing } from './main-ring.ts'
import { ThreadWaiter } from './thread-waiter.ts'
import type { Waiter, Waiting } from './waiter.ts'
import { closedWithEnvironment } from './wake-pipe.ts'
import {
  EPOLLERR,
  EPOLLHUP,
  type ReadinessListener,
  Watch,
  type Watcher,
  type WatchRequest,
} from './watch.ts'

/** Maximum events per wait. epoll is fair: the next wait starts with the others. */
const EVENTS_PER_WAIT = 256
/** In ms: the shortest Node timer, and less than a busy consumer needs for a batch. */
const MAX_HOLD_BACK_MS = 1
/** Generation of a waiter's own descriptor in the epoll set; those of watches start at 1. */
const WAKE = 0
const LAST_GENERATION = 0xffff_ffff

export { type ReadinessListener } from './watch.ts'

export interface PollerOptions {
  /** Called after the listeners of each wake-up, before the next wait, for example to send batches. */
  afterWake?: (() => void) | undefined
  /**
   * Called after `afterWake`: whether to hold back the next round until `advance` is called, because the consumers of its events
   * are busy. The round starts after a millisecond or two anyway (`MAX_HOLD_BACK_MS`). So batches grow only when that saves work,
   * and there is no delay otherwise.
   */
  holdBack?: (() => boolean) | undefined
  /** Whether to wait through io_uring, if the kernel supports it. Default true. */
  ring?: boolean | undefined
}

/** How the poller waits. `reason` explains why a thread is used. */
export type Readiness = { readonly by: 'io_uring' } | { readonly by: 'thread'; readonly reason: string }

/** Open pollers of this thread, for the shared exit handler. */
const open = new Set<Poller>()

function exitAll(): void {
  for (const poller of open) poller.exit()
}

/**
 * Readiness of raw descriptors: one epoll set, level-triggered by default. A `Waiter` waits for it: the kernel, through io_uring,
 * or a thread of libuv's pool. There is at most one wait at a time, and it does not keep the process alive while nothing is
 * watched. Listeners run on the thread that created the poller; the next wait starts after the last listener has returned.
 *
 * Without io_uring, a poller with watches occupies one thread of the pool (4 by default, shared by all Workers of the process),
 * so create only one.
 */
export class Poller {
  readonly readiness: Readiness
  readonly #afterWake: (() => void) | undefined
  readonly #holdBack: () => boolean
  readonly #epoll: number
  readonly #waiter: Waiter
  readonly #controls: EpollControls | undefined
  readonly #events = new Arena(EVENTS_PER_WAIT * EPOLL_EVENT_SIZE)
  readonly #request = new Arena(EPOLL_EVENT_SIZE)
  /** By descriptor: the kernel gives the lowest free number, so there are few holes. */
  #watches: (Watch | undefined)[] = []
  #size = 0
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
      this.#controls = found && new EpollControls(found.ring, this.#epoll)
      this.readiness =
        found === undefined
          ? {
              by: 'thread',
              reason: (options.ring === false ? undefined : whyNoRing()) ?? 'disabled by option',
            }
          : { by: 'io_uring' }
    } catch (error) {
      closeSync(this.#epoll)
      throw error
    }
    // Prepended, because an exit listener may end the process before later ones run.
    if (open.size === 0) process.prependListener('exit', exitAll)
    open.add(this)
  }

  /** Number of watched descriptors. */
  get size(): number {
    return this.#size
  }

  /**
   * Watches `fd` for `events` (EPOLLIN | ...). The listener receives those that occurred. An error it throws
   * becomes an uncaught exception after the round; other listeners still run. NativeError: EEXIST (already
   * watched), EPERM (a regular file), ENOSPC.
   */
  add(fd: BorrowedFd, events: number, listener: ReadinessListener): Watch {
    if (this.#closed) throw new BatonNativeError('BATON_ERR_FD_CLOSED', 'the poller is closed')
    const watch = this.#newWatch(fd, events, listener)
    this.#control(EPOLL_CTL_ADD, fd, events, watch.generation)
    this.#record(watch)
    this.#arm()
    return watch
  }

  /**
   * `add` for each; with io_uring, in one system call for up to 128. In place of a watch stands the error of those that `add` would
   * have thrown.
   */
  addMany(requests: readonly WatchRequest[]): (Watch | NativeError)[] {
    if (this.#closed) throw new BatonNativeError('BATON_ERR_FD_CLOSED', 'the poller is closed')
    const watches = requests.map(({ fd, events, listener }) => this.#newWatch(fd, events, listener))
    const errors = this.#controlMany(EPOLL_CTL_ADD, watches)
    for (const [index, watch] of watches.entries()) if (errors[index] === undefined) this.#record(watch)
    this.#arm()
    return watches.map((watch, index) => errors[index] ?? watch)
  }

  /** `Watch.remove` of each, as `addMany`. Throws the first error, once all others are removed. */
  removeMany(watches: readonly Watch[]): void {
    const current = watches.filter((watch) => watch.release() && this.#watches[watch.fd] === watch)
    for (const watch of current) this.#erase(watch)
    const errors = this.#controlMany(EPOLL_CTL_DEL, current)
    const failure = errors.find((error) => error !== undefined)
    if (failure !== undefined) throw failure
  }

  /** Drops all watches, and closes the set once an outstanding wait has returned. A second call does nothing. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    // The epoll set is not shared, so closing it removes its entries.
    this.#forget()
    if (this.#state === 'idle' || this.#state === 'held back') this.#closeAll()
    else this.wake()
  }

  /** Starts a round that is held back, in a `process.nextTick`. */
  advance(): void {
    if (this.#state === 'held back') process.nextTick(() => this.#collect())
  }

  /** Makes an outstanding wait return. */
  wake(): void {
    if (this.#state === 'waiting') this.#waiter.wake()
  }

  /** The process is exiting. */
  exit(): void {
    this.#waiter.exit()
  }

  #newWatch(fd: BorrowedFd, events: number, listener: ReadinessListener): Watch {
    this.#generation = this.#generation === LAST_GENERATION ? WAKE + 1 : this.#generation + 1
    return new Watch(this.#watcher, fd, this.#generation, events, listener)
  }

  #record(watch: Watch): void {
    // Otherwise it was closed without `remove`.
    if (this.#watches[watch.fd] === undefined) this.#size += 1
    this.#watches[watch.fd] = watch
  }

  #modify(watch: Watch, events: number): void {
    if (this.#watches[watch.fd] !== watch) return
    this.#control(EPOLL_CTL_MOD, watch.fd, events, watch.generation)
  }

  #remove(watch: Watch): void {
    // Stale: the descriptor was closed without `remove`, and a new one with the same number is watched.
    if (this.#watches[watch.fd] !== watch) return
    this.#erase(watch)
    this.#control(EPOLL_CTL_DEL, watch.fd, 0, watch.generation)
  }

  #erase(watch: Watch): void {
    this.#watches[watch.fd] = undefined
    this.#size -= 1
    if (this.#size > 0) return
    this.#forget()
    this.wake()
  }

  #control(operation: number, fd: BorrowedFd, events: number, generation: number): void {
    const { buffer, address } = this.#request
    writeEvent(buffer, 0, events, fd, generation)
    if (libc.epoll_ctl(this.#epoll, operation, fd, address) === -1) {
      throw new NativeError('epoll_ctl', lastErrno(), { fd })
    }
  }

  /** @returns the error of each, in their order */
  #controlMany(
    operation: typeof EPOLL_CTL_ADD | typeof EPOLL_CTL_DEL,
    watches: readonly Watch[],
  ): (NativeError | undefined)[] {
    if (this.#controls !== undefined && watches.length > 1) return this.#controls.run(operation, watches)
    return watches.map(({ fd, events, generation }) => {
      try {
        this.#control(operation, fd, events, generation)
        return undefined
      } catch (error) {
        if (error instanceof NativeError) return error
        throw error
      }
    })
  }

  #forget(): void {
    this.#watches = []
    this.#size = 0
  }

  #arm(): void {
    if (this.#state !== 'idle' || this.#size === 0) return
    this.#state = 'waiting'
    this.#waiter.arm()
  }

  /** epoll_wait fails only if other code has closed the set. The error is then uncaught and ends the process. */
  #woken(count: number): void {
    if (count < 0 && count !== -EINTR) throw new NativeError('epoll_wait', -count, { fd: this.#epoll })
    this.#state = 'dispatching'
    this.#dispatch(count)
    this.#state = 'idle'
    if (this.#closed) return this.#closeAll()
    if (this.#size === 0) this.#waiter.rest()
    else if (count > 0 && this.#mayHoldBack()) this.#startHoldBack()
    else this.#arm()
  }

  #mayHoldBack(): boolean {
    let may = false
    guarded(() => {
      may = this.#holdBack()
    })
    return may
  }

  /** The timer keeps the process alive, since no wait is outstanding that would. */
  #startHoldBack(): void {
    this.#state = 'held back'
    if (this.#heldBackUntil) this.#heldBackUntil.refresh()
    else this.#heldBackUntil = setTimeout(() => this.#collect(), MAX_HOLD_BACK_MS)
  }

  /** Starts a round with a nonblocking epoll_wait, since events are likely. */
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
    const watch = this.#watches[fd]
    // An earlier listener may have removed the watch, added a new one for the number, or reduced its events.
    if (watch === undefined || watch.generation !== generation) return
    const wanted = events & (watch.events | EPOLLERR | EPOLLHUP)
    if (wanted !== 0) guarded(() => watch.listener(wanted, fd))
  }

  #closeAll(): void {
    // A pending `advance` must not use the number of the set, which may be reassigned.
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

/** An error thrown by `call` becomes an uncaught exception after the round. */
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
 * The poller of this thread for code without its own, created on first use and never closed. No io_uring: it
 * is used rarely, and inside applications.
 */
export function sharedPoller(): Poller {
  return (shared ??= new Poller({ ring: false }))
}
