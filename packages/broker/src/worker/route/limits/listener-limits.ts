import { NativeError } from '@baton/native-sendmsg'
import type { ListenerConfig } from '../../../config/config.ts'
import { clientAddress, type ClientConnection } from '../../connection/connection.ts'
import { TokenBuckets } from '../../registry/token-buckets.ts'
import type { ConnectionTable } from './connection-table.ts'
import { type Counted, LiveConnections, type LiveReason } from './live-connections.ts'
import { peerOf, type Source, sourceOf } from './source.ts'

/** Sources whose rate is remembered, for each listener. */
const MAX_SOURCES = 65_536

export type LimitReason = LiveReason | 'limit_rate'

type Limits = NonNullable<ListenerConfig['limits']>

type Client = Pick<ClientConnection, 'peer' | 'proxied'>

/** Whether a listener's limits depend on how many connections are open. */
export function limitsConnections({ limits }: Pick<ListenerConfig, 'limits'>): boolean {
  return (
    limits !== null &&
    [limits.connections, limits.perSource?.connections].some((limit) => typeof limit === 'number')
  )
}

/** The limits of one listener. Clients of a Unix socket have no address: no limit of sources applies to them. */
export class ListenerLimits {
  readonly #rate: TokenBuckets<Source> | undefined
  readonly #live: LiveConnections | undefined
  readonly #now: () => number
  /** Refused, and not closed yet. */
  readonly #refused = new Map<Client, Counted>()
  readonly #onError: (error: NativeError) => void

  /**
   * @param table needed if the number of open connections is limited
   * @param onError called when connections could not be counted: none is refused for their number then
   */
  constructor(
    { connections, perSource }: Limits,
    table: ConnectionTable | undefined,
    now: () => number,
    onError: (error: NativeError) => void,
  ) {
    this.#now = now
    this.#onError = onError
    const rate = perSource?.rate ?? null
    if (rate !== null) {
      const { perSecond } = rate
      const burst = perSource?.burst ?? Math.max(1, Math.ceil(perSecond))
      this.#rate = new TokenBuckets<Source>({ perSecond, burst, maxAccounts: MAX_SOURCES })
    }
    const live = { total: connections, perSource: perSource?.connections ?? null }
    if (table !== undefined && (live.total !== null || live.perSource !== null))
      this.#live = new LiveConnections(live, table, now)
  }

  /** The limit that the connection exceeds; `later`: connections must be counted first. Otherwise it is admitted. */
  judge(client: Client): LimitReason | 'later' | undefined {
    const { family, address } = clientAddress(client)
    if (family !== 'unix' && this.#rate?.take(sourceOf(address), this.#now()) !== undefined)
      return 'limit_rate'
    if (this.#live === undefined) return undefined
    const counted = this.#counted(client)
    const exceeded = this.#live.exceeded(counted.source)
    if (!this.#live.isSure(counted.source, exceeded)) return 'later'
    if (exceeded === undefined) this.#live.admit(counted)
    return exceeded
  }

  /** The same for one that had to wait, after the count. */
  judgeLate(client: Client): LimitReason | undefined {
    const counted = this.#counted(client)
    const exceeded = this.#live?.exceeded(counted.source)
    if (exceeded === undefined) this.#live?.admit(counted)
    return exceeded
  }

  /** Connections should be counted although none waits for it. */
  get isDue(): boolean {
    return this.#live?.isDue === true
  }

  /** Milliseconds until they may be counted. */
  get delay(): number {
    return this.#live?.delay ?? 0
  }

  /** @param waiting connections that are judged next */
  async count(waiting: readonly Client[]): Promise<void> {
    try {
      await this.#live?.count([...waiting.map((client) => this.#counted(client)), ...this.#refused.values()])
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#onError(error)
    }
  }

  /** Refused connections that are open. */
  get refused(): number {
    return this.#refused.size
  }

  /** A connection was refused, and stays open until `closed`. */
  refuses(client: Client): void {
    this.#refused.set(client, this.#counted(client))
  }

  closed(client: Client): void {
    this.#refused.delete(client)
  }

  #counted(client: Client): Counted {
    const { address, port } = client.peer
    const direct = sourceOf(address)
    const source = client.proxied === undefined ? direct : sourceOf(clientAddress(client).address)
    return { peer: peerOf(address, port), direct, source }
  }
}
