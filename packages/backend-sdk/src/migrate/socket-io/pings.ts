import type { EngineSocket } from './parts.ts'
import type { CarriedPings } from './session-state.ts'

/** A client has at least this time for its answer in the next process, in ms. */
const LEAST_ANSWER_MS = 1000

/**
 * The heartbeat of one session. engine.io sends a ping some time after each pong, and ends sessions without a pong; the client ends
 * those without a ping. Both must hold across processes: a session that moves often would otherwise never see a ping.
 */
export class Pings {
  readonly #engine: EngineSocket
  readonly #interval: number
  readonly #timeout: number
  /** The last pong. */
  #last: number
  /** A ping that was not answered. */
  #asked: number | undefined
  #next: NodeJS.Timeout | undefined

  /** @param carried of the process before; `carryOn` applies it */
  constructor(
    engine: EngineSocket,
    own: { readonly pingInterval: number; readonly pingTimeout: number },
    carried: CarriedPings | undefined,
  ) {
    const now = performance.now()
    this.#engine = engine
    this.#interval = carried?.interval ?? own.pingInterval
    this.#timeout = own.pingTimeout
    this.#last = now - (carried?.quiet ?? 0)
    if (carried?.unanswered !== undefined) this.#asked = now - carried.unanswered
    engine.on('packetCreate', ({ type }: { type: string }) => {
      if (type === 'ping') this.#asked = performance.now()
    })
    engine.on('packet', ({ type }: { type: string }) => {
      if (type !== 'pong') return
      this.#asked = undefined
      this.#last = performance.now()
    })
    engine.on('close', () => clearTimeout(this.#next))
  }

  get state(): CarriedPings {
    const now = performance.now()
    return {
      interval: this.#interval,
      quiet: Math.round(now - this.#last),
      ...(this.#asked !== undefined && { unanswered: Math.round(now - this.#asked) }),
    }
  }

  /** The session goes on here: engine.io has begun to count from zero. */
  carryOn(): void {
    const engine = this.#engine
    if (engine.readyState !== 'open') return
    const now = performance.now()
    if (this.#asked !== undefined) {
      const left = Math.max(LEAST_ANSWER_MS, this.#asked + this.#timeout - now)
      if (engine.pingTimeoutTimer !== null) clearTimeout(engine.pingTimeoutTimer)
      engine.pingTimeoutTimer = setTimeout(() => engine.onClose('ping timeout'), left)
      return
    }
    this.#next = setTimeout(
      () => {
        if (engine.readyState !== 'open' || this.#asked !== undefined) return
        engine.sendPacket('ping')
        engine.resetPingTimeout()
        engine.pingIntervalTimer?.refresh()
      },
      Math.max(0, this.#last + this.#interval - now),
    )
  }
}
