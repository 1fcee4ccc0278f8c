import { SCM_MAX_FD } from './abi.ts'
import { clearLinger, closeAside } from './close-all.ts'
import type { BorrowedFd, OwnedFd } from './descriptors.ts'
import { EAGAIN } from './errno.ts'
import { NativeError } from './errors.ts'
import { receiveMessage } from './message.ts'
import { descriptorsCanBeRefused } from './refuse-descriptors.ts'
import { recv } from './stream.ts'

/**
 * Like `recv`, for a Unix socket on which no descriptors are expected. If the kernel cannot refuse them (`refuseDescriptors`), they
 * are received and closed on another thread, rather than by the kernel on this one.
 */
export function receivePlain(fd: BorrowedFd, max: number): Buffer {
  if (descriptorsCanBeRefused()) return recv(fd, max)
  const message = receiveMessage(fd, { size: max, maxFds: SCM_MAX_FD })
  if (message === undefined) throw new NativeError('recvmsg', EAGAIN, { fd })
  for (const unwanted of message.fds) closeAside(unwanted)
  return message.bytes
}

/** Maximum number of reads before a close. Enough for a whole queue, unless the sender keeps sending. */
const MAX_READS = 512
const READ_SIZE = 64 * 1024

/**
 * Closes a Unix socket to which another process may send. If the kernel cannot refuse descriptors on it (`refuseDescriptors`), the
 * socket is closed on another thread, because closing it also closes the descriptors in its queue. A second call does nothing.
 *
 * @param sole no other process reads the socket, so unread data is discarded first, to free the other thread sooner
 */
export function closeReachable(owned: OwnedFd, sole: boolean): void {
  if (owned.closed) return
  if (descriptorsCanBeRefused()) {
    // Another process may have turned it into something that lingers, if it is a TCP socket that has lost its peer.
    clearLinger(owned.fd)
    return owned.close()
  }
  if (sole) discardUnread(owned.fd)
  closeAside(owned)
}

function discardUnread(fd: BorrowedFd): void {
  try {
    for (let reads = 0; reads < MAX_READS && receivePlain(fd, READ_SIZE).length > 0; reads++);
  } catch (error) {
    // Nothing left (EAGAIN), or the connection has failed.
    if (!(error instanceof NativeError)) throw error
  }
}
