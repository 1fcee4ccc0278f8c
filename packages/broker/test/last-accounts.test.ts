import t from 'tap'
import { type Account, sizeOf } from '../src/ipc/copies.ts'
import { countedAsLost, lastAccounts } from '../src/master/workers/last-accounts.ts'
import { Losses } from '../src/master/workers/losses.ts'
import { UNROUTED_REASONS, type UnroutedReason } from '../src/metrics/labels.ts'

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
