import { SO_ACCEPTCONN, SO_ERROR, SO_PEERCRED, SO_TYPE, SOCK_STREAM, SOL_SOCKET } from './abi.ts'
import { lazyArena } from './arena.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EINTR, ENOTCONN, ENOTSOCK } from './errno.ts'
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

/** Events of poll(2). POLLERR and POLLHUP are always reported. */
export const POLLIN = 0x001
export const POLLOUT = 0x004
export const POLLERR = 0x008
export const POLLHUP = 0x010
export const POLLNVAL = 0x020
export const POLLRDHUP = 0x2000

/** The address that a socket is bound to. */
export function localAddress(fd: BorrowedFd): SocketAddress {
  const arena = addressArena()
  resetAddress(arena)
  if (libc.getsockname(fd, arena.address + SOCKADDR, arena.address + SOCKADDR_LENGTH) === -1) {
    throw new NativeError('getsockname', lastErrno(), { fd })
  }
  return parseAddress(arena)
}

/** The address of the peer; undefined if the socket is not, or no longer, connected. */
export function peerAddress(fd: BorrowedFd): SocketAddress | undefined {
  const arena = addressArena()
  resetAddress(arena)
  if (libc.getpeername(fd, arena.address + SOCKADDR, arena.address + SOCKADDR_LENGTH) === -1) {
    const errno = lastErrno()
    if (errno === ENOTCONN) return undefined
    throw new NativeError('getpeername', errno, { fd })
  }
  return parseAddress(arena)
}

export interface PeerCredentials {
  pid: number
  uid: number
  gid: number
}

// int or struct ucred at 0, its socklen_t at 16.
const optionArena = lazyArena(24)
const OPTION_LENGTH = 16

function readOption(fd: BorrowedFd, option: number, size: number): Buffer {
  const arena = optionArena()
  arena.buffer.writeUInt32LE(size, OPTION_LENGTH)
  if (libc.getsockopt(fd, SOL_SOCKET, option, arena.address, arena.address + OPTION_LENGTH) === -1) {
    throw new NativeError('getsockopt', lastErrno(), { fd })
  }
  return arena.buffer
}

const readInt = (fd: BorrowedFd, option: number): number => readOption(fd, option, 4).readInt32LE(0)

/**
 * The process that connected (or listened, or created the pair), as the kernel recorded it at that moment:
 * SO_PEERCRED, unix(7). The pid may have been reused since. For sockets other than Unix sockets, the kernel
 * returns pid 0, and uid and gid 4294967295.
 */
export function peerCredentials(fd: BorrowedFd): PeerCredentials {
  const raw = readOption(fd, SO_PEERCRED, 12)
  return { pid: raw.readInt32LE(0), uid: raw.readUInt32LE(4), gid: raw.readUInt32LE(8) }
}

/** The socket's pending error as an errno, 0 for none; reading clears it (SO_ERROR, socket(7)). */
export function socketError(fd: BorrowedFd): number {
  return readInt(fd, SO_ERROR)
}

/**
 * Whether `fd` is a listening stream socket (SO_ACCEPTCONN), as a descriptor from a service manager
 * should be. False if it is not a socket; NativeError EBADF if it is not open.
 */
export function isListening(fd: BorrowedFd): boolean {
  try {
    return readInt(fd, SO_ACCEPTCONN) === 1 && readInt(fd, SO_TYPE) === SOCK_STREAM
  } catch (error) {
    if (error instanceof NativeError && error.errno === ENOTSOCK) return false
    throw error
  }
}

/**
 * Whether `fd` is a stream socket of a connection: one that does not listen. False for what is no socket; NativeError EBADF for what is
 * not open.
 */
export function isStream(fd: BorrowedFd): boolean {
  try {
    return readInt(fd, SO_TYPE) === SOCK_STREAM && readInt(fd, SO_ACCEPTCONN) === 0
  } catch (error) {
    if (error instanceof NativeError && error.errno === ENOTSOCK) return false
    throw error
  }
}

const pollArena = lazyArena(8)

/**
 * poll(2) of one descriptor, without waiting. Returns `revents`: 0 if no event occurred, POLLNVAL if it is
 * not open.
 */
export function poll(fd: BorrowedFd, events: number): number {
  const arena = pollArena()
  const { buffer } = arena
  for (;;) {
    buffer.writeInt32LE(fd, 0)
    buffer.writeInt16LE(events, 4)
    buffer.writeInt16LE(0, 6)
    if (libc.poll(arena.address, 1, 0) !== -1) return buffer.readUInt16LE(6)
    const errno = lastErrno()
    if (errno !== EINTR) throw new NativeError('poll', errno, { fd })
  }
}

/** Descriptors for each call of `pollEach`. */
const POLL_BATCH = 64
/** Size of `struct pollfd`. */
const POLLFD = 8

const pollsArena = lazyArena(POLL_BATCH * POLLFD)

/** `poll` of several descriptors, 64 with each system call. @returns `revents` of each */
export function pollEach(fds: readonly BorrowedFd[], events: number): number[] {
  const revents: number[] = []
  for (let from = 0; from < fds.length; from += POLL_BATCH)
    pollBatch(fds.slice(from, from + POLL_BATCH), events, revents)
  return revents
}

function pollBatch(fds: readonly BorrowedFd[], events: number, revents: number[]): void {
  const arena = pollsArena()
  const { buffer } = arena
  for (;;) {
    for (const [index, fd] of fds.entries()) {
      buffer.writeInt32LE(fd, index * POLLFD)
      buffer.writeInt16LE(events, index * POLLFD + 4)
      buffer.writeInt16LE(0, index * POLLFD + 6)
    }
    if (libc.poll(arena.address, fds.length, 0) !== -1) break
    const errno = lastErrno()
    if (errno !== EINTR) throw new NativeError('poll', errno)
  }
  for (let index = 0; index < fds.length; index++) revents.push(buffer.readUInt16LE(index * POLLFD + 6))
}
