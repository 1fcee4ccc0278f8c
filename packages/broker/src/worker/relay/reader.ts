import type { OnReadOpts, Socket } from 'node:net'

/**
 * Bytes of one read, at most. Node reads 64 KiB at a time, each into memory that it allocates for it: a relay then moves less than half as
 * much, for twice the processor time.
 */
const SIZE = 256 * 1024

/** Buffers that are kept for later sockets. A new one takes no memory until it is read into. */
const MAX_SPARE = 64

const spare: Buffer[] = []

/** Memory of a socket, and the receiver of what is read into it. */
interface Reader {
  readonly buffer: Buffer
  receive: (bytes: Buffer) => boolean
  /** Its last bytes are still needed. */
  keeps: boolean
  isClosed: boolean
}

const readers = new WeakMap<Socket, Reader>()

/**
 * A socket that reads into memory of its own. Until `receiveBy`, it is like any other.
 *
 * @param create creates a socket that has `onread` among its options
 */
export function withReader(create: (onread: OnReadOpts) => Socket): Socket {
  const reader: Reader = {
    buffer: spare.pop() ?? Buffer.allocUnsafeSlow(SIZE),
    receive: (bytes) => {
      socket.push(Buffer.from(bytes))
      return true
    },
    keeps: false,
    isClosed: false,
  }
  const { buffer } = reader
  let socket: Socket
  try {
    socket = create({
      buffer,
      callback: (size) => {
        reader.keeps = !reader.receive(buffer.subarray(0, size))
        if (reader.keeps) socket.pause()
        return !reader.keeps
      },
    })
  } catch (error) {
    giveBack(buffer)
    throw error
  }
  readers.set(socket, reader)
  socket.once('close', () => {
    reader.isClosed = true
    if (!reader.keeps) giveBack(buffer)
  })
  return socket
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

/** The bytes that were kept are not needed any more. */
export function goOn(socket: Socket): void {
  const reader = readers.get(socket)
  if (reader?.keeps !== true) return
  reader.keeps = false
  if (reader.isClosed) giveBack(reader.buffer)
  else socket.resume()
}

function giveBack(buffer: Buffer): void {
  if (spare.length < MAX_SPARE) spare.push(buffer)
}
