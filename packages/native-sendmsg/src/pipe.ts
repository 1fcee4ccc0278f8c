import { O_CLOEXEC, O_NONBLOCK } from './abi.ts'
import { lazyArena } from './arena.ts'
import { OwnedFd } from './descriptors.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

const ends = lazyArena(8)

/**
 * Creates a pipe (pipe2(2)), both ends CLOEXEC and owned by the caller. The read end reports EOF once
 * no process holds the write end.
 */
export function createPipe({ nonblocking = false } = {}): [readEnd: OwnedFd, writeEnd: OwnedFd] {
  const arena = ends()
  const flags = nonblocking ? O_CLOEXEC | O_NONBLOCK : O_CLOEXEC
  if (libc.pipe2(arena.address, flags) === -1) throw new NativeError('pipe2', lastErrno())
  return [new OwnedFd(arena.buffer.readInt32LE(0)), new OwnedFd(arena.buffer.readInt32LE(4))]
}
