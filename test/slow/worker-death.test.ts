import { join } from 'node:path'
import { setTimeout as elapsed } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { batonCommand, Broker, startBroker, type Status } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { askAdmin, logged, masterStatus, onlyWorker, samples, settledLedger } from '../support/operator.ts'
import { Program, root } from '../support/process.ts'
import { Sabotaged } from '../support/sabotage.ts'
import { PATIENT } from '../support/service.ts'
import { servedBy, visit } from '../support/visit.ts'
import { LIMIT, starts } from '../support/limits.ts'
import { exists, signal } from '../support/signal.ts'

// A dying worker costs only the clients it still owned; and how a broker ends.

/** `npm run test:long` sets more. */
const KILLS = Number(process.env['RELOADS'] ?? 2)

/** The interval, in milliseconds, at which the master receives the counts. There is no event for it, so the tests wait longer. */
const COUNT_INTERVAL = 1000

interface Failure {
  readonly kind: 'kept' | 'fresh'
  readonly failure: string
  readonly local: number
  readonly begun: number
  readonly ended: number
}

const now = () => Number(process.hrtime.bigint()) / 1e6

function gone(pid: number, timeout?: number): Promise<void> {
  return eventually(() => !exists(pid), `process ${pid} has ended`, timeout)
}

/** Both addresses are fixed in the configuration, so that another broker needs exactly the same ones. */
async function fixedAddresses() {
  const [web, admin] = [await freePort(), await freePort()]
  return {
    listeners: [{ name: 'web', listen: `127.0.0.1:${web}`, protocol: 'http', service: 'web' }],
    admin: { listen: `127.0.0.1:${admin}` },
  }
}

async function startAgain(t: Test, { folder, configFile }: Broker): Promise<Broker> {
  const program = new Program(t, process.execPath, [batonCommand, 'start', '--config', configFile], {
    group: true,
  })
  return new Broker(program, folder, configFile, await program.message('accepting connections'))
}

void t.test(
  'SIGKILL of the worker under load: no client is refused, and handed-off ones do not notice',
  { timeout: LIMIT },
  async (t) => {
    // An ACK that is late would make a relay, which ends with its worker.
    const broker = await startBroker(t, { config: { services: { web: PATIENT } } })
    const backend = await startBackend(t, broker)
    const known = (await broker.backends(1)).services[0]?.backends[0]
    let deaths = 0
    /** @returns when it was killed */
    const kill = async () => {
      const pid = await onlyWorker(t, broker)
      const from = now()
      signal(pid, 'SIGKILL')
      const to = now()
      deaths += 1
      await eventually(() => logged(broker, 'accepting connections') > deaths, 'another one accepts')
      return { from, to }
    }

    await t.test('counters of a dead worker are at most a second old', async (t) => {
      for (let count = 0; count < 7; count++) await servedBy(t, broker)
      await elapsed(Math.max(2 * COUNT_INTERVAL, starts(0.3)))
      await kill()
      t.same(await settledLedger(broker), { accepted: 7, ended: 7 })
      await servedBy(t, broker)
      t.same(await settledLedger(broker), { accepted: 8, ended: 8 })
    })

    const args = `--port ${broker.port()} --kept 32 --fresh 3 --pause 10`.split(' ')
    const load = new Program(t, process.execPath, [join(root, 'test/programs/two-kinds-load.mjs'), ...args])
    await load.message('loading')
    const kills: { from: number; to: number }[] = []
    for (let count = 0; count < KILLS; count++) kills.push(await kill())
    load.child.stdin?.write('stop\n')
    const { requests, failures } = (await load.message('done')) as unknown as {
      requests: number
      failures: Failure[]
    }
    t.comment(`${requests} requests, ${failures.length} connections lost`)
    t.same(
      failures.filter(({ kind }) => kind === 'kept'),
      [],
      'no connection owned by a backend',
    )
    t.same(
      failures.filter(({ failure }) => failure.includes('ECONNREFUSED') || failure === 'timeout'),
      [],
    )
    t.ok(
      failures.every(({ begun, ended }) => kills.some(({ from, to }) => begun <= to && from <= ended)),
      'only clients that the worker still owned were lost',
    )
    t.ok(failures.length <= 3 * kills.length, 'not more than there were at a time')

    t.equal(await servedBy(t, broker), backend.pid)
    const { services } = JSON.parse((await askAdmin(broker, '/api/v1/status'))[1]) as Status
    t.match(services[0]?.backends, [{ id: known?.id, slot: known?.slot, pid: backend.pid }])
    const values = await samples(broker)
    t.equal(values.get('baton_worker_deaths_total'), deaths)
    t.equal(logged(broker, 'worker died'), deaths)
    t.ok((await masterStatus(t, broker)).master.reloads === 0)
  },
)

void t.test(
  'a worker that dies repeatedly is restarted with a delay, and clients wait in the kernel',
  { timeout: LIMIT },
  async (t) => {
    const scene = await Sabotaged.start(t)
    const { broker } = scene
    const backend = await startBackend(t, broker)
    scene.begin('worker')
    signal(broker.pid, 'SIGKILL')
    await eventually(() => logged(broker, 'worker died') >= 1, 'it is noticed')
    const client = await visit(t, broker)
    await eventually(() => logged(broker, 'worker could not be replaced') >= 5, 'five more')
    const times = broker.program
      .messages()
      .filter(({ msg }) => msg === 'worker could not be replaced')
      .map(({ time }) => Number(time))
    const pause = (index: number) => (times[index] ?? 0) - (times[index - 1] ?? 0)
    // The first is replaced at once, then after 100 ms, doubling each time.
    t.ok(
      pause(3) >= 400 && pause(4) >= 800,
      `milliseconds between failures: ${times.map((_, index) => (index === 0 ? 0 : pause(index))).join(', ')}`,
    )
    t.ok(broker.program.running)
    t.ok(client.open)
    scene.end('worker')
    t.match(await client.answer(), { status: 200, headers: { 'x-pid': `${backend.pid}` } })
    t.equal(await servedBy(t, broker), backend.pid)
  },
)

void t.test(
  'SIGKILL of the master: its worker goes on, and the next master replaces it',
  { timeout: LIMIT },
  async (t) => {
    await t.test('at rest', async (t) => {
      const broker = await startBroker(t, {
        config: { ...(await fixedAddresses()), services: { web: PATIENT } },
      })
      const backend = await startBackend(t, broker)
      const kept = await visit(t, broker)
      t.match(await kept.answer(), { status: 200 })
      broker.program.kill('SIGKILL')
      const next = await startAgain(t, broker)
      await gone(broker.pid)
      t.equal(await servedBy(t, next), backend.pid)
      t.match(await kept.get(), { status: 200 }, 'handed-off connections continue')
    })
    await t.test('with a relay that continues', async (t) => {
      const broker = await startBroker(t, {
        config: {
          ...(await fixedAddresses()),
          drainDeadline: '10m',
          services: { web: { ...PATIENT, handoff: 'off' } },
        },
      })
      const backend = await startBackend(t, broker)
      const relayed = await visit(t, broker, '/wait')
      await broker.until(({ services }) => services[0]?.outcomes.relayed === 1, 'it is relayed')
      broker.program.kill('SIGKILL')
      const next = await startAgain(t, broker)
      t.equal(await servedBy(t, next), backend.pid)
      t.equal(relayed.received, '', 'while the relay continues')
      backend.say('answer')
      t.match(await relayed.answer(), { status: 200 })
      relayed.socket.end()
      await gone(broker.pid)
    })
    await t.test('and no next one: until it is told to stop', async (t) => {
      const broker = await startBroker(t, {
        config: { drainDeadline: '1s', services: { web: { ...PATIENT, handoff: 'off' } } },
      })
      const backend = await startBackend(t, broker)
      const relayed = await visit(t, broker, '/wait')
      await broker.until(({ services }) => services[0]?.outcomes.relayed === 1, 'it is relayed')
      broker.program.kill('SIGKILL')
      await broker.until((status) => status.broker.master === null, 'the worker has noticed')
      t.equal(await servedBy(t, broker), backend.pid)
      t.ok(relayed.open)
      signal(broker.pid, 'SIGTERM')
      t.not(await relayed.ended, undefined, 'at drainDeadline')
      await gone(broker.pid)
    })
  },
)

void t.test('the end', { timeout: LIMIT }, async (t) => {
  const ways: Record<string, (t: Test, broker: Broker) => Promise<void>> = {
    'baton stop': async (t, { configFile }) => {
      const command = new Program(t, process.execPath, [batonCommand, 'stop', '--config', configFile])
      t.same(await command.exited, { code: 0, signal: null })
      t.equal(command.lines.at(-1), 'stopped')
    },
    SIGTERM: (_t, { program }) => Promise.resolve(program.kill('SIGTERM')),
  }
  for (const [way, end] of Object.entries(ways)) {
    await t.test(`by ${way}: waiting clients are served first, and no process is left`, async (t) => {
      const broker = await startBroker(t, { config: { services: { web: PATIENT } } })
      const waiting = await visit(t, broker)
      await broker.until(({ services }) => services[0]?.held === 1, 'a client waits')
      const ended = end(t, broker)
      await broker.program.message('draining')
      const backend = await startBackend(t, broker)
      t.match(await waiting.answer(), { headers: { 'x-pid': `${backend.pid}` } })
      await ended
      t.same(await broker.program.exited, { code: 0, signal: null })
      t.notOk(exists(broker.pid), 'the worker has ended before its master')
      t.match(await waiting.get(), { status: 200 }, 'handed-off connections continue')
    })
  }
  await t.test('a second signal ends everything at once', async (t) => {
    const broker = await startBroker(t, {
      config: { drainDeadline: '5m', services: { web: { holdTimeout: '5m' } } },
    })
    const waiting = await visit(t, broker)
    await broker.until(({ services }) => services[0]?.held === 1, 'a client waits')
    broker.program.kill('SIGTERM')
    await broker.program.message('draining')
    t.ok(waiting.open)
    broker.program.kill('SIGTERM')
    t.same(await broker.program.exited, { code: 1, signal: null })
    await gone(broker.pid)
  })
  await t.test('an exception in the master is logged, and ends it with exit code 1', async (t) => {
    const { broker } = await Sabotaged.start(t)
    broker.program.kill('SIGWINCH')
    t.match(await broker.program.message('the master failed; its worker goes on'), {
      level: 60,
      err: { message: 'sabotaged' },
    })
    await broker.until((status) => status.broker.master === null, 'the worker has noticed')
    signal(broker.pid, 'SIGTERM')
    await gone(broker.pid)
    t.same(await broker.program.exited, { code: 1, signal: null })
  })
  await t.test('during a reload that cannot continue', async (t) => {
    const scene = await Sabotaged.start(t)
    const { broker } = scene
    // A new program that never finishes starting is not waited for.
    scene.begin('slow-check')
    const client = await Client.open(t, { path: join(broker.control, '../master.sock') })
    client.send('reload\n')
    await scene.reached('slow-check')
    broker.program.kill('SIGTERM')
    t.same(await broker.program.exited, { code: 0, signal: null })
    t.notOk(exists(broker.pid))
    await client.ended
    t.notMatch(client.received, /Success=1/)
  })
})
