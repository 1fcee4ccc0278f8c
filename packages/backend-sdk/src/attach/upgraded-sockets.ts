import type { Duplex } from 'node:stream'

/**
 * Adopted connections that speak another protocol than HTTP since their client has upgraded them: WebSockets, nearly always. They end when
 * their users leave, or when the app says goodbye to them.
 */
export class UpgradedSockets {
  readonly #sockets = new Set<Duplex>()
  readonly #waiting = new Set<() => void>()

  get size(): number {
    return this.#sockets.size
  }

  add(socket: Duplex): void {
    this.#sockets.add(socket)
    socket.once('close', () => {
      this.#sockets.delete(socket)
      this.changed()
    })
    this.changed()
  }

  /** Connections have come or gone, upgraded ones or others. */
  changed(): void {
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }

  whenChanged(): Promise<void> {
    return new Promise((resolve) => this.#waiting.add(resolve))
  }
}
