import t from 'tap'
import { formatShare, parseShare } from '../src/config/share.ts'
import { sideOf } from '../src/worker/balance/share.ts'

// The division of clients between a version and the others.

const KEYS = Array.from(
  { length: 20_000 },
  (_, index) => `address 10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`,
)

const FEW = KEYS.slice(0, 4000)

function moved(share: number, keys = KEYS, to = '2.0', service = 'web'): Set<string> {
  return new Set(keys.filter((key) => sideOf(key, service, { to, share }) === 'to'))
}

void t.test('the share is kept within half a point over 20,000 clients', async (t) => {
  for (const share of [25, 500, 5000]) {
    const found = (moved(share).size / KEYS.length) * 10_000
    t.ok(Math.abs(found - share) < 50, `${found} of ${share}`)
  }
  t.equal(moved(0, FEW).size, 0)
  t.equal(moved(10_000, FEW).size, FEW.length)
})

void t.test('a client stays on its side, and when the share grows, none moves back', async (t) => {
  t.same(moved(500, FEW), moved(500, FEW))
  let before = moved(100, FEW)
  for (const share of [500, 2500, 2501, 10_000]) {
    const after = moved(share, FEW)
    t.same(
      [...before].filter((key) => !after.has(key)),
      [],
      `${share}`,
    )
    before = after
  }
})

void t.test('the clients that try one version are not those that try the next', async (t) => {
  const first = moved(1000, FEW)
  for (const others of [moved(1000, FEW, '3.0'), moved(1000, FEW, '2.0', 'api')]) {
    const both = [...first].filter((key) => others.has(key)).length
    t.ok(both < 80, `${both} of ${FEW.length} in both`)
  }
})

void t.test('shares as people write them', async (t) => {
  const cases: readonly [text: string, share: number | undefined][] = [
    ['0%', 0],
    ['5%', 500],
    ['12.5%', 1250],
    ['0.25%', 25],
    ['100%', 10_000],
    ['100.00%', 10_000],
    ['100.01%', undefined],
    ['101%', undefined],
    ['5', undefined],
    ['0.05', undefined],
    ['-1%', undefined],
    ['%', undefined],
    ['1e1%', undefined],
    ['5 %', undefined],
    ['', undefined],
  ]
  for (const [text, share] of cases) t.equal(parseShare(text), share, text)
  for (const share of [0, 1, 25, 500, 1250, 10_000]) t.equal(parseShare(formatShare(share)), share)
})
