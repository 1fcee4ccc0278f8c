import { Server as NetServer } from 'node:net'
import { dup, type OwnedFd } from '@baton/native-sendmsg'

/**
 * A listening socket of a server that can stop accepting and start again; meanwhile another process accepts from it. A server closes its descriptor
 * when it stops, so it gets a duplicate each time. Owns the socket.
 */
export class AdminSocket {
  readonly #server: NetServer
  readonly #fd: OwnedFd

  constructor(server: NetServer, fd: OwnedFd) {
    this.#server = server
    this.#fd = fd
  }

  /** Does nothing while it listens, and after `close`. Rejects if the kernel refuses. */
  async listen(): Promise<void> {
    const server = this.#server
    if (server.listening || this.#fd.closed) return
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ fd: dup(this.#fd.fd).release() }, () => {
        server.off('error', reject)
        resolve()
      })
    })
  }

  /** Accepts nothing until `listen`. Connections stay. */
  pause(): void {
    // That of `http.Server` closes idle connections at once, and no longer checks the timeouts of the others.
    if (this.#server.listening) NetServer.prototype.close.call(this.#server)
  }

  /** For good; to be followed by the server's own `close`. */
  close(): void {
    this.#fd.close()
  }
}
