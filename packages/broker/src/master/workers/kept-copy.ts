import { ulidFromBytes, ulidToBytes } from '@baton/backend-sdk/protocol'
import type { OwnedFd } from '@baton/native-sendmsg'
import type { Copy } from '../../ipc/copies.ts'
import type { HeldClient } from '../../ipc/messages.ts'

/** A connection that waited in a worker that has ended. Owns its descriptor. */
export interface Survivor {
  readonly copy: Copy
  readonly fd: OwnedFd
  /** Not known to be a TCP connection: closing it may take time, because its client can have sent descriptors that nothing has received. */
  readonly reachable: boolean
}

/** Common to all copies of one listener and service. */
export type Origin = Pick<HeldClient, 'service' | 'protocol' | 'listener'> & Pick<Survivor, 'reachable'>

/** A copy in as little memory as can be, since there may be many thousands. Owns its descriptor. */
export class KeptCopy {
  readonly fd: OwnedFd
  readonly number: number
  readonly #order: number
  readonly #origin: Origin
  /** 16 characters, one for each byte. */
  readonly #id: string
  readonly #acceptedAt: number
  readonly #idleUntil: number | null | undefined
  /** The parts that few connections have. */
  readonly #rest: Partial<HeldClient> | undefined

  constructor({ number, order, idleUntil, client }: Copy, fd: OwnedFd, origin: Origin) {
    const { service: _, protocol: _1, listener: _2, id, acceptedAt, idleFor: _3, ...rest } = client
    this.fd = fd
    this.number = number
    this.#order = order
    this.#origin = origin
    this.#id = ulidToBytes(id).toString('latin1')
    this.#acceptedAt = acceptedAt
    this.#idleUntil = idleUntil
    this.#rest = Object.keys(rest).length === 0 ? undefined : rest
  }

  get reachable(): boolean {
    return this.#origin.reachable
  }

  /** It is the caller's then, with the descriptor. @param slot where it was kept */
  survivor(slot: number): Survivor {
    const { reachable, ...origin } = this.#origin
    const idleUntil = this.#idleUntil
    return {
      fd: this.fd,
      reachable,
      copy: {
        slot,
        number: this.number,
        order: this.#order,
        ...(idleUntil !== undefined && { idleUntil }),
        client: {
          ...origin,
          id: ulidFromBytes(Buffer.from(this.#id, 'latin1')),
          acceptedAt: this.#acceptedAt,
          ...this.#rest,
        },
      },
    }
  }
}
