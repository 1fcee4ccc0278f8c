import { constants, type ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'

/** Whether `server.emit(event, ...args)` announces an HTTP/2 session. A protocol above `net` may emit `session` for its own. */
export function isSession(event: string | symbol, args: unknown[]): args is [ServerHttp2Session] {
  const [session] = args
  return event === 'session' && typeof session === 'object' && session !== null && 'goaway' in session
}

/** How long a client gets to answer PING, in milliseconds: longer than any round trip. */
const PING_TIMEOUT_MS = 1000

const MAX_STREAM_ID = 2 ** 31 - 1
const GOAWAY = 7

/** GOAWAY that refuses nothing, and asks for no more: RFC 9113, 6.8. */
export const SHUTDOWN_NOTICE = Buffer.alloc(17)
SHUTDOWN_NOTICE.writeUIntBE(8, 0, 3)
SHUTDOWN_NOTICE[3] = GOAWAY
SHUTDOWN_NOTICE.writeUInt32BE(MAX_STREAM_ID, 9)
SHUTDOWN_NOTICE.writeUInt32BE(constants.NGHTTP2_NO_ERROR, 13)

/**
 * Ends HTTP/2 connections: GOAWAY names the last stream that will be answered. Streams up to it finish, and a client may safely
 * repeat later ones elsewhere (RFC 9113, 6.8).
 *
 * Requests that are on their way when it is sent are refused, though: those of one round trip. On connections without TLS a notice goes first, which
 * refuses none, and GOAWAY a round trip later. Node cannot send the notice: after `session.goaway(0, 2 ** 31 - 1)` it never answers a further
 * stream, and never refuses it either (Node 20 to 26). So its bytes are written to the socket below, in one write, which libuv puts between
 * those of the session, and each of these ends with a frame. Not with TLS: a TLS socket of Node takes one write at a time, and ends the process at a second.
 */
export class LastStreams {
  /** The value: its socket, if the notice can be written there. */
  readonly #sessions = new Map<ServerHttp2Session, Socket | undefined>()
  #draining = false

  /**
   * A session that begins while draining has its first request on the way; it is closed after that one.
   *
   * @param socket below, without TLS
   */
  begun(session: ServerHttp2Session, socket: Socket | undefined): void {
    this.#sessions.set(session, socket)
    session.once('close', () => this.#sessions.delete(session))
    if (this.#draining) session.once('stream', () => close(session, socket))
  }

  drain(): void {
    this.#draining = true
    for (const [session, socket] of this.#sessions) close(session, socket)
  }
}

function close(session: ServerHttp2Session, socket: Socket | undefined): void {
  // Before SETTINGS have been written, a notice would be the first frame, which clients refuse (RFC 9113, 3.4).
  const isNoticed = socket?.writable === true && socket.bytesWritten > 0
  if (session.closed || session.destroyed || !isNoticed) return session.close()
  socket.write(SHUTDOWN_NOTICE)
  // Its answer says that the client has read the notice: what it had sent before has arrived.
  const late = setTimeout(() => session.close(), PING_TIMEOUT_MS)
  late.unref()
  session.ping(() => {
    clearTimeout(late)
    if (!session.destroyed) session.close()
  })
}
