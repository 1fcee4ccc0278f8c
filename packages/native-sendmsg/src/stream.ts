import { MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK } from './abi.ts'
import { lazyArena } from './arena.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EAGAIN, ECONNRESET, EINTR } from './errno.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

/** Bytes that one call moves at most; the arena they pass through is this large. */
const CHUNK = 64 * 1024
const DEFAULT_MAX_BYTES = 16 * 1024 * 1024
const chunkArena = lazyArena(CHUNK)

/**
 * send(2), never waiting and never raising SIGPIPE. Returns how many bytes went: at most 64 KiB a call, and
 * fewer when the kernel's buffer is nearly full. Throws NativeError, EAGAIN included.
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
 * Up to `max` (and 64 KiB) bytes in a buffer of the caller's own; empty at EOF. Throws NativeError, EAGAIN
 * included. Descriptors that ride with the bytes are destroyed by the kernel: use `receiveMessage` where
 * there can be any.
 */
export function recv(fd: BorrowedFd, max: number): Buffer {
  const count = receiveChunk(fd, max, 0)
  if (count < 0) throw new NativeError('recv', -count, { fd })
  return copyChunk(count)
}

/**
 * Up to `max` (and 64 KiB) bytes, left in the socket for whoever reads it next; undefined when there are
 * none yet, empty at EOF. Never peek where descriptors can ride: a peek duplicates them.
 */
export function peek(fd: BorrowedFd, max: number): Buffer | undefined {
  const count = receiveChunk(fd, max, MSG_PEEK)
  if (count >= 0) return copyChunk(count)
  if (-count === EAGAIN) return undefined
  throw new NativeError('recv', -count, { fd })
}

/**
 * Everything that the socket still holds: to EOF (`ended`), or to the point where nothing more has come.
 * BATON_ERR_LIMIT_EXCEEDED once there are more than `max` bytes.
 *
 * A peer that closed with unread data of its own makes the first receive say ECONNRESET, and only the
 * following ones deliver the queue (unix(7) sockets, Linux 6.18): so a first ECONNRESET is not the end.
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

/** The number of bytes now in the arena, or -errno. */
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
