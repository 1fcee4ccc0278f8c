import { EPOLL_CTL_ADD, EPOLL_DATA, EPOLL_EVENT_SIZE } from './abi.ts'
import { Arena } from './arena.ts'
import { NativeError } from './errors.ts'
import { epollWait, lastErrno, libc } from './libc.ts'
import type { Waiter, Waiting } from './waiter.ts'
import { WakePipe } from './wake-pipe.ts'
import { EPOLLIN } from './watch.ts'

/**
 * epoll_wait(2) on a thread of libuv's pool, woken through a pipe in the set. Works everywhere, but occupies one thread of the
 * pool (4 by default, shared by all Workers of the process) while anything is watched.
 */
export class ThreadWaiter implements Waiter {
  readonly #waiting: Waiting
  readonly #pipe = new WakePipe()
  #armed = false

  constructor(waiting: Waiting) {
    this.#waiting = waiting
    const request = new Arena(EPOLL_EVENT_SIZE)
    request.buffer.writeUInt32LE(EPOLLIN, 0)
    // The generation stays 0, which no watch has.
    request.buffer.writeInt32LE(this.#pipe.fd, EPOLL_DATA)
    if (libc.epoll_ctl(waiting.epoll, EPOLL_CTL_ADD, this.#pipe.fd, request.address) === -1) {
      const errno = lastErrno()
      this.#pipe.close()
      throw new NativeError('epoll_ctl', errno, { fd: this.#pipe.fd })
    }
  }

  arm(): void {
    this.#armed = true
    void this.#wait()
  }

  wake(): void {
    if (this.#armed) this.#pipe.wake()
  }

  /** A pool thread that never returns would keep the process alive. */
  exit(): void {
    this.wake()
  }

  /** No wait is outstanding, so no thread is occupied. */
  rest(): void {}

  close(): void {
    this.#pipe.close()
  }

  async #wait(): Promise<void> {
    const { epoll, events, capacity, onEvents } = this.#waiting
    const count = await epollWait(epoll, events.address, capacity)
    this.#armed = false
    this.#pipe.drain()
    onEvents(count)
  }
}
