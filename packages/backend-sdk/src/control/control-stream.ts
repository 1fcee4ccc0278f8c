import { Socket } from 'node:net'
import { type OwnedFd, readToEnd, sendMessage } from '@baton/native-sendmsg'

/** What a control connection needs of `net.Socket`. */
export interface ControlSocket {
  readonly writableLength: number
  readonly errored: Error | null
  readonly destroyed: boolean
  write(bytes: Uint8Array, onTaken: (error?: Error | null) => void): unknown
  end(onFinished: () => void): unknown
  destroy(): unknown
  on(event: 'data', listener: (chunk: Buffer) => void): unknown
  on(event: 'error', listener: (error: Error) => void): unknown
  on(event: 'end' | 'close', listener: () => void): unknown
}

/**
 * A connected stream socket twice: libuv reads and writes one descriptor through `socket`; the other is a duplicate that is
 * still there when libuv has closed its own and has thrown away what it had not read.
 */
export interface ControlStream {
  readonly socket: ControlSocket
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

/** Takes ownership of `fd`, also when it throws (EMFILE). */
export function openControlStream(fd: OwnedFd): ControlStream {
  let duplicate: OwnedFd | undefined
  let socket: Socket
  try {
    duplicate = fd.dup()
    socket = new Socket({ fd: fd.fd })
    fd.release()
  } catch (error) {
    duplicate?.close()
    fd.close()
    throw error
  }
  const kept = duplicate
  return {
    socket,
    readToEnd: (max) => readToEnd(kept.fd, max),
    sendWithDescriptor: (bytes, descriptor) => sendMessage(kept.fd, { bytes, fds: [descriptor] }),
    close: () => kept.close(),
  }
}
