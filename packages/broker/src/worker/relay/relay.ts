import { Socket } from 'node:net'
import {
  clearLinger,
  closeAll,
  NativeError,
  type OwnedFd,
  receivePlain,
  resetAll,
} from '@baton/native-sendmsg'
import type { ClientConnection } from '../connection/connection.ts'
import { confirmEnd, goOn, receiveBy, withReader } from './reader.ts'
import { openUnix, unixDescriptorOf } from './unix-socket.ts'

/** Maximum bytes of one read of what a failed side has left. */
const READ_SIZE = 64 * 1024

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
  /** The sides whose FIN was received: a reset before it is passed on as one. */
  readonly #finished = new Set<Socket>()
  /** A side that has failed, and whose last bytes were passed on nevertheless; the end of the other side is arranged. */
  #salvaged: Socket | undefined

  /** Takes the client's descriptor, from which nothing has been read so far. */
  constructor(connection: ClientConnection, upstream: Socket, onEnd: (relay: Relay) => void) {
    this.connection = connection
    this.#onEnd = onEnd
    this.#upstream = upstream
    this.#last = connection.shared === true ? lastOf(connection.fd) : undefined
    this.#client = connection.peer.family === 'unix' ? openUnix(connection.fd) : openTcp(connection.fd)
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

  /** Like `from.pipe(to)`: ends `to` at the FIN of `from`, and respects its back-pressure. But see `#salvage`. */
  #join(from: Socket, to: Socket): void {
    let failed = false
    /** Writes that are not over: more than one only until their callbacks run, at the end of the turn. */
    let pending = 0
    const written = (error?: NodeJS.ErrnoException | null) => {
      // All writes that are queued fail with it.
      if (error && !failed) {
        failed = true
        this.#salvage(to, from, error)
      }
      pending -= 1
      if (pending === 0) goOn(from)
    }
    receiveBy(from, (bytes) => {
      pending += 1
      to.write(bytes, written)
      // Almost always: the kernel has all of it.
      return to.writableLength === 0
    })
    from.on('end', () => {
      const finished = () => {
        this.#finished.add(from)
        to.end()
      }
      // A Unix socket ends with ECONNRESET also after a complete answer, if its peer had not read everything.
      if (unixDescriptorOf(from) === undefined) confirmEnd(from, finished)
      else finished()
    })
    from.on('error', (error: NodeJS.ErrnoException) => this.#failed(from, to, error))
    from.on('close', () => this.#closed(from, to))
    from.resume()
  }

  /**
   * A write to `failed` has failed, and Node is about to destroy it, with input that the kernel still holds. On a Unix socket that is what
   * the peer sent before it closed: an answer to what it has read so far. Over TCP it would have reached the other side.
   */
  #salvage(failed: Socket, other: Socket, { code }: NodeJS.ErrnoException): void {
    if (failed.destroyed || failed.readableEnded || other.destroyed) return
    const found = unread(failed)
    if (found === undefined) return
    // ECONNRESET: the peer had not read everything when it closed. Over TCP that is a reset, after its last bytes.
    const reset = code === 'ECONNRESET' || found.reset
    if (reset && found.rest.length === 0) return
    this.#salvaged = failed
    if (reset) return void other.write(found.rest, () => this.#abort(other))
    if (found.rest.length > 0) other.write(found.rest)
    finish(other)
  }

  #failed(from: Socket, to: Socket, { code }: NodeJS.ErrnoException): void {
    if (from === this.#salvaged) return
    // A write to a TCP socket fails with EPIPE if the reset came after the FIN (`tcp_reset` of the kernel).
    if (from.readableEnded && code === 'EPIPE') this.#finished.add(from)
    if (this.#finished.has(from)) finish(to)
    // An ordinary end would look like a complete answer.
    else this.#abort(to)
  }

  #closed(from: Socket, to: Socket): void {
    // Data from `from` may still be queued; `to` ends by itself once it is written.
    if (!from.readableEnded && from !== this.#salvaged) this.#abort(to)
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

function openTcp(fd: OwnedFd): Socket {
  return withReader((onread) => {
    const options = { fd: fd.fd, allowHalfOpen: true, onread }
    const socket = new Socket(options)
    fd.release()
    return socket
  })
}

/**
 * Everything that the kernel holds of a Unix socket, up to the end. `reset`: it ends with
 * ECONNRESET. Undefined if its peer may send more, and for TCP, where the end after a failed write says nothing.
 */
function unread(socket: Socket): { rest: Buffer; reset: boolean } | undefined {
  const fd = unixDescriptorOf(socket)
  if (fd === undefined) return undefined
  try {
    const chunks: Buffer[] = []
    try {
      for (;;) {
        const chunk = receivePlain(fd, READ_SIZE)
        if (chunk.length === 0) return { rest: Buffer.concat(chunks), reset: false }
        chunks.push(chunk)
      }
    } catch (error) {
      if (!(error instanceof NativeError) || error.code !== 'ECONNRESET') throw error
      return { rest: Buffer.concat(chunks), reset: true }
    }
  } catch (error) {
    if (error instanceof NativeError) return undefined
    throw error
  }
}

/** Ends it once everything is written. Until then its own data is read and discarded, because a close with unread data is a reset. */
function finish(socket: Socket): void {
  receiveBy(socket, () => true)
  socket.resume()
  socket.destroySoon()
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
