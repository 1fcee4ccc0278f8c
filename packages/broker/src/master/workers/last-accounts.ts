import { HANDBACK_KINDS, OUTCOMES } from '../../metrics/labels.ts'
import { type Copy, FIRST_REASONS } from '../../ipc/copies.ts'
import type { MetricSnapshot } from '../../metrics/snapshot.ts'
import type { Survivor } from './kept-copy.ts'
import type { Remains } from './worker-copies.ts'

/** The outcome of connections that a worker owned when it was killed, and of those whose outcome it could not count any more. */
export const LOST = 'lost'

const ACCEPTED = 'baton_connections_accepted_total'
const CONNECTIONS = 'baton_connections_total'
const UNROUTED = 'baton_connections_unrouted_total'
const HANDED_BACK = 'baton_connections_handed_back_total'

interface Value {
  readonly value: number
  readonly labels: Readonly<Record<string, string>>
}

/**
 * Counts of a worker since its last report, so that after its death each connection still has exactly one outcome: those that neither have
 * one nor survive are lost.
 *
 * @param reported its last report
 * @param isOver false while it lives: nothing is lost yet
 * @returns to be added to it
 */
export function sinceReport(
  { accounts, survivors }: Pick<Remains, 'accounts' | 'survivors'>,
  reported: MetricSnapshot,
  isOver = true,
): MetricSnapshot {
  const added = new Map<string, Value[]>(
    [ACCEPTED, CONNECTIONS, HANDED_BACK, UNROUTED].map((name) => [name, []]),
  )
  /** @returns the later one of both values */
  const count = (name: string, labels: Value['labels'], value: number): number => {
    const before = find(reported, name, labels)
    if (value > before) added.get(name)?.push({ labels, value: value - before })
    return Math.max(value, before)
  }
  const open = new Map<string, number>()
  const balance = (service: string, by: number) => open.set(service, (open.get(service) ?? 0) + by)
  /** By listener. */
  const peeked = new Map<string, number>()
  let at = 0
  const next = () => accounts.numbers[at++] ?? 0
  for (const account of accounts.layout) {
    if (account.kind === 'listener') {
      const accepted = count(ACCEPTED, { listener: account.name }, next())
      if (account.service === null) peeked.set(account.name, accepted)
      else balance(account.service, accepted)
      continue
    }
    if (account.kind === 'doorway') {
      const listener = account.name
      let left = peeked.get(listener) ?? 0
      for (const reason of account.reasons ?? FIRST_REASONS)
        left -= count(UNROUTED, { listener, reason }, next())
      left += next()
      peeked.set(listener, left - next())
      continue
    }
    const service = account.name
    for (const outcome of OUTCOMES) balance(service, -count(CONNECTIONS, { service, outcome }, next()))
    for (const kind of HANDBACK_KINDS)
      balance(service, count(HANDED_BACK, { service, kind, result: 'taken' }, next()))
    balance(service, next())
    balance(service, -next())
  }
  if (!isOver) return snapshotOf(added, reported)
  for (const { copy } of survivors) balance(serviceOf(copy), -1)
  for (const [service, lost] of open)
    if (lost > 0) added.get(CONNECTIONS)?.push({ labels: { service, outcome: LOST }, value: lost })
  for (const [listener, lost] of peeked)
    if (lost > 0) added.get(UNROUTED)?.push({ labels: { listener, reason: LOST }, value: lost })
  return snapshotOf(added, reported)
}

/**
 * Survivors that no worker will take.
 *
 * @returns to be added to what was counted
 */
export function countedAsLost(survivors: readonly Pick<Survivor, 'copy'>[]): MetricSnapshot {
  const lost = new Map<string, number>()
  for (const { copy } of survivors) {
    const service = serviceOf(copy)
    lost.set(service, (lost.get(service) ?? 0) + 1)
  }
  const values = [...lost].map(([service, value]) => ({ labels: { service, outcome: LOST }, value }))
  return snapshotOf(new Map([[CONNECTIONS, values]]), [])
}

/** Connections that this broker did not accept itself, but has from its last start. */
export function countedAsAccepted(survivors: readonly Pick<Survivor, 'copy'>[]): MetricSnapshot {
  const accepted = new Map<string, number>()
  for (const { copy } of survivors) {
    const { listener } = copy.client
    accepted.set(listener, (accepted.get(listener) ?? 0) + 1)
  }
  const values = [...accepted].map(([listener, value]) => ({ labels: { listener }, value }))
  return snapshotOf(new Map([[ACCEPTED, values]]), [])
}

function serviceOf({ client }: Copy): string {
  return client.resume?.service ?? client.service
}

/** @param reported has the help texts */
function snapshotOf(added: ReadonlyMap<string, readonly Value[]>, reported: MetricSnapshot): MetricSnapshot {
  return [...added].flatMap(([name, values]) =>
    values.length === 0
      ? []
      : [{ name, help: helpOf(reported, name), type: 'counter', aggregator: 'sum', values }],
  ) as unknown as MetricSnapshot
}

function find(snapshot: MetricSnapshot, name: string, labels: Value['labels']): number {
  const wanted = Object.entries(labels)
  const values = snapshot.find((metric) => metric.name === name)?.values ?? []
  return values.find((each) => wanted.every(([key, value]) => each.labels[key] === value))?.value ?? 0
}

function helpOf(snapshot: MetricSnapshot, name: string): string {
  return snapshot.find((metric) => metric.name === name)?.help ?? name
}
