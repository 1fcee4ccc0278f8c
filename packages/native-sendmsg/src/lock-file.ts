import { type BigIntStats, fstatSync, statSync } from 'node:fs'
import { LOCK_EX, LOCK_NB, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_RDWR } from './abi.ts'
import { refuseNul } from './c-string.ts'
import { type BorrowedFd, OwnedFd } from './descriptors.ts'
import { EAGAIN, EINTR, ESTALE } from './errno.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

const MODE = 0o600

/** More replacements than this in a row are none: on some network file systems a file has another inode each time it is looked at. */
const MAX_REPLACED = 100

/**
 * Opens `path`, creating it if missing (mode 0600 minus the umask), and locks it exclusively
 * (flock(2), LOCK_EX | LOCK_NB). The caller owns the descriptor, CLOEXEC; undefined if the lock is already
 * held, by another process or by an earlier call in this one. NativeError with `path` for other failures (ESTALE: each time it looks, another file is
 * there); the error of stat(2) in Deno if
 * `/proc` is not mounted.
 *
 * The lock belongs to the open file: it is released when the last duplicate is closed, at the latest when the
 * last process that holds one ends, even by SIGKILL. It survives an exec that keeps the descriptor. If the file
 * is removed or replaced afterwards, the next caller locks a different file of the same name.
 */
export function lockFile(path: string): OwnedFd | undefined {
  return lockOpened(path, O_CREAT | O_RDWR | O_CLOEXEC)
}

/**
 * The same for a folder, which must exist (ENOENT) and is not locked through a symbolic link (ENOTDIR). Opening it needs read
 * permission (EACCES).
 */
export function lockFolder(path: string): OwnedFd | undefined {
  return lockOpened(path, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
}

function lockOpened(path: string, flags: number): OwnedFd | undefined {
  for (let replaced = 0; replaced < MAX_REPLACED; replaced += 1) {
    const file = openAt(path, flags)
    if (!lock(file, path)) return undefined
    // Removed or replaced between open(2) and flock(2): locking a file that no other process can find excludes none.
    try {
      if (isAt(file.fd, path)) return file
    } catch (error) {
      file.close()
      throw error
    }
    file.close()
  }
  throw new NativeError('flock', ESTALE, { path, fd: -1 })
}

/**
 * Whether `path` still refers to the open file `fd`; false if it is missing. Any other error is thrown: taken for a replaced file, one
 * that lasts would repeat the lock without end.
 */
function isAt(fd: BorrowedFd, path: string): boolean {
  const open = statsOf(fd)
  const found = statSync(path, { bigint: true, throwIfNoEntry: false })
  return open.dev === found?.dev && open.ino === found.ino
}

/** Deno's fstat answers EBADF for a descriptor that Deno did not open itself. Elsewhere, `/proc` need not be mounted. */
function statsOf(fd: BorrowedFd): BigIntStats {
  try {
    return fstatSync(fd, { bigint: true })
  } catch {
    return statSync(`/proc/self/fd/${fd}`, { bigint: true })
  }
}

/** Returns true if it could lock `file`; otherwise closes it. */
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

function openAt(path: string, flags: number): OwnedFd {
  refuseNul(path, 'the path')
  for (;;) {
    const fd = libc.open(path, flags, MODE)
    if (fd !== -1) return new OwnedFd(fd)
    const errno = lastErrno()
    if (errno !== EINTR) throw new NativeError('open', errno, { path, fd: -1 })
  }
}
