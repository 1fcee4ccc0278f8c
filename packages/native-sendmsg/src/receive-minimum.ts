import { SO_RCVLOWAT, SOL_SOCKET } from './abi.ts'
import { lazyArena } from './arena.ts'
import type { BorrowedFd } from './descriptors.ts'
import { libc } from './libc.ts'

const oneByte = lazyArena(4)

/**
 * Sets SO_RCVLOWAT to one byte, its default. A TCP socket is reported as readable only once that many bytes are there; the value belongs
 * to the open file, so any process that ever had a duplicate may have set it. Does nothing if `fd` is not a socket.
 */
export function clearReceiveMinimum(fd: BorrowedFd): void {
  const arena = oneByte()
  arena.words[0] = 1
  libc.setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, arena.address, 4)
}
