import type { Replay } from './migrate/replay.ts'
import type { Upgrade } from './migrate/upgrade.ts'
import { type Offer, ulidFromBytes, ulidTime } from './protocol/index.ts'

/** The members of an offer that describe its connection. */
export type Described = Pick<Offer, 'connection' | 'kind' | 'listener' | 'meta'>

/** State of a connection, from the process that had it before to the one that goes on with it. */
export interface ResumedState {
  /** Name of its format, one of those that this process accepts. */
  readonly schema: string
  /** As the app's `state` returned it there. */
  readonly state: unknown
}

/** The broker's information about an adopted connection. `id` and `acceptedAt` are computed on access. */
export class ConnectionInfo {
  /** Name of the listener that the client connected to; `baton:health` for the broker's own health checks. */
  readonly listener: string
  /** Name of this backend's service. */
  readonly service: string
  /** How the connection arrived: its descriptor, or its bytes through the broker. */
  readonly via: 'handoff' | 'relay'
  /**
   * Data added by the broker: `proxy`, with the addresses of a PROXY header, which the socket shows as its own. Undefined if there is none.
   */
  readonly meta: Readonly<Record<string, unknown>> | undefined
  /**
   * In the `close` listeners of its socket: the connection was handed back to the broker and goes on in another process. The client has
   * not left.
   */
  movedOn = false
  /**
   * Handed over with the connection by another process of this service: the app's `state`, and its schema. Undefined if the
   * connection began here, or was idle.
   */
  resumed: ResumedState | undefined
  /** @internal The broker does not take it back, or it cannot leave. */
  stays = false
  /** @internal How often the broker has given it back. */
  givenBack = 0
  /** @internal How it was taken up, if it is a `replay`. */
  replay: Replay | undefined
  /** @internal What is recorded of an upgraded connection that may move. */
  upgrade: Upgrade | undefined
  readonly #id: Buffer

  /** @internal */
  constructor(offer: Described, service: string) {
    this.listener = offer.listener
    this.service = service
    this.via = offer.kind === 'relay' ? 'relay' : 'handoff'
    this.meta = offer.meta
    this.#id = offer.connection
  }

  /** @internal The 16 bytes of the ULID. */
  get idBytes(): Buffer {
    return this.#id
  }

  /** ULID, as in the broker's log and API. */
  get id(): string {
    return ulidFromBytes(this.#id)
  }

  /** When the broker accepted the client, in milliseconds since the Unix epoch (the time part of the id). */
  get acceptedAt(): number {
    return ulidTime(this.#id)
  }
}
