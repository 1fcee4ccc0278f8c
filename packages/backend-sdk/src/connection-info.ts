import { type Offer, ulidFromBytes, ulidTime } from './protocol/index.ts'

/** The broker's information about an adopted connection. `id` and `acceptedAt` are computed on access. */
export class ConnectionInfo {
  /** Name of the listener that the client connected to; `baton:health` for the broker's own health checks. */
  readonly listener: string
  /** Name of this backend's service. */
  readonly service: string
  /** How the connection arrived: its descriptor, or its bytes through the broker. */
  readonly via: 'handoff' | 'relay'
  /** Data added by the broker; none so far. */
  readonly meta: Readonly<Record<string, unknown>> | undefined
  readonly #id: Buffer

  /** @internal */
  constructor(offer: Offer, service: string) {
    this.listener = offer.listener
    this.service = service
    this.via = offer.kind === 'relay' ? 'relay' : 'handoff'
    this.meta = offer.meta
    this.#id = offer.connection
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
