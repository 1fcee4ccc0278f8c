import { Socket, type SocketConstructorOpts } from 'node:net'
import type { BorrowedFd, OwnedFd } from '@baton/native-sendmsg'
import { withReader } from './reader.ts'

const descriptors = new WeakMap<Socket, BorrowedFd>()

/**
 * The socket of a connected Unix socket. It reads nothing until it is resumed.
 *
 * @param fd owned by the socket from now on
 * @throws {Error} from libuv; the caller then still owns `fd`
 */
export function openUnix(fd: OwnedFd): Socket {
  // A socket made from a descriptor starts reading immediately; `manualStart` (lib/net.js, missing in the types) delays that. A paused socket
  // would halve the throughput of a relay.
  const options: SocketConstructorOpts & { manualStart: boolean } = {
    fd: fd.fd,
    allowHalfOpen: true,
    manualStart: true,
  }
  const socket = withReader((onread) => new Socket({ ...options, onread } as SocketConstructorOpts))
  descriptors.set(socket, fd.release())
  return socket
}

/** Its descriptor, while it is open; undefined for a socket that is not of `openUnix`. */
export function unixDescriptorOf(socket: Socket): BorrowedFd | undefined {
  return socket.destroyed ? undefined : descriptors.get(socket)
}
