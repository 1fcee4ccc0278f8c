import { type Offer, ulidFromBytes, ulidTime } from './protocol/index.ts'

/** What the broker said of an adopted connection. Names and ids are made when they are asked for. */
export class ConnectionInfo {
  /** Name of the listener that the client has dialled; `baton:health` for the broker's own health checks. */
  readonly listener: string
  /** Name of the service, which is this backend's. */
  readonly service: string
  /** How the connection came here. */
  readonly via: 'handoff' | 'relay'
  /** What the broker has added; nothing so far. */
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

  /** ULID; the same in the broker's log and API. */
  get id(): string {
    return ulidFromBytes(this.#id)
  }

  /** When the broker accepted the client, in milliseconds of the Unix epoch (the time part of the id). */
  get acceptedAt(): number {
    return ulidTime(this.#id)
  }
}
