import { join } from 'node:path'
import t from 'tap'
import { startBroker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { starts } from '../support/limits.ts'
import { PacedClients } from '../support/paced-clients.ts'
import { root } from '../support/process.ts'

const REPLACEMENTS = 3

void t.test('an app that leaks 5 MB a second under load', { timeout: starts(200) }, async (t) => {
  const broker = await startBroker(t, {
    config: {
      services: {
        web: {
          command: [process.execPath, join(root, 'test/programs/leaking-backend.mjs')],
          instances: 2,
          env: { LEAK_MB: '5' },
          maxMemory: '120MB',
        },
      },
    },
  })
  await broker.backends(2)
  const load = new PacedClients(t, broker.port(), 100)
  const replaced = () =>
    broker.metric('baton_backend_replacements_total{service="web",reason="memory",result="success"}')
  await eventually(
    async () => (await replaced()) >= REPLACEMENTS,
    'it is replaced again and again',
    starts(150),
  )
  await load.stop()
  t.comment(`${await replaced()} replacements, ${load.answers} answers, ${load.failures.length} failures`)
  t.same(load.failures, [])
  t.equal(
    await broker.metric('baton_backend_replacements_total{service="web",reason="memory",result="failure"}'),
    0,
  )
})
