import type { Candidate, BalanceKey } from '../balance/candidate.ts'
import type { ServiceConfig } from '../../config/config.ts'
import { clientAddress, type ClientConnection } from '../connection/connection.ts'
import type { Failure } from '../connection/failure.ts'
import type { Recipient } from '../recorder/recorder.ts'
import type { BackendLink } from '../backend/backend-link.ts'
import { mayTake } from '../resume/resuming.ts'
import type { Upstream } from '../relay/upstream.ts'

/** A backend eligible for handoff. `load` includes connections assigned earlier in the same batch. */
export interface HandoffCandidate extends Candidate {
  readonly link: BackendLink
  readonly version: string | null
  load: number
}

/** A backend or upstream eligible for a relay. */
export interface RelayCandidate extends Candidate {
  /** Null if it has none, as upstreams do. */
  readonly version: string | null
  /** The name under which a refusal is remembered (`markTried`), see `relayMark`. */
  readonly mark: string
  readonly recipient: Recipient
  connect(connection: ClientConnection): Failure | undefined
}

export function handoffCandidates(links: Iterable<BackendLink>): HandoffCandidate[] {
  const found: HandoffCandidate[] = []
  for (const link of links) {
    if (link.eligibility.state !== 'ready') continue
    const { version } = link.identity
    found.push({ id: link.id, version, weight: link.weight, load: link.load, link })
  }
  return found
}

/** All upstreams, and backends with a relay endpoint that are ready, or paused because handoffs failed. */
export function relayCandidates(
  links: Iterable<BackendLink>,
  upstreams: readonly Upstream[],
): RelayCandidate[] {
  const found: RelayCandidate[] = upstreams.map((upstream) => ({
    id: upstream.id,
    version: null,
    mark: upstream.id,
    recipient: { ulid: null, slot: upstream.id },
    weight: upstream.weight,
    load: upstream.load,
    connect: (connection) => upstream.connect(connection),
  }))
  for (const link of links) {
    if (
      link.identity.reconnect === null ||
      (link.eligibility.state !== 'ready' && link.eligibility.state !== 'paused')
    )
      continue
    found.push({
      id: link.id,
      version: link.identity.version,
      mark: relayMark(link.id),
      recipient: link.identity,
      weight: link.weight,
      load: link.load,
      connect: (connection) => link.offerRelay(connection),
    })
  }
  return found
}

/** Differs from the backend's id: a backend that refused the descriptor may still take a relay. */
export function relayMark(slot: string): string {
  return `relay/${slot}`
}

/** Whether only certain backends may take it: those that resume its state, or those of the version that its route names. */
export function isParticular({ resume, routed }: Pick<ClientConnection, 'resume' | 'routed'>): boolean {
  return resume !== undefined || routed?.version !== undefined
}

/** Whether this backend may be offered the descriptor. */
export function suits(link: BackendLink, connection: ClientConnection): boolean {
  return isOfVersion(link.identity.version, connection) && mayTake(link, connection)
}

/** Whether a backend of this version may take the connection, in any way. */
export function isOfVersion(version: string | null, { routed }: Pick<ClientConnection, 'routed'>): boolean {
  return routed?.version === undefined || routed.version === version
}

export function balanceKey(balance: ServiceConfig['balance'], connection: ClientConnection): BalanceKey {
  if (balance !== 'source-hash') return {}
  const { family, address } = clientAddress(connection)
  return family === 'unix' ? {} : { source: address }
}

/** Remembers that a candidate was tried, so that all others are tried before it again. */
export function markTried(connection: ClientConnection, mark: string): void {
  connection.tried ??= new Set()
  connection.tried.add(mark)
}

/** Restores arrival order, which is lost when several backends return connections, or one returns re-routed ones. */
export function inOrder(connections: readonly ClientConnection[]): readonly ClientConnection[] {
  return connections.length < 2 ? connections : connections.toSorted((a, b) => a.order - b.order)
}
