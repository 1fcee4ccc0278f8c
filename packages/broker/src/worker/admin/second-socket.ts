import { createServer, type Server } from 'node:net'
import type { OwnedFd } from '@baton/native-sendmsg'

/**
 * A second listening socket of an HTTP server, for when its file had to be recreated. A `net.Server` listens only once, and closing
 * the HTTP server would cut its idle connections, so the new socket gets its own `net.Server`, which passes its connections to the
 * HTTP server. Owns the socket.
 */
export class SecondSocket {
  readonly #http: Server
  readonly #maxConnections: number
  #server: Server | undefined

  constructor(http: Server, maxConnections: number) {
    this.#http = http
    this.#maxConnections = maxConnections
  }

  /** Listens on `fd` instead of the previous one. Owns `fd`. */
  replace(fd: OwnedFd): void {
    void this.close()
    const server = createServer({ allowHalfOpen: true }, (socket) => this.#http.emit('connection', socket))
    server.maxConnections = this.#maxConnections
    server.on('error', () => server.close())
    server.listen({ fd: fd.release() })
    this.#server = server
  }

  /** Stops listening; resolves when the connections accepted here have ended. */
  async close(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (server !== undefined) await new Promise<void>((resolve) => server.close(() => resolve()))
  }
}
