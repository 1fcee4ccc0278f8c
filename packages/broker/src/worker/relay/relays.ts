import type { Socket } from 'node:net'
import type { ClientConnection } from '../connection/connection.ts'
import type { Carried, Os } from '../os.ts'

/** Owns the relays of one service, and counts their bytes since the start. */
export class Relays {
  readonly #live = new Set<Carried>()
  readonly #os: Os
  readonly #onIdle: () => void
  readonly #ended = { in: 0, out: 0 }

  constructor(os: Os, onIdle: () => void) {
    this.#os = os
    this.#onIdle = onIdle
  }

  get size(): number {
    return this.#live.size
  }

  /** `in`: bytes from clients; `out`: bytes to clients. */
  get bytes(): { in: number; out: number } {
    const sum = { ...this.#ended }
    for (const { bytes } of this.#live) add(sum, bytes)
    return sum
  }

  /** Starts a relay. Takes ownership of both ends; calls `onEnd` when both are closed. */
  begin(connection: ClientConnection, upstream: Socket, onEnd: () => void): void {
    this.#live.add(
      this.#os.carry(connection, upstream, (relay) => {
        this.#live.delete(relay)
        add(this.#ended, relay.bytes)
        onEnd()
        if (this.#live.size === 0) this.#onIdle()
      }),
    )
  }

  close(): void {
    for (const relay of this.#live) relay.close()
  }
}

function add(sum: { in: number; out: number }, bytes: { in: number; out: number }): void {
  sum.in += bytes.in
  sum.out += bytes.out
}
