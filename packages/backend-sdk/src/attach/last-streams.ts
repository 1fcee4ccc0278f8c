import type { ServerHttp2Session } from 'node:http2'

/** Whether `server.emit(event, ...args)` announces an HTTP/2 session. A protocol above `net` may emit `session` for its own. */
export function isSession(event: string | symbol, args: unknown[]): args is [ServerHttp2Session] {
  const [session] = args
  return event === 'session' && typeof session === 'object' && session !== null && 'goaway' in session
}

/**
 * Ends HTTP/2 connections: GOAWAY names the last stream that will be answered. Streams up to it finish, and a client may safely
 * repeat later ones elsewhere (RFC 9113, 6.8).
 */
export class LastStreams {
  readonly #sessions = new Set<ServerHttp2Session>()
  #draining = false

  /** A session that begins while draining has its first request on the way; it is closed after that one. */
  begun(session: ServerHttp2Session): void {
    this.#sessions.add(session)
    session.once('close', () => this.#sessions.delete(session))
    if (this.#draining) session.once('stream', () => session.close())
  }

  drain(): void {
    this.#draining = true
    for (const session of this.#sessions) session.close()
  }
}
