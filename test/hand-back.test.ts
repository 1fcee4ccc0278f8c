import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker } from './support/broker.ts'
import { LIMIT } from './support/limits.ts'
import { visit, visitors } from './support/visit.ts'

// An idle HTTP connection outlives the process that served it: the backend hands it back, and the broker offers it again with its next request.

void t.test('one broker, and backends that hand idle connections back', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: { services: { web: { holdTimeout: '10m' } } },
  })
  const first = await startBackend(t, broker)
  await broker.backends(1)

  await t.test(
    'a drain moves idle connections to the next backend; their clients do not notice',
    async (t) => {
      const clients = await visitors(t, broker, 100)
      for (const client of clients) t.equal((await client.answer()).headers['x-pid'], String(first.pid))
      const next = await startBackend(t, broker)
      await broker.backends(2)
      first.kill('SIGTERM')
      await first.exited
      for (const client of clients) {
        client.request('/again')
        const { status, headers } = await client.answer()
        t.match({ status, pid: headers['x-pid'] }, { status: 200, pid: String(next.pid) })
        t.notMatch(headers['connection'] ?? '', 'close')
      }
      const { services } = await broker.status()
      t.match(services[0], { handedBack: 100, parked: 0, outcomes: { idle_closed: 0, handed_off: 200 } })
    },
  )
})

void t.test('parkAfter: each request of a kept connection is offered anew', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { config: { services: { web: { parkAfter: '0ms' } } } })
  await startBackend(t, broker)
  await startBackend(t, broker)
  await broker.backends(2)
  const client = await visit(t, broker)
  await client.answer()
  for (let turn = 1; turn <= 20; turn++) {
    await broker.until(({ services }) => services[0]?.parked === 1, `parked ${turn} times`)
    client.request('/')
    t.equal((await client.answer()).status, 200)
  }
})
