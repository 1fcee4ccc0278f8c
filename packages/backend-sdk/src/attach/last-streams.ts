import type { ServerHttp2Session } from 'node:http2'

/** Whether `server.emit(event, ...args)` announces an HTTP/2 session; a `net` protocol may have sessions of its own. */
export function isSession(event: string | symbol, args: unknown[]): args is [ServerHttp2Session] {
  const [session] = args
  return event === 'session' && typeof session === 'object' && session !== null && 'goaway' in session
}

/**
 * Lets HTTP/2 connections go: GOAWAY names the last stream that will be answered, those streams finish, and a client may
 * safely send elsewhere what came after (RFC 9113, 6.8).
 */
export class LastStreams {
  readonly #sessions = new Set<ServerHttp2Session>()
  #draining = false

  /** A session that begins while draining has its first request on the way, and is let go with it. */
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
