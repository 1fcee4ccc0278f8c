import t from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { ReturningBackends } from '../src/worker/registry/returning-backends.ts'

// After the death of a worker its backends register with the next one. That loaded its admin server first, for as long as it takes to start a
// program, and clients waited.

const BACKEND = { slot: 'web-1', healthy: true }

void t.test('what waits goes on with the last backend that returns', { timeout: LIMIT }, async (t) => {
  const registered = new Set<string>()
  const returning = new ReturningBackends({ a: BACKEND, b: BACKEND }, (backend) => registered.has(backend))
  let count = 0
  const waits = [returning.within(LIMIT), returning.within(LIMIT)].map((each) =>
    each.then(() => (count += 1)),
  )
  registered.add('a')
  returning.changed()
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(count, 0, 'one is missing')
  // One that has left again had returned.
  registered.delete('a')
  registered.add('b')
  returning.changed()
  await Promise.all(waits)
  t.equal(count, 2)
  await returning.within(LIMIT)
})

void t.test('nothing waits where there was none', { timeout: LIMIT }, () =>
  new ReturningBackends({}, () => false).within(LIMIT),
)

// A reload during a deploy left the admin API without an answer for half a second, and agent checks for two: until the time was over.
void t.test('nothing waits for a backend that drains', { timeout: LIMIT }, () =>
  new ReturningBackends({ leaving: { ...BACKEND, draining: true } }, () => false).within(LIMIT),
)

void t.test('and not for ever for one that does not return', { timeout: LIMIT }, async (t) => {
  const returning = new ReturningBackends({ gone: BACKEND }, () => false)
  await returning.within(20)
  returning.changed()
  t.pass('it went on')
})
