import { HANDBACK_KINDS, LOST, OUTCOMES } from '../../metrics/labels.ts'
import { type Copy, FIRST_REASONS, type WorkerAccounts } from '../../ipc/copies.ts'
import type { MetricSnapshot } from '../../metrics/snapshot.ts'
import type { Survivor } from './kept-copy.ts'
import type { BalanceKey, Balances, LastBalance } from './losses.ts'

const ACCEPTED = 'baton_connections_accepted_total'
const CONNECTIONS = 'baton_connections_total'
const UNROUTED = 'baton_connections_unrouted_total'
const HANDED_BACK = 'baton_connections_handed_back_total'

interface Value {
  readonly value: number
  readonly labels: Readonly<Record<string, string>>
}

/** Counts of a worker since its last report, and what is open. */
export interface LastAccounts {
  /** To be added to that report. */
  readonly counts: MetricSnapshot
  readonly balance: LastBalance
}

/**
 * Reads what a worker had counted when it was killed, or what it has counted so far.
 *
 * @param reported its last report
 */
export function lastAccounts(accounts: WorkerAccounts, reported: MetricSnapshot): LastAccounts {
  const added = new Map<string, Value[]>(
    [ACCEPTED, CONNECTIONS, HANDED_BACK, UNROUTED].map((name) => [name, []]),
  )
  /** @returns the later one of both values */
  const count = (name: string, labels: Value['labels'], value: number): number => {
    const before = find(reported, name, labels)
    if (value > before) added.get(name)?.push({ labels, value: value - before })
    return Math.max(value, before)
  }
  const open = new Map<BalanceKey, number>()
  const balance = (key: BalanceKey, by: number) => open.set(key, (open.get(key) ?? 0) + by)
  const next = inOrder(accounts.numbers)
  for (const account of accounts.layout) {
    const { name } = account
    if (account.kind === 'listener') {
      const accepted = count(ACCEPTED, { listener: name }, next())
      balance(account.service === null ? `listener ${name}` : `service ${account.service}`, accepted)
    } else if (account.kind === 'doorway') {
      for (const reason of account.reasons ?? FIRST_REASONS)
        balance(`listener ${name}`, -count(UNROUTED, { listener: name, reason }, next()))
      balance(`listener ${name}`, next() - next())
    } else {
      const service = name
      for (const outcome of OUTCOMES)
        balance(`service ${name}`, -count(CONNECTIONS, { service, outcome }, next()))
      for (const kind of HANDBACK_KINDS)
        balance(`service ${name}`, count(HANDED_BACK, { service, kind, result: 'taken' }, next()))
      balance(`service ${name}`, next() - next())
    }
  }
  return { counts: snapshotOf(added, reported), balance: { open, moved: movedOf(accounts) } }
}

function inOrder(numbers: Float64Array): () => number {
  let at = 0
  return () => numbers[at++] ?? 0
}

/** See `LastBalance.moved`. */
export function movedOf({ layout, moves }: WorkerAccounts): Balances | undefined {
  if (moves === undefined) return undefined
  const moved = new Map<BalanceKey, number>()
  let at = 0
  for (const { kind, name } of layout) {
    if (kind === 'listener') continue
    const [movedIn = 0, movedOut = 0] = moves.subarray(at, (at += 2))
    moved.set(kind === 'service' ? `service ${name}` : `listener ${name}`, movedIn - movedOut)
  }
  return moved
}

/** @returns to be added to what was counted */
export function countedAsLost(lost: Balances): MetricSnapshot {
  const connections: Value[] = []
  const unrouted: Value[] = []
  for (const [key, value] of lost) {
    const name = key.slice(key.indexOf(' ') + 1)
    if (key.startsWith('service ')) connections.push({ labels: { service: name, outcome: LOST }, value })
    else unrouted.push({ labels: { listener: name, reason: LOST }, value })
  }
  const added = new Map([
    [CONNECTIONS, connections],
    [UNROUTED, unrouted],
  ])
  return snapshotOf(added, [])
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

/** Where a connection is open until a worker has taken it. */
export function keyOf({ client }: Copy): BalanceKey {
  return client.peeked === undefined
    ? `service ${client.resume?.service ?? client.service}`
    : `listener ${client.listener}`
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
