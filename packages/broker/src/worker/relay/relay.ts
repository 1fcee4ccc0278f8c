import { Socket } from 'node:net'
import { clearLinger, closeAll, NativeError, type OwnedFd, resetAll } from '@baton/native-sendmsg'
import type { ClientConnection } from '../connection/connection.ts'

/**
 * Copies bytes between a client and a backend that has acknowledged the relay, or an upstream, because the descriptor could not be
 * passed. The directions are independent: each ends with its own FIN, and has its own back-pressure. Owns both sockets.
 */
export class Relay {
  readonly connection: ClientConnection
  readonly #client: Socket
  readonly #upstream: Socket
  readonly #onEnd: (relay: Relay) => void
  /**
   * A second descriptor of a client that was offered to a backend before, which may still hold a duplicate: it ensures that libuv's
   * close, which could block, is not the broker's last (see `closeAll` of native-sendmsg).
   */
  readonly #last: OwnedFd | undefined
  #reset = false
  #ended = false

  /** Takes the client's descriptor, from which nothing has been read so far. */
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

  /** Bytes relayed so far, from the client's view: `in` is what it sent. */
  get bytes(): { in: number; out: number } {
    return { in: this.#client.bytesRead, out: this.#client.bytesWritten }
  }

  /** Destroys both sides. */
  close(): void {
    this.#client.destroy()
    this.#upstream.destroy()
  }

  #join(from: Socket, to: Socket): void {
    // Ends `to` at the FIN of `from`, and respects its back-pressure.
    from.pipe(to)
    // After a failure of one side the other must get a reset: an ordinary end would look like a complete answer.
    from.on('error', () => this.#abort(to))
    from.on('close', () => this.#closed(from, to))
  }

  #closed(from: Socket, to: Socket): void {
    // Data from `from` may still be queued; `to` ends by itself once it is written.
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

/** Undefined when out of descriptors: libuv's close is then the last, so SO_LINGER is at least turned off now. */
function lastOf(fd: OwnedFd): OwnedFd | undefined {
  try {
    return fd.dup()
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    clearLinger(fd.fd)
    return undefined
  }
}

/** Returns whether the peer gets a reset. */
function abort(socket: Socket): boolean {
  if (socket.destroyed) return false
  // libuv refuses to reset a socket whose shutdown(2) is pending (uv_tcp_close_reset: EINVAL), and Node (seen on 20) then never
  // closes it: the descriptor would leak and `process.exit()` hang. By then everything has been written, so an ordinary end is
  // correct.
  const shutting = socket.writableEnded && socket.writableLength === 0
  // Only TCP has resets; a Unix socket closed with unread data causes the same error at its peer.
  const reset = !shutting && socket.remoteFamily !== undefined
  if (reset) socket.resetAndDestroy()
  else socket.destroy()
  return reset
}
