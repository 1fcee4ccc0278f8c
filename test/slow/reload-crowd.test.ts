import t from 'tap'
import { startBackend } from '../support/backend.ts'
import { startBroker } from '../support/broker.ts'
import { LIMIT } from '../support/limits.ts'
import { reload } from '../support/operator.ts'
import { allServed, visitorsOf } from '../support/waiting-room.ts'

// A leaving worker's held clients went to its successor through a socket with room for about 2,600. The rest waited for
// the poller to report room, but the worker had closed its poller: it never exited, and the clients were stuck.
void t.test('a reload moves more clients than the kernel can queue', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: { services: { web: { ackDeadline: '5m', tokenTtl: '10m', holdTimeout: '10m' } } },
  })
  const waiting = await visitorsOf(t, broker.port(), 4000)
  await broker.until(({ services }) => services[0]?.held === waiting.length, 'all wait')
  t.equal((await reload(t, broker)).success, true)
  await startBackend(t, broker)
  await allServed(t, broker, 'web', waiting)
})
