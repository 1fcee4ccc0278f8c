import { AF_UNIX, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK } from './abi.ts'
import { lazyArena } from './arena.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EMSGSIZE } from './errno.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import { sendMessage } from './message.ts'
import { addressArena, SOCKADDR, writeUnixAddress } from './socket-address.ts'
import { createSocket } from './sockets.ts'

/** Much more than any service manager reads (systemd: 4 KiB). */
const MAX_BYTES = 64 * 1024
const messageArena = lazyArena(MAX_BYTES)

/**
 * Sends one datagram to a Unix socket, without blocking, as for a service manager's NOTIFY_SOCKET
 * (sd_notify(3)). `path` is a path, or `@name` for an abstract socket. The datagram is sent whole or not at all, and
 * the receiver can identify the sender (SCM_CREDENTIALS). NativeError with `path`: ENOENT, ECONNREFUSED (no process
 * has it open), EACCES, EAGAIN (the receiver's queue is full), EMSGSIZE (over 64 KiB), EPROTOTYPE (not a datagram socket),
 * ETOOMANYREFS (too many descriptors in flight).
 *
 * @param fds sent with it; the caller keeps them
 */
export function sendDatagram(path: string, bytes: Uint8Array, fds: readonly BorrowedFd[] = []): void {
  const target = addressArena()
  const length = writeUnixAddress(target, 'sendto', path.startsWith('@') ? `\0${path.slice(1)}` : path)
  if (bytes.length > MAX_BYTES) throw new NativeError('sendto', EMSGSIZE, { path, fd: -1 })
  const socket = createSocket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
  const to = target.address + SOCKADDR
  try {
    if (fds.length > 0) {
      if (libc.connect(socket.fd, to, length) === -1)
        throw new NativeError('connect', lastErrno(), { path, fd: socket.fd })
      sendMessage(socket.fd, { bytes, fds })
      return
    }
    const message = messageArena()
    message.buffer.set(bytes)
    if (libc.sendto(socket.fd, message.address, bytes.length, MSG_NOSIGNAL, to, length) === -1) {
      throw new NativeError('sendto', lastErrno(), { path, fd: socket.fd })
    }
  } catch (error) {
    if (!(error instanceof NativeError) || error.syscall !== 'sendmsg') throw error
    throw new NativeError(error.syscall, error.errno, { path, fd: socket.fd })
  } finally {
    socket.close()
  }
}
