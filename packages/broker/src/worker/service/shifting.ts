import { isDeepStrictEqual } from 'node:util'
import type { Shift } from '../../api/shift.ts'
import type { ServiceConfig } from '../../config/config.ts'
import { sideOf } from '../balance/share.ts'
import { clientAddress, type ClientConnection } from '../connection/connection.ts'
import type { ShiftSide } from '../../metrics/labels.ts'
import { isOfVersion } from './candidates.ts'
import type { ServiceStats } from './service-stats.ts'

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
  readonly #config: Pick<ServiceConfig, 'name' | 'sticky'>
  readonly #stats: Pick<ServiceStats, 'shifted'>
  #shift: Shift | undefined

  constructor(config: Pick<ServiceConfig, 'name' | 'sticky'>, stats: Pick<ServiceStats, 'shifted'>) {
    this.#config = config
    this.#stats = stats
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

  /** The cookie that tells clients apart, while that matters. */
  get cookie(): string | undefined {
    const { sticky } = this.#config
    return this.#shift === undefined || sticky === 'address' ? undefined : sticky.cookie
  }

  /** A backend of this version has got the connection. */
  got({ resume, routed }: Pick<ClientConnection, 'resume' | 'routed'>, version: string | null): void {
    if (this.#shift === undefined || resume !== undefined || routed?.version !== undefined) return
    this.#stats.shifted[sideOfVersion(version, this.#shift)] += 1
  }

  /**
   * Those of these candidates that are for this connection.
   *
   * @param waitFor candidates that are not among them now, and worth waiting for
   */
  among<C extends Versioned>(
    candidates: readonly C[],
    connection: Wanting,
    waitFor: readonly C[] = [],
  ): Choice<C> {
    const { routed } = connection
    if (routed?.version !== undefined) {
      const able = candidates.filter(({ version }) => isOfVersion(version, connection))
      return { set: `version ${routed.version}`, candidates: able }
    }
    if (this.#shift === undefined || candidates.length === 0) return { set: '', candidates }
    const shift = this.#shift
    const side = sideOf(keyOf(connection), this.#config.name, shift)
    const isPreferred = ({ version }: Versioned) => sideOfVersion(version, shift) === side
    const preferred = candidates.filter(isPreferred)
    if (preferred.length > 0 || waitFor.some(isPreferred)) return { set: side, candidates: preferred }
    return { set: side === 'to' ? 'others' : 'to', candidates }
  }
}

/** The side on which a backend of this version is. */
function sideOfVersion(version: string | null, { to }: Shift): ShiftSide {
  return version === to ? 'to' : 'others'
}

/** Stays the same for all connections of a client. A client of a Unix socket has no address: each of its connections counts as another client. */
function keyOf(connection: Wanting): string {
  const { sticky } = connection.routed ?? {}
  if (sticky !== undefined) return `cookie ${sticky}`
  const { family, address } = clientAddress(connection)
  return family === 'unix' ? `connection ${connection.id.toString('hex')}` : `address ${address}`
}
