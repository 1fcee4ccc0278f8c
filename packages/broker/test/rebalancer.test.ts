import t from 'tap'
import { Rebalancer, type Share, surpluses } from '../src/worker/resume/rebalancer.ts'

const shares = (...live: number[]): Share[] => live.map((each) => ({ live: each, weight: 1 }))

void t.test('what each backend has above its share, if some differ by more than a quarter', async (t) => {
  t.same(surpluses(shares()), [])
  t.same(surpluses(shares(500)), [0])
  t.same(surpluses(shares(40, 0)), [20, 0])
  t.same(surpluses(shares(300, 300, 0)), [100, 100, 0], 'one has joined')
  t.same(surpluses(shares(100, 100, 100, 100, 100, 100, 100, 100, 100, 0)), [...Array(9).fill(10), 0])
  t.same(surpluses(shares(124, 100, 76)), [0, 0, 0], 'less than a quarter')
  t.same(surpluses(shares(127, 100, 73)), [27, 0, 0])
  t.same(surpluses(shares(15, 0)), [0, 0], 'less than eight')
  t.same(surpluses(shares(16, 0)), [8, 0])
  t.same(surpluses(shares(0, 0)), [0, 0])
})

void t.test('shares go by weight', async (t) => {
  t.same(
    surpluses([
      { live: 90, weight: 3 },
      { live: 30, weight: 1 },
    ]),
    [0, 0],
  )
  t.same(
    surpluses([
      { live: 60, weight: 3 },
      { live: 60, weight: 1 },
    ]),
    [0, 30],
  )
})

class Backend implements Share {
  readonly weight = 1
  readonly handBackWindow: number
  handedBack = 0
  live: number
  readonly asked: number[] = []

  constructor(live: number, window = 64) {
    this.live = live
    this.handBackWindow = window
  }

  rebalance(count: number): void {
    this.asked.push(count)
  }
}

void t.test('a backend is asked at most once a second, for at most its window', async (t) => {
  let now = 0
  const full = new Backend(1000)
  const plain = new Backend(500, 0)
  const backends = [full, new Backend(0), plain]
  const rebalancer = new Rebalancer(
    () => backends,
    () => 0,
    { now: () => now },
  )
  for (; now < 2500; now += 10) {
    rebalancer.check()
    if (full.asked.length > full.handedBack / 64) full.handedBack += 64
  }
  t.same(full.asked, [64, 64, 64])
  t.same(plain.asked, [], 'it cannot hand back')
})

void t.test('a backend that hands nothing back is asked less and less often', async (t) => {
  let now = 0
  const stiff = new Backend(1000)
  const backends = [stiff, new Backend(0)]
  const rebalancer = new Rebalancer(
    () => backends,
    () => 0,
    { now: () => now },
  )
  for (; now < 600_000; now += 100) rebalancer.check()
  t.ok(stiff.asked.length > 10 && stiff.asked.length < 20, `asked ${stiff.asked.length} times`)
  stiff.handedBack += 64
  const before = stiff.asked.length
  for (; now < 665_000; now += 100) rebalancer.check()
  t.ok(stiff.asked.length >= before + 3, 'and as often as others once it has')
})

void t.test('idle connections that were asked for count until a backend has them again', async (t) => {
  // Parked, they were with no backend, and the first backend was asked again and again: it kept 9 of 200.
  let now = 0
  let parked = 0
  const old = new Backend(200)
  const joined = new Backend(0)
  const rebalancer = new Rebalancer(
    () => [old, joined],
    () => parked,
    { now: () => now },
  )
  for (; now < 60_000; now += 100) {
    const asked = old.asked.length
    rebalancer.check()
    if (old.asked.length === asked) continue
    const count = old.asked.at(-1) as number
    old.handedBack += count
    old.live -= count
    parked += count
  }
  t.match({ parked, old }, { parked: 100, old: { live: 100, asked: [64, 36] } })
  joined.live += parked
  parked = 0
  for (; now < 120_000; now += 100) rebalancer.check()
  t.equal(old.asked.length, 2, 'awake, they are with the other one')
  joined.live = 0
  rebalancer.check()
  t.equal(old.asked.length, 3, 'none is pending any more')
})
