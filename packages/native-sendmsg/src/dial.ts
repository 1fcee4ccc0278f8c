import { AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK } from './abi.ts'
import type { BorrowedFd, OwnedFd } from './descriptors.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import { sendMessage } from './message.ts'
import { refuseDescriptors } from './refuse-descriptors.ts'
import { addressArena, SOCKADDR, writeUnixAddress } from './socket-address.ts'
import { createSocket, socketType, type UnixSocketType } from './sockets.ts'

/**
 * Connects to a Unix socket without blocking; the caller owns the connection, nonblocking and CLOEXEC.
 * A Unix connect completes immediately. NativeError with `path` and fd -1: ENOENT (no such path),
 * ECONNREFUSED (no process listens), EACCES (no write permission), EAGAIN (the accept queue is full),
 * EPROTOTYPE (socket of the other type).
 *
 * @param options.descriptors whether the listener may send descriptors (default true). False: see `refuseDescriptors`.
 */
export function connectUnix(
  path: string,
  type: UnixSocketType = 'stream',
  options: { descriptors?: boolean } = {},
): OwnedFd {
  const arena = addressArena()
  const length = writeUnixAddress(arena, 'connect', path)
  const socket = createSocket(AF_UNIX, socketType(type) | SOCK_NONBLOCK | SOCK_CLOEXEC)
  try {
    if (options.descriptors === false) refuseDescriptors(socket.fd)
    if (libc.connect(socket.fd, arena.address + SOCKADDR, length) !== -1) return socket
    throw new NativeError('connect', lastErrno(), { path, fd: -1 })
  } catch (error) {
    socket.close()
    throw error
  }
}

/**
 * Connects, sends one message with `fds`, and returns the connection, owned by the caller, who also
 * keeps `fds`. NativeError always has `path`; ShortSendError means that the descriptors may have been
 * received.
 */
export function dialAndSend(path: string, bytes: Uint8Array | Uint8Array[], fds: BorrowedFd[]): OwnedFd {
  const connection = connectUnix(path)
  try {
    sendMessage(connection.fd, { bytes, fds })
    return connection
  } catch (error) {
    const { fd } = connection
    connection.close()
    throw error instanceof NativeError ? new NativeError(error.syscall, error.errno, { path, fd }) : error
  }
}
