import type { OnReadOpts, Socket } from 'node:net'
import { type Block, copyToBlock } from './blocks.ts'

/**
 * Bytes of one read, at most. Node reads 64 KiB at a time, each into memory that it allocates for it: a relay then moves less than half as
 * much, for twice the processor time.
 */
const SIZE = 256 * 1024

/** Bytes of one read, at most, while the receiver is slower than the sender: what the kernel did not take of the last read is all that a relay keeps. */
const SLOW_SIZE = 64 * 1024

/**
 * Memory that all sockets of the process read into: an idle one needs none of its own. Nothing in it is needed after the event of its read, because Node
 * keeps a reference to what it could not write at once, and the next read, of any socket, overwrites it. So the bytes are copied first, for
 * about a tenth of the processor time of a relay. (A socket cannot have other memory only while it is busy: Node takes it at a read, for the
 * next one.)
 */
const shared = Buffer.allocUnsafeSlow(SIZE)
const sharedStart = shared.subarray(0, SLOW_SIZE)

/** Smaller reads are copied into memory of their size. */
const MAX_SMALL = 16 * 1024

/** The receiver of what is read from a socket. */
interface Reader {
  receive: (bytes: Buffer) => boolean
  /** Memory for the next read: `shared`, or its start. */
  target: Buffer
  isWaiting: boolean
  /** The block with the bytes that it is waiting for, if they are in one. */
  block: Block | undefined
}

const readers = new WeakMap<Socket, Reader>()

/**
 * A socket that reads into memory that all these sockets share. Until `receiveBy`, it is like any other.
 *
 * @param create creates a socket that has `onread` among its options
 */
export function withReader(create: (onread: OnReadOpts) => Socket): Socket {
  const reader: Reader = {
    // Kept by the stream until it is read from there.
    receive: (bytes) => {
      socket.push(Buffer.from(bytes))
      return true
    },
    target: sharedStart,
    isWaiting: false,
    block: undefined,
  }
  const socket = create({
    buffer: () => reader.target,
    callback: (size) => {
      const goesOn = passOn(reader, size)
      if (!goesOn) reader.target = sharedStart
      else if (size === SLOW_SIZE) reader.target = shared
      if (!goesOn) socket.pause()
      return goesOn
    },
  })
  readers.set(socket, reader)
  return socket
}

/** Passes on what is in `shared`. Returns whether the next read may follow now. */
function passOn(reader: Reader, size: number): boolean {
  const read = shared.subarray(0, size)
  const block = size <= MAX_SMALL ? undefined : copyToBlock(read)
  const goesOn = reader.receive(block?.bytes ?? Buffer.from(read))
  if (goesOn) {
    block?.giveBack()
    return true
  }
  reader.isWaiting = true
  reader.block = block
  return false
}

/**
 * Gives what is read to `receive`, from now on. The bytes are valid until it returns; if it returns false, until `goOn`, and nothing is read
 * meanwhile.
 *
 * @param socket of `withReader`
 */
export function receiveBy(socket: Socket, receive: (bytes: Buffer) => boolean): void {
  const reader = readers.get(socket)
  if (reader !== undefined) reader.receive = receive
}

/** The bytes that `receive` was waiting for are not needed any more. */
export function goOn(socket: Socket): void {
  const reader = readers.get(socket)
  if (reader?.isWaiting !== true) return
  reader.isWaiting = false
  reader.block?.giveBack()
  reader.block = undefined
  if (!socket.destroyed) socket.resume()
}

/**
 * Calls `confirmed` if the end that the TCP socket has just emitted is one. On Node 20 and 22 a reset that arrives together with data is emitted as an
 * end (libuv takes the POLLHUP after a short read for one, and never reads the error): then the socket emits the error instead.
 * Not if the other half had ended before: Node closes the socket then.
 *
 * @param socket of `withReader`, in its `end` event
 */
export function confirmEnd(socket: Socket, confirmed: () => void): void {
  // libuv has stopped, which only `pause` tells Node; `resume` has it read once more.
  socket.pause()
  socket.resume()
  // The first may run before the loop polls again, the second runs after that.
  setImmediate(() =>
    setImmediate(() => {
      if (socket.errored === null) confirmed()
    }),
  )
}
