import t from 'tap'
import { TokenBuckets } from '../src/worker/registry/token-buckets.ts'
import { RegistrationLimits } from '../src/worker/registry/registration-limits.ts'

void t.test('an allowance gives its burst at once, then as much as comes back', async (t) => {
  const allowance = new TokenBuckets({ burst: 3, perSecond: 2 })
  const taken = (now: number) => allowance.take('one', now)
  t.same([taken(0), taken(0), taken(0)], [undefined, undefined, undefined])
  t.equal(taken(0), 500)
  t.equal(taken(300), 200, 'what is refused costs nothing')
  t.equal(taken(500), undefined)
  t.equal(allowance.take('other', 500), undefined, 'each has its own')
  t.same([taken(60_000), taken(60_000), taken(60_000)], [undefined, undefined, undefined])
  t.equal(taken(60_000), 500, 'never more than the burst')
})

void t.test('with a debt, a peer that goes on although it was refused stays out', async (t) => {
  const allowance = new TokenBuckets({ burst: 1, perSecond: 1, debt: 3 })
  const take = (now: number) => allowance.take('one', now)
  t.notOk(allowance.isExhausted('one', 0))
  t.equal(take(0), undefined)
  t.same([take(0), take(0)], [2000, 3000])
  t.notOk(allowance.isExhausted('one', 0))
  t.equal(take(0), 4000)
  t.ok(allowance.isExhausted('one', 0))
  t.equal(take(0), 4000, 'as deep as it gets')
  t.notOk(allowance.isExhausted('one', 1000))
  t.equal(take(1000), 4000)
  t.equal(take(5000), undefined, 'and back once it has waited')
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
  'dials are counted for each process, and for each user where the kernel names none',
  async (t) => {
    const limits = new RegistrationLimits()
    const granted = (peer: { pid: number; uid: number }) => {
      let count = 0
      while (limits.dialled({ gid: 0, ...peer }, 0) === undefined) count += 1
      return count
    }
    t.equal(granted({ pid: 1, uid: 0 }), 64)
    t.equal(granted({ pid: 2, uid: 0 }), 64)
    t.equal(granted({ pid: 1, uid: 1 }), 64, 'a pid that another user had is another process')
    t.equal(granted({ pid: 0, uid: 0 }), 512, 'all of a user in another PID namespace')
    t.match(limits.dialled({ pid: 1, uid: 0, gid: 0 }, 0), {
      code: 'TooManyRegistrations',
      retry: true,
      retryAfter: 375,
    })
  },
)

void t.test('a process has no more than 256 registrations that live', async (t) => {
  const limits = new RegistrationLimits()
  const process = { pid: 1, uid: 0, gid: 0 }
  t.equal(limits.adds(process, 255), undefined)
  t.match(limits.adds(process, 256), { code: 'TooManyRegistrations', retry: true, retryAfter: 1000 })
  t.equal(limits.adds({ ...process, pid: 0 }, 1000), undefined, 'the kernel does not tell them apart')
})
