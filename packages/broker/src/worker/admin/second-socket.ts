import { createServer, type Server } from 'node:net'
import type { OwnedFd } from '@baton/native-sendmsg'
import { AdminSocket } from './admin-socket.ts'

/**
 * A second listening socket of an HTTP server, for when its file had to be recreated. A `net.Server` listens only once, and closing
 * the HTTP server would cut its idle connections, so the new socket gets its own `net.Server`, which passes its connections to the
 * HTTP server. Owns the socket.
 */
export class SecondSocket {
  readonly #http: Server
  readonly #maxConnections: number
  #current: { readonly server: Server; readonly socket: AdminSocket } | undefined
  #isPaused = false

  constructor(http: Server, maxConnections: number) {
    this.#http = http
    this.#maxConnections = maxConnections
  }

  /** Listens on `fd` instead of the previous one, unless paused. Owns `fd`. */
  replace(fd: OwnedFd): void {
    void this.close()
    const server = createServer({ allowHalfOpen: true }, (socket) => this.#http.emit('connection', socket))
    server.maxConnections = this.#maxConnections
    server.on('error', () => server.close())
    this.#current = { server, socket: new AdminSocket(server, fd) }
    if (!this.#isPaused) this.resume()
  }

  /** Accepts nothing until `resume`. */
  pause(): void {
    this.#isPaused = true
    this.#current?.socket.pause()
  }

  resume(): void {
    this.#isPaused = false
    // Without it, the first one still listens.
    this.#current?.socket.listen().catch(() => {})
  }

  /** Stops listening; resolves when the connections accepted here have ended. */
  async close(): Promise<void> {
    const current = this.#current
    this.#current = undefined
    if (current === undefined) return
    current.socket.close()
    await new Promise<void>((resolve) => current.server.close(() => resolve()))
  }
}
