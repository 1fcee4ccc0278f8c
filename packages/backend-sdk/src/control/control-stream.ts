import { type ConnectOpts, Socket, type SocketConstructorOpts } from 'node:net'
import { type OwnedFd, readToEnd, sendMessage } from '@baton/native-sendmsg'

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
 */
export function openControlStream(fd: OwnedFd): ControlStream {
  let duplicate: OwnedFd | undefined
  let socket: Socket
  let deliver: ((chunk: Buffer) => void) | undefined
  const buffer = Buffer.allocUnsafeSlow(READ_SIZE)
  try {
    duplicate = fd.dup()
    const options: SocketConstructorOpts & ConnectOpts = {
      fd: fd.fd,
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
    readToEnd: (max) => readToEnd(kept.fd, max),
    sendWithDescriptor: (bytes, descriptor) => sendMessage(kept.fd, { bytes, fds: [descriptor] }),
    close: () => kept.close(),
  }
}
