import { MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK } from './abi.ts'
import { lazyArena } from './arena.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EAGAIN, ECONNRESET, EINTR } from './errno.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

/** Maximum bytes per call: the size of the arena they are copied through. */
const CHUNK = 64 * 1024
const DEFAULT_MAX_BYTES = 16 * 1024 * 1024
const chunkArena = lazyArena(CHUNK)

/**
 * send(2), without blocking or raising SIGPIPE. Returns the number of bytes sent: at most 64 KiB per call, and
 * fewer if the kernel's buffer is nearly full. Throws NativeError, including EAGAIN.
 */
export function send(fd: BorrowedFd, bytes: Uint8Array, flags = 0): number {
  const arena = chunkArena()
  const size = Math.min(bytes.length, CHUNK)
  arena.buffer.set(size === bytes.length ? bytes : bytes.subarray(0, size))
  for (;;) {
    const sent = libc.send(fd, arena.address, size, flags | MSG_DONTWAIT | MSG_NOSIGNAL)
    if (sent !== -1) return sent
    const errno = lastErrno()
    if (errno !== EINTR) throw new NativeError('send', errno, { fd })
  }
}

/**
 * Receives up to `max` bytes (at most 64 KiB) into a new buffer; empty at EOF. Throws NativeError, including
 * EAGAIN. The kernel closes descriptors attached to the bytes: use `receiveMessage` if there can be any.
 */
export function recv(fd: BorrowedFd, max: number): Buffer {
  const count = receiveChunk(fd, max, 0)
  if (count < 0) throw new NativeError('recv', -count, { fd })
  return copyChunk(count)
}

/**
 * Like `recv`, but leaves the bytes in the socket for the next reader; undefined if there are none yet,
 * empty at EOF. Never peek where descriptors may be attached: a peek duplicates them.
 */
export function peek(fd: BorrowedFd, max: number): Buffer | undefined {
  const count = receiveChunk(fd, max, MSG_PEEK)
  if (count >= 0) return copyChunk(count)
  if (-count === EAGAIN) return undefined
  throw new NativeError('recv', -count, { fd })
}

/**
 * Reads everything available from the socket, up to EOF (`ended`) or until no more data has arrived.
 * BATON_ERR_LIMIT_EXCEEDED if there are more than `max` bytes.
 *
 * If the peer closed with unread data of its own, the first receive fails with ECONNRESET, and only the
 * following ones deliver the queue (unix(7) sockets, Linux 6.18), so a first ECONNRESET is not EOF.
 */
export function readToEnd(fd: BorrowedFd, max = DEFAULT_MAX_BYTES): { data: Buffer; ended: boolean } {
  const chunks: Buffer[] = []
  let size = 0
  let wasReset = false
  for (;;) {
    const count = receiveChunk(fd, CHUNK, 0)
    if (count === -ECONNRESET && !wasReset) {
      wasReset = true
      continue
    }
    if (count === 0 || -count === EAGAIN) return { data: Buffer.concat(chunks, size), ended: count === 0 }
    if (count < 0) throw new NativeError('recv', -count, { fd })
    size += count
    if (size > max)
      throw new BatonNativeError('BATON_ERR_LIMIT_EXCEEDED', `fd ${fd} holds more than ${max} bytes`)
    chunks.push(copyChunk(count))
  }
}

/** Receives into the arena; returns the number of bytes, or -errno. */
function receiveChunk(fd: BorrowedFd, max: number, flags: number): number {
  for (;;) {
    const count = libc.recv(fd, chunkArena().address, Math.min(max, CHUNK), flags | MSG_DONTWAIT)
    if (count !== -1) return count
    const errno = lastErrno()
    if (errno !== EINTR) return -errno
  }
}

function copyChunk(size: number): Buffer {
  return Buffer.from(chunkArena().buffer.subarray(0, size))
}
