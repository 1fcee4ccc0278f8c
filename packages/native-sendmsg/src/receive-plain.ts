import { SCM_MAX_FD } from './abi.ts'
import { closeAside } from './close-all.ts'
import type { BorrowedFd } from './descriptors.ts'
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
