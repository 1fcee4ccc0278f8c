import { type ConnectOpts, Socket, type SocketConstructorOpts } from 'node:net'
import {
  closeReachable,
  EPOLLIN,
  NativeError,
  type OwnedFd,
  type Poller,
  readToEnd,
  receivePlain,
  sendMessage,
} from '@baton/native-sendmsg'

/** What a control connection needs of `net.Socket`. */
export interface ControlSocket {
  readonly writableLength: number
  readonly errored: Error | null
  readonly destroyed: boolean
  write(bytes: Uint8Array, onTaken: (error?: Error | null) => void): unknown
  end(onFinished: () => void): unknown
  destroy(): unknown
  on(event: 'error', listener: (error: Error) => void): unknown
  on(event: 'end' | 'close', listener: () => void): unknown
}

/**
 * A connected stream socket twice: libuv reads and writes one descriptor through `socket`; the other is a duplicate that is
 * still there when libuv has closed its own and has thrown away what it had not read.
 */
export interface ControlStream {
  readonly socket: ControlSocket
  /** Who hears what is read, from the next turn of the event loop on. A chunk is the stream's again when the call returns. */
  onData(listener: (chunk: Buffer) => void): void
  /**
   * Everything that the kernel still holds; `ended`: up to EOF.
   * @throws {NativeError}
   * @throws {BatonNativeError} BATON_ERR_LIMIT_EXCEEDED over `max` bytes
   */
  readToEnd(max: number): { data: Buffer; ended: boolean }
  /** Past libuv: sends bytes with a descriptor, which the caller keeps. */
  sendWithDescriptor(bytes: Uint8Array, descriptor: number): void
  /** Closes the duplicate. Harmless twice. */
  close(): void
}

/** One read's worth: a batch of 64 offers is 4 kB. */
const READ_SIZE = 16 * 1024

/**
 * Takes ownership of `fd`, also when it throws (EMFILE).
 *
 * What is read lands in one buffer (`onread`, an option of the constructor since Node 12.10 that its types leave out): without
 * it each wake-up allocates 64 KiB for a frame of 60 bytes, and goes through the queue of a stream.
 *
 * @param poller Reads through it instead of libuv, and closes on another thread what descriptors the peer sends: for a peer that is not trusted, where
 * the kernel cannot refuse them (`refuseDescriptors` of native-sendmsg).
 */
export function openControlStream(fd: OwnedFd, poller?: Poller): ControlStream {
  let duplicate: OwnedFd | undefined
  let socket: Socket
  let deliver: ((chunk: Buffer) => void) | undefined
  let stop: (() => void) | undefined
  const buffer = Buffer.allocUnsafeSlow(READ_SIZE)
  try {
    duplicate = fd.dup()
    const options: SocketConstructorOpts & ConnectOpts = {
      fd: fd.fd,
      ...(poller !== undefined && { readable: false }),
      onread: {
        buffer,
        callback: (size) => {
          deliver?.(buffer.subarray(0, size))
          return true
        },
      },
    }
    socket = new Socket(options)
    fd.release()
    const reading = duplicate
    if (poller !== undefined) stop = readThrough(poller, reading, socket, (chunk) => deliver?.(chunk))
  } catch (error) {
    duplicate?.close()
    fd.close()
    throw error
  }
  const kept = duplicate
  return {
    socket,
    onData: (listener) => {
      deliver = listener
    },
    readToEnd: (max) => (poller === undefined ? readToEnd(kept.fd, max) : readPlainToEnd(kept.fd, max)),
    sendWithDescriptor: (bytes, descriptor) => sendMessage(kept.fd, { bytes, fds: [descriptor] }),
    close: () => {
      stop?.()
      closeReachable(kept, true)
    },
  }
}

/** Emits what a `net.Socket` that does not read would not: 'end' at EOF. @returns to be called before `fd` is closed */
function readThrough(
  poller: Poller,
  fd: OwnedFd,
  socket: Socket,
  deliver: (chunk: Buffer) => void,
): () => void {
  const watch = poller.add(fd.fd, EPOLLIN, () => {
    try {
      const chunk = receivePlain(fd.fd, READ_SIZE)
      if (chunk.length > 0) return deliver(chunk)
      watch.remove()
      socket.emit('end')
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (error.code === 'EAGAIN') return
      watch.remove()
      socket.destroy(error)
    }
  })
  // What is left is read to the end from then on.
  socket.once('close', () => watch.remove())
  return () => watch.remove()
}

/** As `readToEnd` of native-sendmsg, also in that a first ECONNRESET is not the end. */
function readPlainToEnd(fd: number, max: number): { data: Buffer; ended: boolean } {
  const chunks: Buffer[] = []
  let size = 0
  let wasReset = false
  const done = (ended: boolean) => ({ data: Buffer.concat(chunks, size), ended })
  while (size <= max) {
    try {
      const chunk = receivePlain(fd, READ_SIZE)
      if (chunk.length === 0) return done(true)
      chunks.push(chunk)
      size += chunk.length
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (error.code === 'EAGAIN') return done(false)
      if (error.code !== 'ECONNRESET' || wasReset) throw error
      wasReset = true
    }
  }
  throw new RangeError(`fd ${fd} holds more than ${max} bytes`)
}
