import { join } from 'node:path'
import t from 'tap'
import { startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { root } from './support/process.ts'
import { LIMIT } from './support/limits.ts'
import { exists, signal } from './support/signal.ts'

// Whoever kills the master leaves its managed backends behind: nobody would stop or replace them, and the next master starts
// others beside them. Their output had been read by the master, and the SDK's own line about the lost broker once ended them,
// and every connection that they had, by EPIPE.
void t.test(
  'managed backends whose master is killed finish what they have, and end',
  { timeout: LIMIT },
  async (t) => {
    const program = join(root, 'test/programs/http-backend.mjs')
    const broker = await startBroker(t, {
      config: { services: { web: { command: [process.execPath, program], instances: 2 } } },
    })
    const { services } = await broker.backends(2)
    const pids = services[0]?.backends.map(({ pid }) => pid) ?? []
    const client = await Client.open(t, { port: broker.port() })
    client.request('/slow?ms=1500')
    await broker.until(
      (status) => status.services[0]?.outcomes.handed_off === 1,
      'the request is with a backend',
    )

    await broker.die()
    t.match(await client.answer(), { status: 200 }, 'what was asked is answered')
    await eventually(
      () => !pids.some(exists),
      () => `${pids.filter(exists).join(', ')} still there`,
    )
  },
)

// The session ended while the master was still there, and nobody looked again: the backend dialled for ever, and then served old code
// beside its own successor.
void t.test('managed backends notice as well when the worker went first', { timeout: LIMIT }, async (t) => {
  const program = join(root, 'test/programs/http-backend.mjs')
  const broker = await startBroker(t, {
    config: { services: { web: { command: [process.execPath, program], instances: 2 } } },
  })
  const pids = (await broker.backends(2)).services[0]?.backends.map(({ pid }) => pid) ?? []
  signal(broker.pid, 'SIGKILL')
  broker.program.kill('SIGKILL')
  await broker.program.exited
  await eventually(
    () => !pids.some(exists),
    () => `${pids.filter(exists).join(', ')} still there`,
  )
  t.pass('they have ended')
})
