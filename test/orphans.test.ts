import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { root } from './support/process.ts'
import { LIMIT } from './support/limits.ts'
import { exists, signal } from './support/signal.ts'

async function startWithBackends(t: Test, instances: number): Promise<{ broker: Broker; pids: number[] }> {
  const command = [process.execPath, join(root, 'test/programs/http-backend.mjs')]
  const broker = await startBroker(t, { config: { services: { web: { command, instances } } } })
  const { services } = await broker.backends(instances)
  return { broker, pids: services[0]?.backends.map(({ pid }) => pid) ?? [] }
}

async function haveEnded(pids: readonly number[]): Promise<void> {
  await eventually(
    () => !pids.some(exists),
    () => `${pids.filter(exists).join(', ')} still there`,
  )
}

// Whoever kills the master leaves its managed backends behind: nobody would stop or replace them, and the next master starts
// others beside them. Their output had been read by the master, and the SDK's own line about the lost broker once ended them,
// and every connection that they had, by EPIPE.
void t.test(
  'managed backends whose master is killed finish what they have, and end',
  { timeout: LIMIT },
  async (t) => {
    const { broker, pids } = await startWithBackends(t, 2)
    const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
    // The answer comes with the last byte of the request.
    client.send('POST /whole HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n')
    await broker.until(
      (status) => status.services[0]?.outcomes.handed_off === 1,
      'the request is with a backend',
    )

    await broker.die()
    await eventually(() => pids.filter(exists).length === 1, 'one has nothing left to do, and ends')
    client.send('.')
    t.match(await client.answer(), { status: 200 }, 'what was asked is answered')
    await haveEnded(pids)
  },
)

// The session ended while the master was still there, and nobody looked again: the backend dialled for ever, and then served old code
// beside its own successor.
void t.test('managed backends notice as well when the worker went first', { timeout: LIMIT }, async (t) => {
  const { broker, pids } = await startWithBackends(t, 1)
  t.equal(pids.length, 1)
  signal(broker.pid, 'SIGKILL')
  broker.program.kill('SIGKILL')
  await broker.program.exited
  await haveEnded(pids)
  t.pass('they have ended')
})
