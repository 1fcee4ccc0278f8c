import { fstatSync, statSync } from 'node:fs'
import { LOCK_EX, LOCK_NB, O_CLOEXEC, O_CREAT, O_RDWR } from './abi.ts'
import { refuseNul } from './c-string.ts'
import { type BorrowedFd, OwnedFd } from './descriptors.ts'
import { EAGAIN, EINTR } from './errno.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

const MODE = 0o600

/**
 * Opens `path`, making it (0600 less the umask) when it is not there, and locks it for one holder
 * (flock(2), LOCK_EX | LOCK_NB). The caller owns the descriptor, CLOEXEC; undefined when somebody else holds
 * the lock, be it this very process through another call. NativeError with `path` for all else.
 *
 * The lock belongs to the open file: it ends when the last duplicate is closed, at the latest with the last
 * process that has one, SIGKILL included. It crosses an exec that keeps the descriptor. A file that is removed
 * or replaced after this lets the next caller lock another file of the same name.
 */
export function lockFile(path: string): OwnedFd | undefined {
  for (;;) {
    const file = openFile(path)
    if (!lock(file, path)) return undefined
    // Removed or replaced between open(2) and flock(2): a lock of a file that no other process can find excludes none.
    if (isAt(file.fd, path)) return file
    file.close()
  }
}

/** Whether `path` still leads to the open file `fd`. False when it is missing, or cannot be looked up. */
function isAt(fd: BorrowedFd, path: string): boolean {
  try {
    const open = fstatSync(fd, { bigint: true })
    const found = statSync(path, { bigint: true })
    return open.dev === found.dev && open.ino === found.ino
  } catch {
    return false
  }
}

/** Closes `file` unless it is locked now. */
function lock(file: OwnedFd, path: string): boolean {
  for (;;) {
    if (libc.flock(file.fd, LOCK_EX | LOCK_NB) !== -1) return true
    const errno = lastErrno()
    if (errno === EINTR) continue
    const { fd } = file
    file.close()
    if (errno === EAGAIN) return false
    throw new NativeError('flock', errno, { path, fd })
  }
}

function openFile(path: string): OwnedFd {
  refuseNul(path, 'the path')
  for (;;) {
    const fd = libc.open(path, O_CREAT | O_RDWR | O_CLOEXEC, MODE)
    if (fd !== -1) return new OwnedFd(fd)
    const errno = lastErrno()
    if (errno !== EINTR) throw new NativeError('open', errno, { path, fd: -1 })
  }
}
