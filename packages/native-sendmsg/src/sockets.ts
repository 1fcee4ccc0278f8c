import { AF_UNIX, SHUT_RDWR, SOCK_CLOEXEC, SOCK_SEQPACKET, SOCK_STREAM } from './abi.ts'
import { lazyArena } from './arena.ts'
import { OwnedFd, type BorrowedFd } from './descriptors.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

/** `stream` is a byte stream; `seqpacket` preserves message boundaries. Both are connected and reliable (unix(7)). */
export type UnixSocketType = 'stream' | 'seqpacket'

export const socketType = (type: UnixSocketType): number => (type === 'stream' ? SOCK_STREAM : SOCK_SEQPACKET)

/** Creates a socket, owned by the caller. */
export function createSocket(family: number, type: number): OwnedFd {
  const fd = libc.socket(family, type, 0)
  if (fd === -1) throw new NativeError('socket', lastErrno(), { fd: -1 })
  return new OwnedFd(fd)
}

const pairArena = lazyArena(8)

/** Two connected Unix sockets, CLOEXEC from birth, blocking; the caller owns both. */
export function socketpair(type: UnixSocketType): [OwnedFd, OwnedFd] {
  const arena = pairArena()
  if (libc.socketpair(AF_UNIX, socketType(type) | SOCK_CLOEXEC, 0, arena.address) === -1) {
    throw new NativeError('socketpair', lastErrno(), { fd: -1 })
  }
  return [new OwnedFd(arena.buffer.readInt32LE(0)), new OwnedFd(arena.buffer.readInt32LE(4))]
}

const optionArena = lazyArena(8)

/** setsockopt(2) with an int. */
export function setOption(fd: BorrowedFd, level: number, option: number, value: number): void {
  const arena = optionArena()
  arena.buffer.writeInt32LE(value)
  if (libc.setsockopt(fd, level, option, arena.address, 4) === -1) {
    throw new NativeError('setsockopt', lastErrno(), { fd })
  }
}

/** shutdown(2) of both directions, for all holders of the socket. Closes nothing. */
export function shutdownBoth(fd: BorrowedFd): void {
  if (libc.shutdown(fd, SHUT_RDWR) === -1) throw new NativeError('shutdown', lastErrno(), { fd })
}
