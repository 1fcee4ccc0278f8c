import { SCM_MAX_FD } from './abi.ts'
import { closeAside } from './close-all.ts'
import type { BorrowedFd, OwnedFd } from './descriptors.ts'
import { EAGAIN } from './errno.ts'
import { NativeError } from './errors.ts'
import { receiveMessage } from './message.ts'
import { descriptorsCanBeRefused } from './refuse-descriptors.ts'
import { recv } from './stream.ts'

/**
 * As `recv`, from a Unix socket on which no descriptor is wanted. Where the kernel cannot refuse them (`refuseDescriptors`), those
 * that arrive are received and closed on another thread, instead of by the kernel in this one.
 */
export function receivePlain(fd: BorrowedFd, max: number): Buffer {
  if (descriptorsCanBeRefused()) return recv(fd, max)
  const message = receiveMessage(fd, { size: max, maxFds: SCM_MAX_FD })
  if (message === undefined) throw new NativeError('recvmsg', EAGAIN, { fd })
  for (const unwanted of message.fds) closeAside(unwanted)
  return message.bytes
}

/** Reads of what is unread at a close. More than a queue holds, unless its sender goes on. */
const MAX_READS = 512
const READ_SIZE = 64 * 1024

/**
 * Closes a Unix socket to which another process may send. Where the kernel cannot refuse descriptors on it (`refuseDescriptors`),
 * those in its queue would be closed along with it: it is closed on another thread then. A second call does nothing.
 *
 * @param sole No other process may read it: what is unread is thrown away first, so that the other thread is soon free again.
 */
export function closeReachable(owned: OwnedFd, sole: boolean): void {
  if (owned.closed) return
  if (descriptorsCanBeRefused()) return owned.close()
  if (sole) discardUnread(owned.fd)
  closeAside(owned)
}

function discardUnread(fd: BorrowedFd): void {
  try {
    for (let reads = 0; reads < MAX_READS && receivePlain(fd, READ_SIZE).length > 0; reads++);
  } catch (error) {
    // Nothing is left, or the connection has failed.
    if (!(error instanceof NativeError)) throw error
  }
}
