import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { type Broker, startBroker, type Status } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import {
  askAdmin,
  ledger,
  logged,
  masterStatus,
  onlyWorker,
  reload,
  samples,
  sessionInodes,
} from '../support/operator.ts'
import { openDescriptors } from '../support/proc.ts'
import { Program, root } from '../support/process.ts'
import { LIMIT } from '../support/limits.ts'

// Many reloads back to back, under load.

interface Results {
  readonly connections: number
  readonly requests: number
  readonly failures: readonly { kind: 'kept' | 'fresh'; failure: string }[]
}

/** Starts clients of both kinds; resolves with a function that stops them. */
async function startClients(t: Test, broker: Broker, kept: number): Promise<() => Promise<Results>> {
  const args = `--port ${broker.port()} --kept ${kept} --fresh 2 --pause 10`.split(' ')
  const program = new Program(t, process.execPath, [join(root, 'test/programs/two-kinds-load.mjs'), ...args])
  await program.message('loading')
  return async () => {
    program.child.stdin?.write('stop\n')
    return (await program.message('done')) as unknown as Results
  }
}

async function status(broker: Broker): Promise<Status> {
  return JSON.parse((await askAdmin(broker, '/api/v1/status'))[1]) as Status
}

async function succeed(t: Test, broker: Broker): Promise<void> {
  const { success, log } = await reload(t, broker)
  if (!success) throw new Error(`the reload failed:\n${log.join('\n')}`)
}

/** `npm run test:long` sets 20. Must exceed the two that come first. */
const RELOADS = Number(process.env['RELOADS'] ?? 4)

void t.test(
  `the pair survives ${RELOADS} reloads; no request fails, and no descriptor stays behind`,
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const { pid } = broker.program
    const backends = [await startBackend(t, broker), await startBackend(t, broker)]
    const known = (await broker.backends(2)).services[0]?.backends
    const port = Number(new URL(broker.admin).port)
    const descriptors = async () => {
      const worker = await onlyWorker(t, broker)
      await eventually(() => sessionInodes(broker).length === 0, 'no session')
      return {
        master: openDescriptors(pid),
        worker: openDescriptors(worker, port),
        backends: backends.map((backend) => openDescriptors(backend.pid)),
      }
    }
    // After the second reload, a program has opened everything that it keeps open permanently.
    for (let number = 1; number <= 2; number++) await succeed(t, broker)
    const before = await descriptors()
    const stop = await startClients(t, broker, 16)
    for (let number = 3; number <= RELOADS; number++) await succeed(t, broker)
    const { connections, requests, failures } = await stop()
    t.same(failures, [], `no failure in ${requests} requests on ${connections} connections`)

    t.match((await masterStatus(t, broker)).master, { pid, reloads: RELOADS })
    t.equal(logged(broker, 'worker died'), 0)
    let after = await descriptors()
    const grown = () =>
      after.master > before.master ||
      after.worker > before.worker ||
      after.backends.some((count, index) => count > (before.backends[index] ?? 0))
    await eventually(
      async () => !grown() || (after = await descriptors()) === undefined,
      () => `${JSON.stringify(after)} descriptors, ${JSON.stringify(before)} before`,
    )
    await t.test('each connection is counted once', async (t) => {
      const now = await ledger(broker)
      t.same(now, { accepted: connections, ended: connections })
      const values = await samples(broker)
      t.equal(values.get('baton_connections_total{service="web",outcome="handed_off"}'), connections)
      t.equal(values.get('baton_handoff_duration_seconds_count{service="web"}'), connections)
      t.equal(values.get('baton_reloads_total{result="success"}'), RELOADS)
    })
    await t.test('there was always a backend: no client was held', async (t) => {
      const held = [...(await samples(broker))].filter(
        ([series, value]) => series.startsWith('baton_fallbacks_total{') && value > 0,
      )
      t.same(held, [])
    })
    await t.test('backends keep their names', async (t) => {
      const names = (list: Status['services'][0]['backends'] = []) =>
        list.map(({ id, slot, pid }) => `${id} ${slot} ${pid}`).toSorted()
      t.same(names((await status(broker)).services[0]?.backends), names(known))
    })
  },
)
