import t from 'tap'
import { type Account, sizeOf } from '../src/ipc/copies.ts'
import { countedAsLost, keyOf, lastAccounts } from '../src/master/workers/last-accounts.ts'
import { Losses } from '../src/master/workers/losses.ts'
import { HANDBACK_KINDS, OUTCOMES, UNROUTED_REASONS, type UnroutedReason } from '../src/metrics/labels.ts'
import type { MetricSnapshot } from '../src/metrics/snapshot.ts'

// The counts of a worker that was killed. Reasons were added since the first version: a worker of an older one, which a reload leaves
// behind, has fewer numbers for a doorway, and names no reasons.

/** @param numbers of the doorway of a listener that has accepted 20 connections */
function sinceThen(reasons: readonly UnroutedReason[] | undefined, numbers: readonly number[]) {
  const layout: Account[] = [
    { kind: 'listener', name: 'edge', service: null, unix: false },
    { kind: 'doorway', name: 'edge', ...(reasons && { reasons }) },
    { kind: 'listener', name: 'next', service: 'web', unix: false },
  ]
  const written = Float64Array.from([20, ...numbers, 7])
  const size = layout.reduce((sum, account) => sum + sizeOf(account), 0)
  const { counts, balance } = lastAccounts({ layout, numbers: written, moves: undefined }, [])
  const losses = new Losses()
  losses.ended(balance)
  const added = [...counts, ...countedAsLost(losses.settle(undefined))]
  return {
    size,
    of: (name: string) => added.filter((metric) => metric.name === name).flatMap(({ values }) => values),
  }
}

const ended = (reason: string, value: number) => ({ labels: { listener: 'edge', reason }, value })

void t.test('of a doorway without limits, also in an older version', async (t) => {
  const { size, of } = sinceThen(undefined, [1, 2, 3, 4, 5, 0, 2])
  t.equal(size, 9)
  // The number of the next listener is read from the right place.
  t.match(of('baton_connections_accepted_total'), [{ value: 20 }, { labels: { listener: 'next' }, value: 7 }])
  t.same(of('baton_connections_unrouted_total'), [
    ended('no_route', 1),
    ended('ambiguous', 2),
    ended('proxy_header', 3),
    ended('client_gone', 4),
    ended('shutdown', 5),
    ended('lost', 3),
  ])
})

void t.test('of a doorway with limits', async (t) => {
  const { size, of } = sinceThen(UNROUTED_REASONS, [1, 2, 3, 4, 5, 1, 1, 1, 0, 2])
  t.equal(size, 12)
  t.match(of('baton_connections_accepted_total'), [{ value: 20 }, { labels: { listener: 'next' }, value: 7 }])
  t.same(of('baton_connections_unrouted_total').slice(5), [
    ended('limit_rate', 1),
    ended('limit_source_connections', 1),
    ended('limit_connections', 1),
  ])
})

// Its last report may be older than what it has written, or newer: it is made between two rounds of the event loop, and what is written at the end of one.
void t.test('what is open, and what has moved', async (t) => {
  const layout: Account[] = [
    { kind: 'listener', name: 'web', service: 'web', unix: false },
    { kind: 'service', name: 'web' },
    { kind: 'doorway', name: 'edge' },
    { kind: 'listener', name: 'edge', service: null, unix: false },
  ]
  const outcomes = OUTCOMES.map((_, index) => index + 1)
  const handedBack = HANDBACK_KINDS.map(() => 4)
  const numbers = Float64Array.from([60, ...outcomes, ...handedBack, 7, 5, 1, 0, 0, 0, 0, 2, 6, 8])
  const moves = Float64Array.from([3, 2, 1, 4])
  const total = (name: string, labels: Record<string, string>, value: number) =>
    ({ name, help: name, values: [{ labels, value }] }) as unknown as MetricSnapshot[number]
  const { counts, balance } = lastAccounts({ layout, numbers, moves }, [
    total('baton_connections_accepted_total', { listener: 'web' }, 62),
    total('baton_connections_total', { service: 'web', outcome: OUTCOMES[0] }, 4),
    total(
      'baton_connections_handed_back_total',
      { service: 'web', kind: HANDBACK_KINDS[0], result: 'taken' },
      1,
    ),
  ])
  const ended = outcomes.reduce((sum, each) => sum + each, 0) + 3
  t.same(Object.fromEntries(balance.open), {
    'service web': 62 + 4 * HANDBACK_KINDS.length - ended + 7 - 5,
    'listener edge': 8 - 1 + 2 - 6,
  })
  t.same(Object.fromEntries(balance.moved ?? []), { 'service web': 1, 'listener edge': -3 })
  const added = (name: string) =>
    counts.find((metric) => metric.name === name)?.values.map(({ value }) => value)
  t.same(added('baton_connections_accepted_total'), [8], 'the report has the others')
  t.same(added('baton_connections_total'), outcomes.slice(1))
  t.same(added('baton_connections_handed_back_total'), [3, ...handedBack.slice(1)])
})

void t.test('where a connection is open that has outlived its worker', async (t) => {
  const client = { service: 'web', protocol: 'http', listener: 'edge' }
  const of = (fields: object) => keyOf({ client: { ...client, ...fields } } as never)
  t.equal(of({}), 'service web')
  t.equal(of({ service: '', resume: { service: 'talk' } }), 'service talk')
  t.equal(of({ peeked: 'content' }), 'listener edge')
})
