import { Socket } from 'node:net'
import { clearLinger, closeAll, NativeError, type OwnedFd, resetAll } from '@baton/native-sendmsg'
import type { ClientConnection } from '../connection/connection.ts'

/**
 * A client whose bytes the broker carries, because its descriptor could not be passed: to a backend that has acknowledged the
 * relay, or to a plain upstream. Both directions are independent: each ends with its own FIN, and each waits for its own
 * reader. Owns both sockets.
 */
export class Relay {
  readonly connection: ClientConnection
  readonly #client: Socket
  readonly #upstream: Socket
  readonly #onEnd: (relay: Relay) => void
  /**
   * Of a client that a backend was offered before, and may still hold: libuv's close is then never the last one, which could
   * block (see `closeAll` of native-sendmsg).
   */
  readonly #last: OwnedFd | undefined
  #reset = false
  #ended = false

  /** Takes the client's descriptor. Not a byte of the client's was read before this moment. */
  constructor(connection: ClientConnection, upstream: Socket, onEnd: (relay: Relay) => void) {
    this.connection = connection
    this.#onEnd = onEnd
    this.#upstream = upstream
    this.#last = connection.shared === true ? lastOf(connection.fd) : undefined
    this.#client = new Socket({ fd: connection.fd.release(), allowHalfOpen: true })
    this.#client.once('close', () => this.#closeLast())
    this.#join(this.#client, upstream)
    this.#join(upstream, this.#client)
  }

  /** Bytes carried so far, as the client sees them: `in` is what it sent. */
  get bytes(): { in: number; out: number } {
    return { in: this.#client.bytesRead, out: this.#client.bytesWritten }
  }

  /** Cuts both sides. */
  close(): void {
    this.#client.destroy()
    this.#upstream.destroy()
  }

  #join(from: Socket, to: Socket): void {
    // Ends `to` with `from`'s FIN and honours its back-pressure.
    from.pipe(to)
    // A side that failed cannot be told to the other but by a reset: an ordinary end would pass for a whole answer.
    from.on('error', () => this.#abort(to))
    from.on('close', () => this.#closed(from, to))
  }

  #closed(from: Socket, to: Socket): void {
    // What `from` had sent is still on its way out; `to` ends by itself once that is written.
    if (!from.readableEnded) this.#abort(to)
    if (this.#ended || !this.#client.closed || !this.#upstream.closed) return
    this.#ended = true
    this.#onEnd(this)
  }

  #abort(socket: Socket): void {
    if (abort(socket) && socket === this.#client) this.#reset = true
  }

  #closeLast(): void {
    if (this.#last === undefined) return
    if (this.#reset) resetAll([this.#last])
    else closeAll([this.#last])
  }
}

/** Undefined when the process is out of descriptors: then libuv's close is the last, and SO_LINGER is off at least now. */
function lastOf(fd: OwnedFd): OwnedFd | undefined {
  try {
    return fd.dup()
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    clearLinger(fd.fd)
    return undefined
  }
}

/** Gives whether the other side is told by a reset. */
function abort(socket: Socket): boolean {
  if (socket.destroyed) return false
  // libuv does not reset a socket whose shutdown(2) is under way (uv_tcp_close_reset: EINVAL), and Node (seen on 20) never
  // closes it after that: its descriptor would leak and `process.exit()` hang. Everything was written by then, so that an
  // ordinary end says nothing wrong.
  const shutting = socket.writableEnded && socket.writableLength === 0
  // Only TCP knows a reset; a Unix socket that is closed with unread data gives its peer the same error.
  const reset = !shutting && socket.remoteFamily !== undefined
  if (reset) socket.resetAndDestroy()
  else socket.destroy()
  return reset
}
