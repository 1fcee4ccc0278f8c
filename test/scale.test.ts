import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { batonCommand, Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { baton as batonProcess, batonHere } from './support/command.ts'
import { EventStream } from './support/event-stream.ts'
import { eventually } from './support/eventually.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { configure, logs, masterStatus, onlyWorker, openSession, reload, rest } from './support/operator.ts'
import { PacedClients } from './support/paced-clients.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { PATIENT } from './support/service.ts'
import { signal } from './support/signal.ts'
import { typed } from './support/typed.ts'

// Another number of instances at run time.

const folder = temporaryFolder(t)
const failing = join(folder, 'failing')
const holding = join(folder, 'holding')
const app = join(root, 'test/programs/http-backend.mjs')
const script = `[ -e ${failing} ] && { echo no luck; exit 7; }; while [ -e ${holding} ]; do sleep 0.05; done; exec "$0" "$1"`
// An ACK that is late would make a relay, which does not move.
const web = {
  ...PATIENT,
  command: ['sh', '-c', script, process.execPath, app],
  instances: 2,
  minHealthy: '1ms',
}

let broker = await startBroker(t, {
  config: {
    // In the file, because commands read it there.
    admin: { listen: `127.0.0.1:${await freePort()}` },
    listeners: [
      { name: 'web', listen: '127.0.0.1:0', service: 'web' },
      { name: 'bare', listen: '127.0.0.1:0', service: 'bare' },
    ],
    services: { web, bare: {} },
    drainDeadline: '10m',
  },
})
const file = broker.configFile
await broker.backends(2)

const baton = (...args: string[]) => batonHere(...args, '--config', file)

const instances = async (t: Test) =>
  (await masterStatus(t, broker)).managed.map(({ instance }) => instance).toSorted()

/** The master is killed, and another one takes its worker over. */
async function replaceMaster(test: Test): Promise<void> {
  broker.program.kill('SIGKILL')
  await broker.until((status) => status.broker.master === null, 'the worker has noticed')
  const next = new Program(t, process.execPath, [batonCommand, 'start', '--config', file], { group: true })
  broker = new Broker(next, broker.folder, file, await next.message('accepting connections'))
  await onlyWorker(test, broker)
}

void t.test('more instances, and fewer, under load', { timeout: LIMIT }, async (t) => {
  const load = new PacedClients(t, broker.port(), 50)
  const events = await EventStream.open(t, broker)
  const { code, out, err } = await baton('scale', 'web', '4')
  t.same({ code, err }, { code: 0, err: [] })
  t.equal(out.filter((line) => /^started web\.[34]: pid \d+, backend \w{26}$/.test(line)).length, 2)
  t.equal(out.filter((line) => /^ready web\.[34]$/.test(line)).length, 2)
  t.equal(
    out.at(-1),
    'web: 4 instances (before: 2); in force until the configuration has another number than 2',
  )
  await broker.backends(4)
  await events.event('change', ({ kind, to }) => kind === 'scale' && to === '4', 'the scale')
  t.ok((await baton('status')).out.includes('web is scaled to 4; the configuration says 2'))

  await load.stop()
  await broker.until(
    ({ services }) => services[0]?.backends.every((backend) => backend.load === 0) === true,
    'no connection is left',
  )
  // Clients that come one after the other may go to one instance for a while.
  const kept: Client[] = []
  const pids = new Set()
  while (pids.size < 4 && kept.length < 400) {
    const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
    kept.push(client)
    pids.add((await client.get()).headers['x-pid'])
  }
  t.equal(pids.size, 4, 'every instance has some of them')
  const more = new PacedClients(t, broker.port(), 50)
  const down = await baton('scale', 'web', '1', '--json')
  t.equal(down.out.length, 1)
  t.same(JSON.parse(down.out[0] ?? ''), {
    service: 'web',
    before: 4,
    instances: 1,
    configured: 2,
    started: [],
    stopped: ['web.2', 'web.3', 'web.4'],
  })
  t.same(await instances(t), ['web.1'], 'those with the highest numbers have ended')
  const answers = await Promise.all(kept.map((client) => client.get()))
  t.equal(new Set(answers.map(({ headers }) => headers['x-pid'])).size, 1, 'idle connections have moved')
  t.match(await baton('scale', 'web', '1'), {
    code: 0,
    out: ['web: 1 instance already; in force until the configuration has another number than 2'],
  })
  t.match(await baton('scale', 'web', '+1'), { code: 0 })
  t.notMatch((await baton('status')).out.join('\n'), 'scaled', 'it is what the configuration says')
  await more.stop()
  t.ok(load.answers > 0)
  t.ok(more.answers > 0)
  t.same([...load.failures, ...more.failures], [])
  for (const client of kept) client.socket.destroy()
})

void t.test('the page, as it stands', { timeout: LIMIT }, async (t) => {
  const results = []
  for (const words of typed('docs/how-to/deploy.md', 'baton scale web 4')) {
    t.equal(words.shift(), 'baton')
    const { code, out } = await baton(...words)
    results.push([code, out.at(-1)?.replace(/;.*/, '')])
  }
  t.match(results, [
    [0, 'web: 4 instances (before: 2)'],
    [0, 'web: 5 instances (before: 4)'],
    [0, 'web: 2 instances (before: 5)'],
    [0, /^\{.*"instances":4/],
  ])
  t.match(await baton('scale', 'web', '2'), { code: 0 })
})

void t.test('what is refused changes nothing', { timeout: LIMIT }, async (t) => {
  const cases: readonly [args: string[], problem: string][] = [
    [['web', '-1'], '"-1": expected the number of instances to run, from 1 to 1024, or +N for more'],
    [['web', '+1024'], 'service web can have 1 to 1024 instances, not 1026 (it has 2)'],
    [['web', '0'], '"0": expected the number of instances to run, from 1 to 1024, or +N for more'],
    [['web', '1025'], '"1025": expected the number of instances to run, from 1 to 1024'],
    [['web', '99999999999999999999'], '"99999999999999999999": expected the number'],
    [['web', '-99999999999999999999'], '"-99999999999999999999": expected the number'],
    [['web', 'many'], '"many": expected the number'],
    [['web', '2.5'], '"2.5": expected the number'],
    [['web', '1e2'], '"1e2": expected the number'],
    [['nothing', '3'], 'there is no service "nothing"; there are: web, bare'],
    [['bare', '3'], 'service bare has no command, so Baton does not start its backends'],
    [['we b', '3'], '"we b" is not a valid service name'],
  ]
  for (const [args, problem] of cases) {
    const { code, out, err } = await baton('scale', ...args)
    t.match({ code, out, err }, { code: 2, out: [], err: [problem] }, args.join(' '))
    t.equal(err.length, 1)
    t.match(err[0], /\(BATON_ERR_SCALE\)$/)
  }
  const json = await baton('scale', 'bare', '3', '--json')
  t.match(JSON.parse(json.out[0] ?? ''), { error: { code: 'BATON_ERR_SCALE' } })
  t.match(await batonProcess(t, ['scale', 'web', '-7', '--config', file]), {
    code: 2,
    out: [],
    err: [/"-7": expected the number/],
  })
  t.match(await baton('scale', 'web'), { code: 2, err: ['baton: scale needs N'] })
  t.same(await instances(t), ['web.1', 'web.2'])
})

void t.test('over the admin API', { timeout: LIMIT }, async (t) => {
  const post = async (body: unknown, service = 'web') => {
    const answer = await fetch(`${broker.admin}/api/v1/services/${service}/scale`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', connection: 'close' },
      body: JSON.stringify(body),
    })
    return [answer.status, await answer.json()] as const
  }
  t.match(await post({ instances: 3 }), [
    200,
    { success: true, before: 2, instances: 3, started: ['web.3'], stopped: [] },
  ])
  t.match(await post({ change: -1 }), [200, { instances: 2, stopped: ['web.3'] }])
  t.match(await broker.program.message('scaling'), { by: /^uid \d+/ })
  for (const body of [{ instances: 0 }, { instances: -1 }, { instances: 1025 }, { instances: '3' }, {}])
    t.match(await post(body), [400, { error: { code: 'BATON_ERR_ADMIN_BAD_REQUEST' } }])
  t.match(await post({ instances: 3 }, 'nothing'), [404, {}])
  t.match(await post({ instances: 3 }, 'bare'), [409, { success: false, log: [/has no command/] }])
  t.match(await post({ change: -2 }), [409, { success: false }])
  t.same(await instances(t), ['web.1', 'web.2'])
})

void t.test('a new instance that fails: none is added', { timeout: LIMIT }, async (t) => {
  writeFileSync(failing, '')
  const { code, out, err } = await baton('scale', 'web', '4')
  rmSync(failing)
  t.equal(code, 1)
  t.ok(out.every((line) => line.startsWith('started web.')))
  t.match(err, [/^baton: web\.[34] exited with code 7; web still has 2 instances$/, 'no luck'])
  await eventually(async () => (await instances(t)).length === 2, 'the other one has ended, too')
})

void t.test('during a deploy it is refused', { timeout: LIMIT }, async (t) => {
  writeFileSync(holding, '')
  const session = await openSession(t, broker)
  session.send('deploy web\n')
  await logs(broker, 'deploying')
  t.match(await baton('scale', 'web', '3'), { code: 1, err: ['baton: a deploy is already in progress'] })
  t.match(await baton('scale', 'web', 'x'), { code: 2 })
  rmSync(holding)
  t.match(await rest(session), /^Success=1$/m)
  t.same(await instances(t), ['web.1', 'web.2'])
})

void t.test(
  'the number outlives a reload and every death, until the configuration has another',
  { timeout: LIMIT },
  async (t) => {
    t.match(await baton('scale', 'web', '3'), { code: 0 })
    t.ok((await reload(t, broker)).success)
    await broker.backends(3)
    const worker = await onlyWorker(t, broker)
    signal(worker, 'SIGKILL')
    await eventually(async () => (await onlyWorker(t, broker)) !== worker, 'another worker serves')
    await broker.backends(3)
    await replaceMaster(t)
    await broker.backends(3)
    t.same(await instances(t), ['web.1', 'web.2', 'web.3'])
    configure(broker, { services: { web: { ...web, instances: 1 }, bare: {} } })
    t.ok((await reload(t, broker)).success)
    await broker.backends(1)
    await eventually(async () => (await instances(t)).length === 1, 'the others have ended')
    t.notMatch((await baton('status')).out.join('\n'), 'scaled')
  },
)
