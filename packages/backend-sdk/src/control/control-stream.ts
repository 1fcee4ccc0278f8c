import type { ConnectOpts, Socket } from 'node:net'
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
import { type DescriptorOptions, readsIntoBuffer, socketOf } from '../open-socket.ts'

/** The part of `net.Socket` that a control connection uses. */
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
 * A connected stream socket with two descriptors: libuv reads and writes one through `socket`; the other is a duplicate that
 * still delivers unread input after libuv has closed its own.
 */
export interface ControlStream {
  readonly socket: ControlSocket
  /** Sets the listener for input, called from the next event-loop turn on. A chunk is valid only until the listener returns. */
  onData(listener: (chunk: Buffer) => void): void
  /**
   * Reads everything that the kernel still holds. `ended`: EOF was reached.
   * @throws {NativeError}
   * @throws {BatonNativeError} BATON_ERR_LIMIT_EXCEEDED over `max` bytes; with a poller, RangeError
   */
  readToEnd(max: number): { data: Buffer; ended: boolean }
  /** Sends bytes with a descriptor, bypassing libuv. The caller keeps the descriptor. */
  sendWithDescriptor(bytes: Uint8Array, descriptor: number): void
  /** Calls `run` once the current step is over. */
  soon(run: () => void): void
  /** Closes the duplicate. Idempotent. */
  close(): void
}

/** Maximum bytes per read; a batch of 64 offers is 4 kB. */
const READ_SIZE = 16 * 1024

/**
 * Takes ownership of `fd`, even if it throws (EMFILE).
 *
 * All input is read into one buffer (`onread`, a constructor option since Node 12.10 that the types leave out). Without it each
 * wake-up allocates 64 KiB for a frame of 60 bytes, and passes it through a stream's queue.
 *
 * @param poller Read through it instead of libuv, and close descriptors that the peer sends on another thread. For untrusted peers
 * on kernels that cannot refuse descriptors (`refuseDescriptors` of native-sendmsg).
 */
export function openControlStream(fd: OwnedFd, poller?: Poller): ControlStream {
  let duplicate: OwnedFd | undefined
  let socket: Socket
  let deliver: ((chunk: Buffer) => void) | undefined
  let stop: (() => void) | undefined
  const buffer = Buffer.allocUnsafeSlow(READ_SIZE)
  try {
    duplicate = fd.dup()
    const options: DescriptorOptions & ConnectOpts = {
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
    socket = socketOf(options)
    fd.release()
    if (poller === undefined && !readsIntoBuffer()) socket.on('data', (chunk) => deliver?.(chunk))
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
    soon: (run) => process.nextTick(run),
    close: () => {
      stop?.()
      closeReachable(kept, true)
    },
  }
}

/** Reads in place of the `net.Socket`, and emits its 'end' at EOF. @returns must be called before `fd` is closed */
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
  // From then on `readToEnd` reads the rest.
  socket.once('close', () => watch.remove())
  return () => watch.remove()
}

/** Like `readToEnd` of native-sendmsg, including that a first ECONNRESET is not the end. */
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
