import { F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_SETFD, F_SETFL, FD_CLOEXEC, O_NONBLOCK } from './abi.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

/** A descriptor that the caller keeps: a function that takes one does not close it, or use it after returning. */
export type BorrowedFd = number

/**
 * A descriptor that is closed exactly once. The holder of the `OwnedFd` owns it, and must close it or `release()` the
 * number to a new owner. It is not closed when the object is garbage-collected.
 */
export class OwnedFd {
  /** -1 once closed or released: a second close cannot hit another descriptor that was given the same number. */
  #fd: number

  /** Takes ownership of `fd`. */
  constructor(fd: number) {
    if (!Number.isInteger(fd) || fd < 0) throw new BatonNativeError('BATON_ERR_INVALID_ARGUMENT', `fd ${fd}`)
    this.#fd = fd
  }

  /** The number, borrowed. Throws BATON_ERR_FD_CLOSED after `close` or `release`. */
  get fd(): BorrowedFd {
    if (this.#fd === -1) throw new BatonNativeError('BATON_ERR_FD_CLOSED')
    return this.#fd
  }

  /** True after `close` or `release`. */
  get closed(): boolean {
    return this.#fd === -1
  }

  /** A second descriptor of the same open file, CLOEXEC, owned by the caller. */
  dup(): OwnedFd {
    return dup(this.fd)
  }

  /** Transfers ownership to the caller, who must close the number. */
  release(): number {
    const fd = this.fd
    this.#fd = -1
    return fd
  }

  /** Closes it; a second call does nothing. */
  close(): void {
    if (this.#fd === -1) return
    const fd = this.#fd
    this.#fd = -1
    close(fd)
  }
}

/** close(2). Linux frees the number before it reports EINTR or EIO, so a failed close must not be retried. */
export function close(fd: number): void {
  if (libc.close(fd) === -1) throw new NativeError('close', lastErrno(), { fd })
}

/** A duplicate that is CLOEXEC from birth (F_DUPFD_CLOEXEC), owned by the caller. */
export function dup(fd: BorrowedFd): OwnedFd {
  return new OwnedFd(control(fd, F_DUPFD_CLOEXEC, 0))
}

/**
 * Makes `number` refer to the open file of `fd` (dup3(2)), closing what it referred to before. The duplicate is *not* CLOEXEC: it
 * is meant for 0, 1 and 2, which children inherit.
 */
export function dupOnto(fd: BorrowedFd, number: number): void {
  if (libc.dup3(fd, number, 0) === -1) throw new NativeError('dup3', lastErrno(), { fd })
}

export function isCloseOnExec(fd: BorrowedFd): boolean {
  return (control(fd, F_GETFD, 0) & FD_CLOEXEC) !== 0
}

/** FD_CLOEXEC belongs to the descriptor; duplicates have their own. */
export function setCloseOnExec(fd: BorrowedFd, on: boolean): void {
  const flags = control(fd, F_GETFD, 0)
  control(fd, F_SETFD, on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC)
}

export function isNonblocking(fd: BorrowedFd): boolean {
  return (control(fd, F_GETFL, 0) & O_NONBLOCK) !== 0
}

/** O_NONBLOCK belongs to the open file, so this affects every process that holds a duplicate. */
export function setNonblocking(fd: BorrowedFd, on: boolean): void {
  const flags = control(fd, F_GETFL, 0)
  control(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK)
}

function control(fd: BorrowedFd, command: number, argument: number): number {
  const result = libc.fcntl(fd, command, argument)
  if (result === -1) throw new NativeError('fcntl', lastErrno(), { fd })
  return result
}
