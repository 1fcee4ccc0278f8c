import { LOCK_EX, LOCK_NB, O_CLOEXEC, O_CREAT, O_RDWR } from './abi.ts'
import { refuseNul } from './c-string.ts'
import { OwnedFd } from './descriptors.ts'
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
 * process that has one, SIGKILL included. It crosses an exec that keeps the descriptor. The file must stay
 * where it is: whoever removes it lets the next one lock another file of the same name.
 */
export function lockFile(path: string): OwnedFd | undefined {
  const file = openFile(path)
  for (;;) {
    if (libc.flock(file.fd, LOCK_EX | LOCK_NB) !== -1) return file
    const errno = lastErrno()
    if (errno === EINTR) continue
    const { fd } = file
    file.close()
    if (errno === EAGAIN) return undefined
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
