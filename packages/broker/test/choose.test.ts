import * as fc from 'fast-check'
import t from 'tap'

import { createBalancer, type Balance } from '../src/worker/balance/balancer.ts'
import type { Candidate } from '../src/worker/balance/candidate.ts'

const BALANCES: readonly Balance[] = ['least-connections', 'round-robin', 'p2c', 'source-hash']

const candidate = (id: string, weight = 1, load = 0): Candidate => ({ id, weight, load })

/** A seeded uniform source in [0, 1) (mulberry32), so that failures are reproducible. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const alphabetically = (a = '', b = '') => a.localeCompare(b)

const client = (index: number) => ({
  source: `10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}`,
})

/** How often each is chosen if every connection stays open and so counts as load. */
function spread(balance: Balance, weights: readonly number[], turns: number): number[] {
  const balancer = createBalancer(balance, seeded(1))
  const loads = weights.map(() => 0)
  for (let turn = 0; turn < turns; turn++) {
    const candidates = weights.map((weight, index) => candidate(`web-${index}`, weight, loads[index]))
    const chosen = balancer.choose(candidates, client(turn))
    if (chosen === undefined) throw new Error('no candidate was chosen')
    const index = candidates.indexOf(chosen)
    loads[index] = (loads[index] ?? 0) + 1
  }
  return loads
}

const candidates = fc
  .uniqueArray(
    fc.record({
      id: fc.string({ minLength: 1 }),
      weight: fc.integer({ min: 1, max: 1000 }),
      load: fc.nat(1000),
    }),
    {
      selector: ({ id }) => id,
      maxLength: 12,
    },
  )
  .map((list): Candidate[] => list)

void t.test('the choice is always one of the candidates, and undefined if there are none', async (t) => {
  for (const balance of BALANCES) {
    const balancer = createBalancer(balance)
    t.equal(balancer.choose([], { source: '10.0.0.1' }), undefined, balance)
    t.equal(balancer.choose([], {}), undefined, balance)
    const only = candidate('only', 3, 9)
    t.equal(balancer.choose([only], {}), only, balance)
    fc.assert(
      fc.property(candidates, fc.option(fc.ipV4(), { nil: undefined }), (list, source) => {
        const chosen = balancer.choose(list, source === undefined ? {} : { source })
        return list.length === 0 ? chosen === undefined : list.includes(chosen as Candidate)
      }),
    )
  }
})

void t.test('each balance respects weights', async (t) => {
  const turns = 12_000
  const weights = [1, 2, 3]
  for (const balance of BALANCES) {
    const counts = spread(balance, weights, turns)
    // Drawing and hashing are approximate: four standard deviations of a binomial share, at most 220 of 12,000.
    const slack = balance === 'round-robin' || balance === 'least-connections' ? 1 : 220
    for (const [index, weight] of weights.entries()) {
      const expected = (turns * weight) / 6
      t.ok(Math.abs((counts[index] ?? 0) - expected) <= slack, `${balance}: ${counts.join(', ')}`)
    }
  }
})

void t.test(
  'least-connections takes the lowest load for its weight, and alternates among equals',
  async (t) => {
    const balancer = createBalancer('least-connections')
    const list = [candidate('a', 1, 2), candidate('b', 4, 6), candidate('c', 1, 3)]
    t.equal(balancer.choose(list, {})?.id, 'b', '6 / 4 is below 2 / 1')
    fc.assert(
      fc.property(candidates, (many) => {
        const chosen = balancer.choose(many, {})
        return many.every(
          ({ load, weight }) => chosen !== undefined && chosen.load / chosen.weight <= load / weight,
        )
      }),
    )
    const idle = ['a', 'b', 'c'].map((id) => candidate(id))
    const fair = createBalancer('least-connections')
    const turns = Array.from({ length: 6 }, () => fair.choose(idle, {})?.id)
    t.same(turns.slice(0, 3).toSorted(alphabetically), ['a', 'b', 'c'])
    t.same(turns.slice(3).toSorted(alphabetically), ['a', 'b', 'c'])
  },
)

void t.test('round-robin is smooth', async (t) => {
  const balancer = createBalancer('round-robin')
  const list = [candidate('a', 5), candidate('b', 1), candidate('c', 1)]
  const turns = Array.from({ length: 14 }, () => balancer.choose(list, {})?.id).join('')
  t.equal(turns, 'aabacaaaabacaa', 'the sequence that nginx documents')
})

void t.test('round-robin continues when a backend comes or goes', async (t) => {
  const balancer = createBalancer('round-robin')
  const all = ['a', 'b', 'c'].map((id) => candidate(id))
  for (let turn = 0; turn < 7; turn++) balancer.choose(all, {})
  const two = Array.from({ length: 100 }, () => balancer.choose(all.slice(0, 2), {})?.id)
  t.ok(Math.abs(two.filter((id) => id === 'a').length - 50) <= 1, 'the two that stay share evenly')
  const back = Array.from({ length: 99 }, () => balancer.choose(all, {})?.id)
  t.ok(
    Math.abs(back.filter((id) => id === 'c').length - 33) <= 1,
    'a returning backend is not compensated for its absence',
  )
})

// `npm start` promises that its two backends take turns. When one of them was slow once, and its client went to the other, the
// other had the next turn too, the third in a row: the turn that the slow one had missed still counted as had.
void t.test('round-robin: after a backend missed its turn, it has the next one', async (t) => {
  for (const slow of ['a', 'b']) {
    const balancer = createBalancer('round-robin')
    const all = ['a', 'b'].map((id) => candidate(id))
    let turn = balancer.choose(all, {})?.id
    while (turn !== slow) turn = balancer.choose(all, {})?.id
    const other = balancer.choose(
      all.filter(({ id }) => id !== slow),
      {},
    )
    t.not(other?.id, slow, 'the client of the slow one goes to the other')
    const turns = Array.from({ length: 4 }, () => balancer.choose(all, {})?.id)
    t.same(turns, [slow, other?.id, slow, other?.id])
  }
})

void t.test('p2c compares two different backends', async (t) => {
  const draws = [0, 0]
  const balancer = createBalancer('p2c', () => draws.shift() ?? 0)
  t.equal(
    balancer.choose([candidate('busy', 1, 5), candidate('idle', 1, 1)], {})?.id,
    'idle',
    'the same draw is not the same backend',
  )
  const random = createBalancer('p2c', seeded(2))
  const list = [candidate('a', 1, 9), candidate('b', 1, 1), candidate('c', 1, 5)]
  const counts = new Map<string, number>()
  for (let turn = 0; turn < 3000; turn++) {
    const id = random.choose(list, {})?.id ?? ''
    counts.set(id, (counts.get(id) ?? 0) + 1)
  }
  t.equal(counts.get('a'), undefined, 'the busiest is never chosen')
  t.ok((counts.get('b') ?? 0) > 1850 && (counts.get('c') ?? 0) > 850, 'two of three pairs have the idlest')
})

void t.test('source-hash: a client stays, and only the clients of a lost backend move', async (t) => {
  const balancer = createBalancer('source-hash')
  const all = [candidate('a', 1), candidate('b', 2), candidate('c', 3), candidate('d', 1)]
  const moved = new Map<string, number>()
  let lost = 0
  for (let index = 0; index < 5000; index++) {
    const before = balancer.choose(all, client(index))
    const shuffled = all.toReversed().map(({ id, weight }) => candidate(id, weight, index))
    if (balancer.choose(shuffled, client(index))?.id !== before?.id) t.fail('order or load mattered')
    const after = balancer.choose(
      all.filter(({ id }) => id !== 'c'),
      client(index),
    )
    if (before?.id !== 'c') {
      if (after?.id !== before?.id) t.fail(`client ${index} moved from ${before?.id} to ${after?.id}`)
      continue
    }
    lost += 1
    moved.set(after?.id ?? '', (moved.get(after?.id ?? '') ?? 0) + 1)
  }
  for (const [id, share] of [
    ['a', 1 / 4],
    ['b', 2 / 4],
    ['d', 1 / 4],
  ] as const) {
    t.ok(
      Math.abs((moved.get(id) ?? 0) - lost * share) < 4 * Math.sqrt(lost * share),
      `${id} takes its share of ${lost}`,
    )
  }
})

void t.test('source-hash without an address draws by weight', async (t) => {
  const balancer = createBalancer('source-hash', seeded(3))
  const list = [candidate('a', 1), candidate('b', 3)]
  let a = 0
  for (let turn = 0; turn < 4000; turn++) if (balancer.choose(list, {})?.id === 'a') a += 1
  t.ok(Math.abs(a - 1000) < 110, `${a} of 4000`)
})
