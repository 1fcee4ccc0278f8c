import { SOCK_CLOEXEC, SOCK_NONBLOCK } from './abi.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EAGAIN, ECONNABORTED, EINTR, EPROTO } from './errno.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import {
  addressArena,
  parseAddress,
  resetAddress,
  SOCKADDR,
  SOCKADDR_LENGTH,
  type SocketAddress,
} from './socket-address.ts'

export interface AcceptedConnection {
  /** Nonblocking, CLOEXEC; the caller owns it. */
  fd: number
  /** As accept4 filled it in, without another system call; turned into text when it is read. */
  peer: SocketAddress
}

/**
 * Takes one connection from a listening socket that is nonblocking, or returns undefined when none waits. A
 * connection that died in the queue (ECONNABORTED, EPROTO) is skipped. Throws NativeError for the rest:
 * EMFILE and ENFILE say that the connection still waits and that a descriptor must be freed first.
 */
export function acceptOne(listenFd: BorrowedFd): AcceptedConnection | undefined {
  const arena = addressArena()
  for (;;) {
    resetAddress(arena)
    const fd = libc.accept4(
      listenFd,
      arena.address + SOCKADDR,
      arena.address + SOCKADDR_LENGTH,
      SOCK_NONBLOCK | SOCK_CLOEXEC,
    )
    if (fd !== -1) return { fd, peer: parseAddress(arena) }
    const errno = lastErrno()
    if (errno === EAGAIN) return undefined
    if (errno !== EINTR && errno !== ECONNABORTED && errno !== EPROTO) {
      throw new NativeError('accept4', errno, { fd: listenFd })
    }
  }
}
