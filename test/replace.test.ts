import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { batonHere } from './support/command.ts'
import { EventStream } from './support/event-stream.ts'
import { eventually } from './support/eventually.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { configure, masterStatus, reload } from './support/operator.ts'
import { PacedClients } from './support/paced-clients.ts'
import { root, temporaryFolder } from './support/process.ts'
import { PATIENT } from './support/service.ts'

// Processes that grow, or are old, are replaced: the successor first.

const command = [process.execPath, join(root, 'test/programs/leaking-backend.mjs')]
const names = ['web', 'early', 'aged', 'timed'] as const
const services = {
  // Started by a shell that stays: the memory of the app counts.
  web: {
    ...PATIENT,
    command: ['sh', '-c', '"$0" "$1"; exit', ...command],
    minHealthy: '1ms',
    maxMemory: '250MB',
  },
  early: { ...PATIENT, command, minHealthy: '1ms', maxMemory: '100MB', env: { START_MB: '200' } },
  aged: { ...PATIENT, command, minHealthy: '1ms', restartEvery: '1h' },
  timed: { ...PATIENT, command, minHealthy: '1ms', restartEvery: '0 4 31 12 *' },
}
const broker = await startBroker(t, {
  config: {
    admin: { listen: `127.0.0.1:${await freePort()}` },
    listeners: names.map((name) => ({ name, listen: '127.0.0.1:0', service: name })),
    services,
    drainDeadline: '10m',
  },
})
for (const name of names) await broker.backends(1, name)

const open = (t: Test, name: string) => Client.open(t, { host: '127.0.0.1', port: broker.port(name) })

async function backendOf(t: Test, name: string): Promise<number> {
  const client = await open(t, name)
  const pid = Number((await client.get()).headers['x-pid'])
  client.socket.destroy()
  return pid
}

const replacements = (service: string, reason: string, result = 'success') =>
  broker.metric(
    `baton_backend_replacements_total{service="${service}",reason="${reason}",result="${result}"}`,
  )

void t.test('a process that grows is replaced', { timeout: LIMIT }, async (t) => {
  const events = await EventStream.open(t, broker)
  const load = new PacedClients(t, broker.port('web'), 50)
  const kept = await open(t, 'web')
  const before = Number((await kept.get()).headers['x-pid'])
  // Longer after it was ready than what counts as early.
  await new Promise((resolve) => setTimeout(resolve, 5000))
  t.equal((await kept.get('/grow?mb=250')).status, 200)
  await events.event(
    'change',
    ({ kind, text }) => kind === 'replace' && /was replaced/.test(String(text)),
    'the end',
  )
  await eventually(async () => (await backendOf(t, 'web')) !== before, 'the successor serves')
  t.not(Number((await kept.get()).headers['x-pid']), before, 'an idle connection has moved')
  await load.stop()
  t.ok(load.answers > 0)
  t.same(load.failures, [])
  t.equal(await replacements('web', 'memory'), 1)
  const line = await broker.program.message('replacing a backend process')
  t.match(line, {
    service: 'web',
    instance: 'web.1',
    reason: 'memory',
    why: /^\d+ MiB, maxMemory is 250 MiB$/,
  })
  const [place] = (await masterStatus(t, broker)).managed.filter(({ instance }) => instance === 'web.1')
  t.match(place, { generation: 1, restarts: 0 })
})

void t.test('one that is above the limit at once is reported', { timeout: LIMIT }, async (t) => {
  const line = broker.program.messages().find((each) => each['code'] === 'BATON_ERR_MEMORY_LIMIT')
  t.match(line, { service: 'early', instance: 'early.1', pauseMs: 60_000, maxMemory: 100 * 1024 * 1024 })
  t.equal(await replacements('early', 'memory'), 0)
  t.equal(broker.program.messages().filter((each) => each['code'] === 'BATON_ERR_MEMORY_LIMIT').length, 1)
})

void t.test('times that do not parse are named', { timeout: LIMIT }, async (t) => {
  const file = join(temporaryFolder(t), 'baton.json')
  const check = async (web: object) => {
    const listeners = [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }]
    writeFileSync(file, JSON.stringify({ listeners, services: { web: { command, ...web } } }))
    const { code, err } = await batonHere('check', '--config', file)
    return [code, err.filter((each) => !each.includes('warning'))]
  }
  t.match(await check({ restartEvery: '61 4 * * *' }), [
    1,
    [/services\.web\.restartEvery: "61 4 \* \* \*" is no cron expression: /],
  ])
  t.match(await check({ restartEvery: '0 0 30 2 *' }), [
    1,
    [/restartEvery: "0 0 30 2 \*" has no time in the future/],
  ])
  t.match(await check({ restartEvery: 'daily' }), [
    1,
    [/restartEvery: expected a duration like "12h", or a cron expression/],
  ])
  t.match(await check({ restartEvery: '0s' }), [1, [/restartEvery: must be from 1s/]])
  t.match(await check({ restartEvery: 5 }), [1, [/restartEvery: expected a duration/]])
  t.match(await check({ maxMemory: '300 apples' }), [
    1,
    [/maxMemory: expected bytes or a string like "512KiB"/],
  ])
  t.match(await check({ maxMemory: '1MB' }), [1, [/maxMemory: must be at least 16384 KiB/]])
  t.match(await check({ maxMemory: -1 }), [1, [/maxMemory/]])
  for (const fine of [{ restartEvery: '@daily' }, { restartEvery: '12h' }, { restartEvery: '*/5 * * * * *' }])
    t.match(await check({ maxMemory: '1GB', ...fine }), [0, []], JSON.stringify(fine))
  configure(broker, { services: { ...services, timed: { ...services.timed, restartEvery: '0 25 * * *' } } })
  t.match(await reload(t, broker), {
    success: false,
    log: [/services\.timed\.restartEvery: "0 25 \* \* \*" is no cron/],
  })
})

void t.test('processes that are old, or whose time has come, are replaced', { timeout: LIMIT }, async (t) => {
  const load = new PacedClients(t, broker.port('aged'), 50)
  configure(broker, {
    services: {
      ...services,
      aged: { ...services.aged, restartEvery: '1s' },
      timed: { ...services.timed, restartEvery: '* * * * * *' },
    },
  })
  const reloaded = await reload(t, broker)
  t.ok(reloaded.success, reloaded.log.join('\n'))
  const [aged, timed] = [await backendOf(t, 'aged'), await backendOf(t, 'timed')]
  await eventually(async () => (await backendOf(t, 'aged')) !== aged, 'an old one')
  await eventually(async () => (await backendOf(t, 'timed')) !== timed, 'one whose time has come')
  t.ok((await replacements('aged', 'schedule')) >= 1)
  t.ok((await replacements('timed', 'schedule')) >= 1)
  t.equal(await replacements('web', 'memory'), 1, 'counters outlive a reload')

  await t.test('a deploy comes first, and a successor that fails is not needed', async (t) => {
    t.match(await batonHere('deploy', 'aged', '--config', broker.configFile), { code: 0 })
    t.match(await batonHere('scale', 'timed', '2', '--config', broker.configFile), { code: 0 })
    await broker.backends(2, 'timed')
  })
  await load.stop()
  t.same(load.failures, [])
})
