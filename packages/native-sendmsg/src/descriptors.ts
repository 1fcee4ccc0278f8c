import { F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_SETFD, F_SETFL, FD_CLOEXEC, O_NONBLOCK } from './abi.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

/**
 * A descriptor that stays the caller's: a function that takes one never closes it and keeps it no longer
 * than the call.
 */
export type BorrowedFd = number

/**
 * A descriptor that is closed exactly once. Whoever holds the `OwnedFd` owns it: close it, or `release()` the
 * number to a new owner. Nothing closes it when the object is collected.
 */
export class OwnedFd {
  /** -1 once closed or released: a second close can not hit a stranger that got the same number. */
  #fd: number

  /** Takes ownership of `fd`. */
  constructor(fd: number) {
    if (!Number.isInteger(fd) || fd < 0) throw new BatonNativeError('BATON_ERR_INVALID_ARGUMENT', `fd ${fd}`)
    this.#fd = fd
  }

  /** The number, to borrow. Throws BATON_ERR_FD_CLOSED after `close` or `release`. */
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

  /** Gives the number and the duty to close it to the caller. */
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

/**
 * close(2). The number is free again whatever the answer (Linux closes before it reports EINTR or EIO), so a
 * failure is told and must not be tried again.
 */
export function close(fd: number): void {
  if (libc.close(fd) === -1) throw new NativeError('close', lastErrno(), { fd })
}

/** A duplicate that is CLOEXEC from birth (F_DUPFD_CLOEXEC), owned by the caller. */
export function dup(fd: BorrowedFd): OwnedFd {
  return new OwnedFd(control(fd, F_DUPFD_CLOEXEC, 0))
}

/**
 * Makes `number` another descriptor of the open file of `fd` (dup3(2)); what it was before is closed. It is *not* CLOEXEC: meant
 * for 0, 1 and 2, which every child gets.
 */
export function dupOnto(fd: BorrowedFd, number: number): void {
  if (libc.dup3(fd, number, 0) === -1) throw new NativeError('dup3', lastErrno(), { fd })
}

export function isCloseOnExec(fd: BorrowedFd): boolean {
  return (control(fd, F_GETFD, 0) & FD_CLOEXEC) !== 0
}

/** FD_CLOEXEC belongs to the descriptor: duplicates keep their own. */
export function setCloseOnExec(fd: BorrowedFd, on: boolean): void {
  const flags = control(fd, F_GETFD, 0)
  control(fd, F_SETFD, on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC)
}

export function isNonblocking(fd: BorrowedFd): boolean {
  return (control(fd, F_GETFL, 0) & O_NONBLOCK) !== 0
}

/** O_NONBLOCK belongs to the open file: it changes for every process that holds a duplicate. */
export function setNonblocking(fd: BorrowedFd, on: boolean): void {
  const flags = control(fd, F_GETFL, 0)
  control(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK)
}

function control(fd: BorrowedFd, command: number, argument: number): number {
  const result = libc.fcntl(fd, command, argument)
  if (result === -1) throw new NativeError('fcntl', lastErrno(), { fd })
  return result
}
