import type { Replay } from '../replay.ts'
import { MigrationError } from '../errors.ts'
import { type AnySocket, type EngineSocket, PACKET, type ServerParts, type SioPacket } from './parts.ts'
import type { CarriedSession, CarriedSocket } from './session-state.ts'

/** Members of `auth` that make socket.io look for a session of its own. */
const RECOVERY = ['pid', 'offset']

/**
 * One session that this process takes up. socket.io is told what the client told another process long ago, the CONNECT of each
 * namespace, and its answers are dropped:
 *
 *     opening --engine.io has the session--> connecting --each namespace is connected, and the app has resumed it--> over
 *        \--------- a namespace or a middleware refuses, or `resume` throws ----------------> failed (close code 1012)
 */
export class Resumption {
  readonly carried: CarriedSession
  readonly #replay: Replay
  readonly #resume: (socket: AnySocket, carried: CarriedSocket) => void | Promise<void>
  readonly #onOver: () => void
  /** Not connected yet. */
  readonly #awaited: Map<string, CarriedSocket>
  /** Neither connected nor resumed. */
  #open: number

  constructor(
    carried: CarriedSession,
    replay: Replay,
    resume: (socket: AnySocket, carried: CarriedSocket) => void | Promise<void>,
    onOver: () => void,
  ) {
    this.carried = carried
    this.#replay = replay
    this.#resume = resume
    this.#onOver = onOver
    this.#awaited = new Map(carried.sockets.map((each) => [each.namespace, each]))
    this.#open = this.#awaited.size
  }

  /** The state of this namespace in the process before; undefined if the client itself connects to it. */
  of(namespace: string): CarriedSocket | undefined {
    return this.#awaited.get(namespace)
  }

  /** Connects the namespaces. Their sockets are created later: middlewares may be asynchronous. */
  connect(engine: EngineSocket, { encoder }: ServerParts): void {
    for (const { namespace, handshake } of this.carried.sockets) {
      const auth = Object.entries(handshake.auth ?? {}).filter(([name]) => !RECOVERY.includes(name))
      const packet = { type: PACKET.CONNECT, nsp: namespace, data: Object.fromEntries(auth) }
      for (const part of encoder.encode(packet)) engine.emit('data', part)
    }
  }

  /** A packet to the client. @returns whether the client has had it from another process */
  drops(packet: SioPacket, socketOf: (namespace: string) => AnySocket | undefined): boolean {
    const carried = this.#awaited.get(packet.nsp)
    if (carried === undefined) return false
    if (packet.type === PACKET.CONNECT_ERROR) {
      this.refused(packet.nsp, (packet.data as { message?: string } | undefined)?.message)
      return true
    }
    if (packet.type !== PACKET.CONNECT) return false
    this.#awaited.delete(packet.nsp)
    // After the app's `connection` listeners, which follow in this tick.
    process.nextTick(() => void this.#connected(carried, socketOf(packet.nsp)))
    return true
  }

  refused(namespace: string, why = 'no reason given'): void {
    this.fail(new Error(`the namespace ${namespace} was refused: ${why}`))
  }

  fail(cause: unknown): void {
    this.#replay.fail(
      cause instanceof MigrationError
        ? cause
        : new MigrationError('BATON_ERR_RESUME_FAILED', undefined, { cause }),
    )
  }

  async #connected(carried: CarriedSocket, socket: AnySocket | undefined): Promise<void> {
    try {
      // The app may have disconnected it.
      if (socket?.connected === true) await this.#resume(socket, carried)
    } catch (error) {
      return this.fail(error)
    }
    this.#open -= 1
    if (this.#open === 0 && !this.#replay.hasFailed) this.#onOver()
  }
}
