import { createServer, type Server } from 'node:net'
import type { OwnedFd } from '@baton/native-sendmsg'

/**
 * One more listening socket of an HTTP server. A `net.Server` listens once, and an HTTP server that is closed cuts its idle connections;
 * so a socket whose file had to be created again gets a server of its own, whose connections go to the HTTP server.
 *
 * Owner of the socket.
 */
export class SecondSocket {
  readonly #http: Server
  readonly #maxConnections: number
  #server: Server | undefined

  constructor(http: Server, maxConnections: number) {
    this.#http = http
    this.#maxConnections = maxConnections
  }

  /** Listens on `fd`, which it owns, and no longer on the one before. */
  replace(fd: OwnedFd): void {
    void this.close()
    const server = createServer({ allowHalfOpen: true }, (socket) => this.#http.emit('connection', socket))
    server.maxConnections = this.#maxConnections
    server.on('error', () => server.close())
    server.listen({ fd: fd.release() })
    this.#server = server
  }

  /** Resolves when the connections that came this way have ended. */
  async close(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (server !== undefined) await new Promise<void>((resolve) => server.close(() => resolve()))
  }
}
