import { closeSync, openSync } from 'node:fs'
import { Socket } from 'node:net'
import { O_CLOEXEC } from './abi.ts'
import { lazyArena } from './arena.ts'
import { OwnedFd } from './descriptors.ts'
import { EAGAIN } from './errno.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import { createPipe } from './pipe.ts'

const scratch = lazyArena(64)

/**
 * Makes a wait on a pool thread return: through `wake()`, or automatically when the environment ends without
 * running any JavaScript (`Worker.terminate()`).
 *
 * Node's clean-up first closes the handles of the environment, then waits for its thread-pool requests, and
 * only then runs clean-up hooks and closes the descriptors that `fs` opened (`Environment::RunCleanup`). A
 * wait without a timeout is one of those requests, so a hook would run too late (measured: the Worker hangs).
 * Therefore the write end belongs to a handle: a `net.Socket` that is not being read, and so does not keep the
 * process alive. Closing it raises EPOLLHUP at the read end, which must outlive the wait and is closed last.
 * All of this is public API; checked on Node 20.20, 22.23, 24.21 and 26.10.
 */
export class WakePipe {
  /** The read end; watch it for EPOLLIN. EPOLLHUP is always reported. */
  readonly fd: number
  readonly #writeFd: number
  readonly #writeEnd: Socket

  constructor() {
    const [readEnd, writeEnd] = createPipe({ nonblocking: true })
    try {
      this.fd = closedWithEnvironment(readEnd)
    } catch (error) {
      writeEnd.close()
      throw error
    }
    this.#writeFd = writeEnd.release()
    this.#writeEnd = new Socket({ fd: this.#writeFd, readable: false, writable: true })
  }

  /** Never blocks; a full pipe wakes the wait anyway. */
  wake(): void {
    if (libc.write(this.#writeFd, scratch().address, 1) !== -1) return
    const errno = lastErrno()
    if (errno !== EAGAIN) throw new NativeError('write', errno, { fd: this.#writeFd })
  }

  /** Reads what `wake` wrote. */
  drain(): void {
    while (libc.read(this.fd, scratch().address, 64) > 0);
  }

  /** No wait may be outstanding. */
  close(): void {
    this.#writeEnd.destroy()
    closeSync(this.fd)
  }
}

/**
 * Moves a descriptor to a number returned by `fs.openSync`, which Node closes at the very end of a Worker
 * (`trackUnmanagedFds`, on by default). To close it earlier, use `fs.closeSync`, which ends the tracking too.
 */
export function closedWithEnvironment(owned: OwnedFd): number {
  try {
    const tracked = openSync('/', 'r')
    if (libc.dup3(owned.fd, tracked, O_CLOEXEC) !== -1) return tracked
    const errno = lastErrno()
    closeSync(tracked)
    throw new NativeError('dup3', errno, { fd: owned.fd })
  } finally {
    owned.close()
  }
}
