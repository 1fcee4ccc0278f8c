import type { Socket } from 'node:net'
import { endOfHead } from './http-heads.ts'

/** An answer whose head is longer is not recorded, and its connection does not move. */
const MAX_HEAD_BYTES = 65_536

/**
 * Records the head of the answer that is written next. `onHead` is called before it reaches the kernel; never, if it is too long.
 *
 * By the bytes: no public API of Node tells what `writeHead` was given, or has added.
 */
export function recordAnswerHead(socket: Socket, onHead: (head: Buffer) => void): void {
  let seen = Buffer.alloc(0)
  let over = false
  const own = Object.getOwnPropertyDescriptor(socket, 'write')
  const below = socket.write.bind(socket) as (...args: unknown[]) => boolean
  const layer = (...args: unknown[]): boolean => {
    if (!over) note(args[0], args[1])
    return below(...args)
  }
  const note = (chunk: unknown, encoding: unknown): void => {
    seen = Buffer.concat([seen, startOf(chunk, encoding)])
    const end = endOfHead(seen)
    over = end !== -1 || seen.length >= MAX_HEAD_BYTES
    if (!over) return
    // Without the memory of what is behind it.
    if (end !== -1) onHead(Buffer.from(seen.subarray(0, end)))
    seen = Buffer.alloc(0)
    // Another library may have put its own over it, which calls this one.
    if (socket.write !== layer) return
    if (own === undefined) Reflect.deleteProperty(socket, 'write')
    else Object.defineProperty(socket, 'write', own)
  }
  Object.defineProperty(socket, 'write', { value: layer, configurable: true, writable: true })
}

/** As much of a chunk as may belong to the head, which stands before a large body. */
function startOf(chunk: unknown, encoding: unknown): Buffer {
  if (typeof chunk === 'string')
    return Buffer.from(
      chunk.slice(0, MAX_HEAD_BYTES),
      typeof encoding === 'string' ? (encoding as BufferEncoding) : 'utf8',
    )
  if (!(chunk instanceof Uint8Array)) return Buffer.alloc(0)
  return Buffer.from(chunk.buffer, chunk.byteOffset, Math.min(chunk.byteLength, MAX_HEAD_BYTES))
}
