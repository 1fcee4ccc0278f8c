import t from 'tap'
import { TokenBuckets } from '../src/worker/registry/token-buckets.ts'
import { RegistrationLimits } from '../src/worker/registry/registration-limits.ts'

void t.test('an allowance gives its burst at once, then its rate', async (t) => {
  const allowance = new TokenBuckets({ burst: 3, perSecond: 2 })
  const taken = (now: number) => allowance.take('one', now)
  t.same([taken(0), taken(0), taken(0)], [undefined, undefined, undefined])
  t.equal(taken(0), 500)
  t.equal(taken(300), 200, 'a refused dial costs nothing')
  t.equal(taken(500), undefined)
  t.equal(allowance.take('other', 500), undefined, 'each has its own')
  t.same([taken(60_000), taken(60_000), taken(60_000)], [undefined, undefined, undefined])
  t.equal(taken(60_000), 500, 'never more than the burst')
})

void t.test('a process that keeps dialling after a refusal gets no answer', async (t) => {
  const limits = new RegistrationLimits()
  const peer = { pid: 1, uid: 0, gid: 0 }
  const answered = (now: number) => {
    let count = 0
    while (!limits.isExhausted(peer, now) && count < 1000) {
      limits.dialled(peer, now)
      count += 1
    }
    return count
  }
  t.equal(answered(0), 64 + 8)
  t.equal(answered(0), 0)
  t.equal(answered(1000), 8 + 1, 'a second later: both have regained some')
  t.equal(limits.dialled(peer, 1200), undefined, 'a dial within its allowance is granted')
})

void t.test('a process with more backends than its burst gets all of them registered', async (t) => {
  // Refused dials used up the allowance as it came back: from about 85 backends on, the waiting ones kept each other out for good.
  const limits = new RegistrationLimits()
  const peer = { pid: 1, uid: 0, gid: 0 }
  const BACKENDS = 200
  /** When each backend redials: like the SDK, within 2 s, and not before a refusal's `retryAfter`. */
  const due = Array.from({ length: BACKENDS }, () => 0)
  let registered = 0
  let now = 0
  for (; registered < BACKENDS && now < 60_000; now += 10) {
    for (const [index, at] of due.entries()) {
      if (at > now) continue
      const delay = 1000 + ((index * 37) % 100) * 10
      if (limits.isExhausted(peer, now)) {
        due[index] = now + 1000 + delay
        continue
      }
      const refusal = limits.dialled(peer, now)
      if (refusal === undefined) registered += 1
      due[index] = refusal === undefined ? Number.POSITIVE_INFINITY : now + Number(refusal.retryAfter) + delay
    }
  }
  t.equal(registered, BACKENDS, `after ${now} ms`)
  t.ok(now < 30_000, `${now} ms`)
})

void t.test('a pod that dials in a loop does not keep out another pod of its user', async (t) => {
  // Both have pid 0. The one in the loop used up the allowance as it came back, and the other was never registered.
  const limits = new RegistrationLimits()
  const peer = { pid: 0, uid: 0, gid: 0 }
  let hammers = 0
  let due = 20_000
  let granted = false
  let now = 0
  for (; !granted && now < 120_000; now++) {
    if (hammers <= now) {
      const exhausted = limits.isExhausted(peer, now)
      if (!exhausted) limits.dialled(peer, now)
      hammers = now + (exhausted ? 1000 : 2)
    }
    if (due > now) continue
    if (limits.isExhausted(peer, now)) due = now + 2600
    else {
      const refusal = limits.dialled(peer, now)
      granted = refusal === undefined
      due = now + 1600 + (refusal?.retryAfter ?? 0)
    }
  }
  t.ok(granted && now < 30_000, `after ${now - 20_000} ms`)
})

void t.test(
  'accounts are forgotten when they are full, and the oldest when there are too many',
  async (t) => {
    const allowance = new TokenBuckets({ burst: 2, perSecond: 1 })
    for (let key = 0; key < 10_000; key++) allowance.take(String(key), 0)
    t.ok(allowance.size < 5000, `${allowance.size} accounts`)
    for (let key = 0; key < 5000; key++) allowance.take('again', 60_000)
    t.equal(allowance.size, 1)
  },
)

void t.test(
  'dials are counted per process, and per user where the kernel does not report a pid',
  async (t) => {
    const limits = new RegistrationLimits()
    const granted = (peer: { pid: number; uid: number }) => {
      let count = 0
      while (limits.dialled({ gid: 0, ...peer }, 0) === undefined) count += 1
      return count
    }
    t.equal(granted({ pid: 1, uid: 0 }), 64)
    t.equal(granted({ pid: 2, uid: 0 }), 64)
    t.equal(granted({ pid: 1, uid: 1 }), 64, 'a pid reused by another user is another process')
    t.equal(granted({ pid: 0, uid: 0 }), 512, 'all of a user in another PID namespace')
    t.match(limits.dialled({ pid: 1, uid: 0, gid: 0 }, 0), {
      code: 'TooManyRegistrations',
      retry: true,
      retryAfter: 125,
    })
  },
)

void t.test('at most 256 live registrations per process, and 2,048 for all pods of a user', async (t) => {
  const limits = new RegistrationLimits()
  const process = { pid: 1, uid: 0, gid: 0 }
  t.equal(limits.adds(process, 255), undefined)
  t.match(limits.adds(process, 256), { code: 'TooManyRegistrations', retry: true, retryAfter: 1000 })
  const unnamed = { ...process, pid: 0 }
  t.equal(limits.adds(unnamed, 2047), undefined, 'all of a user in another PID namespace')
  t.match(limits.adds(unnamed, 2048), { code: 'TooManyRegistrations', retry: true })
})
