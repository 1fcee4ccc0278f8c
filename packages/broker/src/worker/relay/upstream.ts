import type { Socket } from 'node:net'
import type { Timer } from '@baton/backend-sdk/protocol'
import type { Candidate } from '../balance/candidate.ts'
import { type Address, formatAddress } from '../../config/address.ts'
import type { ClientConnection } from '../connection/connection.ts'
import { type Failure, failureOf } from '../connection/failure.ts'
import { type Os, systemOs } from '../os.ts'
import type { PendingDial } from './dial.ts'

export interface UpstreamHost {
  relayed(connection: ClientConnection, upstream: Socket): void
  returned(connections: readonly ClientConnection[], failure: Failure, by: string): void
}

/** A server without the SDK, given by its address. There is no offer and no token: the relay starts once it is connected. */
export class Upstream implements Candidate {
  readonly id: string
  readonly weight: number
  readonly #address: Address
  readonly #timeout: number
  readonly #host: UpstreamHost
  readonly #os: Os
  readonly #dials = new Map<PendingDial, Timer>()
  #live = 0

  /** @param timeout of connect, in milliseconds */
  constructor(address: Address, weight: number, timeout: number, host: UpstreamHost, os: Os = systemOs) {
    this.#os = os
    this.id = formatAddress(address)
    this.weight = weight
    this.#address = address
    this.#timeout = timeout
    this.#host = host
  }

  get load(): number {
    return this.#live + this.#dials.size
  }

  get dialling(): number {
    return this.#dials.size
  }

  /** Dials. The host is notified of the result. */
  connect(connection: ClientConnection): undefined {
    const { kind } = this.#address
    const target =
      kind === 'unix' ? { path: this.#address.path } : { host: this.#address.host, port: this.#address.port }
    const fail = (error: { code?: string | undefined; errno?: number | undefined }) => {
      this.#forget(pending)
      this.#host.returned([connection], failureOf(error, this.id, -1), this.id)
    }
    const pending = this.#os.dial(target, {
      connected: () => {
        this.#forget(pending)
        pending.detach()
        this.#live += 1
        pending.socket.once('close', () => {
          this.#live -= 1
        })
        this.#host.relayed(connection, pending.socket)
      },
      failed: fail,
    })
    const timeout = this.#os.setTimeout(() => {
      pending.cancel()
      fail({ code: 'ETIMEDOUT', errno: 110 })
    }, this.#timeout)
    this.#dials.set(pending, timeout)
  }

  #forget(pending: PendingDial): void {
    this.#os.clear(this.#dials.get(pending))
    this.#dials.delete(pending)
  }
}
