import { isDeepStrictEqual } from 'node:util'
import type { Shift } from '../../api/shift.ts'
import { sideOf } from '../balance/share.ts'
import { clientAddress, type ClientConnection } from '../connection/connection.ts'
import type { ShiftSide } from '../../metrics/labels.ts'
import { isOfVersion } from './candidates.ts'

type Wanting = Pick<ClientConnection, 'id' | 'peer' | 'proxied' | 'routed'>

/** A backend or an upstream. */
interface Versioned {
  readonly version: string | null
}

/** Candidates among which a connection is divided. */
interface Choice<C> {
  /** Name of the set; see `Balancers`. */
  readonly set: string
  readonly candidates: readonly C[]
}

/**
 * Chooses by version: for a connection whose route names one, only that; while new connections of the service are shifted, the side on which the
 * client is. While no candidate of a side is ready, its clients go to the other side, rather than wait.
 */
export class Shifting {
  readonly #service: string
  #shift: Shift | undefined

  constructor(service: string) {
    this.#service = service
  }

  /** Undefined while none is in force. */
  get shift(): Shift | undefined {
    return this.#shift
  }

  /** @returns whether that is a change */
  set(shift: Shift | undefined): boolean {
    if (isDeepStrictEqual(shift, this.#shift)) return false
    this.#shift = shift
    return true
  }

  /** The side of the shift on which a backend of this version is; undefined if none is in force. */
  sideOfVersion(version: string | null): ShiftSide | undefined {
    if (this.#shift === undefined) return undefined
    return version === this.#shift.to ? 'to' : 'others'
  }

  among<C extends Versioned>(candidates: readonly C[], connection: Wanting): Choice<C> {
    const { routed } = connection
    if (routed?.version !== undefined) {
      const able = candidates.filter(({ version }) => isOfVersion(version, connection))
      return { set: `version ${routed.version}`, candidates: able }
    }
    if (this.#shift === undefined || candidates.length === 0) return { set: '', candidates }
    const side = sideOf(keyOf(connection), this.#service, this.#shift)
    const preferred = candidates.filter(({ version }) => this.sideOfVersion(version) === side)
    if (preferred.length > 0) return { set: side, candidates: preferred }
    return { set: side === 'to' ? 'others' : 'to', candidates }
  }
}

/** Stays the same for all connections of a client. A client of a Unix socket has no address: each of its connections counts as another client. */
function keyOf(connection: Wanting): string {
  const { sticky } = connection.routed ?? {}
  if (sticky !== undefined) return `cookie ${sticky}`
  const { family, address } = clientAddress(connection)
  return family === 'unix' ? `connection ${connection.id.toString('hex')}` : `address ${address}`
}
