import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { batonCommand, type Broker } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import {
  askAdmin,
  configure,
  logged,
  logs,
  onlyWorker,
  reload,
  samples,
  sessionInodes,
} from '../support/operator.ts'
import { openDescriptors } from '../support/proc.ts'
import { Program } from '../support/process.ts'
import { Sabotaged } from '../support/sabotage.ts'
import { servedBy, visit } from '../support/visit.ts'
import { LIMIT } from '../support/limits.ts'
import { exists, signal } from '../support/signal.ts'

// Changes that a reload applies, and those it refuses; a refusal changes nothing.

/** No deadline of the product may expire before a busy machine has done its work. */
const PATIENT = { ackDeadline: '5m', tokenTtl: '10m', holdTimeout: '10m' }
const web = { name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }
const swapped = { ...web, name: 'swapped' }
const doomed = { ...web, name: 'doomed' }

void t.test('one broker is reloaded again and again', { timeout: LIMIT }, async (t) => {
  const scene = await Sabotaged.start(t, {
    // A worker that is stopped here continues later.
    workerTimeout: '1h',
    listeners: [web, swapped, doomed],
    services: { web: PATIENT },
  })
  const { broker } = scene
  const backend = await startBackend(t, broker)
  const kept = await visit(t, broker)
  t.match(await kept.answer(), { status: 200 })
  await t.test('a refused configuration changes nothing', (t) => refusals(t, scene, backend, kept))
  await t.test('listeners and services come, change and go', (t) => changes(t, broker, backend))
  t.match(await kept.get(), { status: 200 }, 'a kept connection has noticed nothing')
})

async function refusals(t: Test, scene: Sabotaged, backend: Program, kept: Client): Promise<void> {
  const { broker } = scene
  const good = readFileSync(broker.configFile, 'utf8')
  const taken = createServer().listen(0, '127.0.0.1')
  t.teardown(() => taken.close())
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }

  const failures: Record<string, [spoil: () => void, why: RegExp]> = {
    'a file that is no JSON': [() => writeFileSync(broker.configFile, '{"listeners": ['), /baton\.json/],
    'a key that there is not': [() => configure(broker, { listerners: [] }), /listerners/],
    'another runtimeDir': [
      () => configure(broker, { runtimeDir: join(broker.folder, 'elsewhere') }),
      /runtimeDir: cannot be changed by a reload/,
    ],
    'code that does not load': [() => scene.begin('check'), /does not load.*this code does not load/s],
    'a worker that dies at its start': [() => scene.begin('worker'), /this worker does not start/],
    'a new listener whose port is taken': [
      () =>
        configure(broker, {
          listeners: [{ ...web, name: 'fresh' }, { ...web, name: 'more', listen: `127.0.0.1:${port}` }, web],
        }),
      new RegExp(`listener .{1,2}more.{1,2} on 127\\.0\\.0\\.1:${port}: the address is in use`),
    ],
    'an admin address that is taken': [
      () => configure(broker, { admin: { listen: `127.0.0.1:${port}` } }),
      new RegExp(`admin\\.listen.*127\\.0\\.0\\.1:${port}`, 's'),
    ],
  }
  const descriptors = new Map<string, number>()
  let failed = 0
  for (const [title, [spoil, why]] of Object.entries(failures)) {
    await t.test(title, async (t) => {
      spoil()
      const { success, log } = await reload(t, broker)
      scene.endAll()
      writeFileSync(broker.configFile, good)
      failed += 1
      t.equal(success, false)
      t.match(log.join('\n'), why)
      t.equal(await onlyWorker(t, broker), broker.pid, 'the same worker')
      t.equal(await servedBy(t, broker), backend.pid)
      t.match(await kept.get(), { status: 200 })
      t.equal((await samples(broker)).get('baton_reloads_total{result="failure"}'), failed)
      await eventually(() => sessionInodes(broker).length === 0, 'no session')
      descriptors.set(title, openDescriptors(broker.program.pid))
    })
  }
  await t.test('the command prints the reason and exits with 1', async (t) => {
    configure(broker, { listerners: [] })
    const command = new Program(t, process.execPath, [batonCommand, 'reload', '--config', broker.configFile])
    t.equal((await command.exited).code, 1)
    t.match(command.lines.join('\n'), /listerners/)
    writeFileSync(broker.configFile, good)
  })
  t.equal(
    new Set(descriptors.values()).size <= 2,
    true,
    `descriptors of the master: ${JSON.stringify([...descriptors])}`,
  )
}

async function changes(t: Test, broker: Broker, first: Program): Promise<void> {
  const { control, program } = broker
  const addressOf = async (name: string) =>
    (
      JSON.parse((await askAdmin(broker, '/api/v1/status'))[1]) as {
        listeners: { name: string; address: string }[]
      }
    ).listeners.find((listener) => listener.name === name)?.address
  const portOf = async (name: string) => Number((await addressOf(name))?.split(':').at(-1))
  const ask = async (port: number) => {
    const client = await Client.open(t, { host: '127.0.0.1', port })
    const { headers } = await client.get()
    client.socket.destroy()
    return Number(headers['x-pid'])
  }
  const services = { web: PATIENT, other: PATIENT }
  const extra = { ...web, name: 'extra', service: 'other' }
  let before = broker.pid
  const replaced = async (t: Test) => {
    const worker = await onlyWorker(t, broker)
    t.not(worker, before, 'another worker')
    before = worker
  }

  await t.test('POST /api/v1/reload: a refused one, then a valid one', async (t) => {
    configure(broker, { services, listeners: [web, { ...swapped, service: 'other' }, doomed, extra] })
    const [status, body] = await askAdmin(broker, '/api/v1/reload', 'POST')
    t.equal(status, 200, 'answered by the worker that was asked, over the connection that it came on')
    const { success, log } = JSON.parse(body) as { success: boolean; log: string[] }
    t.equal(success, true)
    t.match(log.join('\n'), '"reloaded"')
    await replaced(t)
    t.equal(
      (await samples(broker)).get('baton_worker_deaths_total'),
      1,
      'that of the worker that did not start',
    )
  })
  const second = await startBackend(t, broker, 'http-backend.mjs', { service: 'other' })
  await t.test('one is added, with its service', async (t) => {
    t.equal(await portOf('web'), broker.port(), 'the other keeps its port')
    t.equal(await ask(broker.port()), first.pid)
    t.equal(await ask(await portOf('extra')), second.pid)
  })
  await t.test('one gets another service, and keeps its socket', async (t) => {
    t.equal(await portOf('swapped'), broker.port('swapped'))
    t.equal(await ask(broker.port('swapped')), second.pid)
  })
  const path = join(broker.folder, 'web.sock')
  const left = await portOf('extra')
  await t.test('one is removed: clients in its queue are served, and no others get in', async (t) => {
    t.equal(await ask(broker.port('doomed')), first.pid)
    signal(before, 'SIGSTOP')
    t.teardown(() => {
      // It may have exited.
      if (exists(before)) signal(before, 'SIGCONT')
    })
    const waiting = await Promise.all(
      Array.from({ length: 20 }, () => Client.open(t, { host: '127.0.0.1', port: broker.port('doomed') })),
    )
    for (const client of waiting) client.request()
    const accepting = logged(broker, 'accepting connections')
    configure(broker, { listeners: [web, { ...extra, listen: `unix:${path}` }] })
    await t.test('baton reload', async (t) => {
      const { exited, lines } = new Program(t, process.execPath, [
        batonCommand,
        'reload',
        '--config',
        broker.configFile,
      ])
      // Its backends cannot move while it is stopped, and the reload waits for them.
      await logs(broker, 'accepting connections', accepting + 1)
      t.ok(waiting.every(({ open, received }) => open && received === ''))
      signal(before, 'SIGCONT')
      t.same(await exited, { code: 0, signal: null })
      t.match(lines[0], /^program replaced, reload continues\b/)
      t.match(lines.at(-1), /^reloaded\b/)
    })
    for (const client of waiting) t.equal((await client.answer()).headers['x-pid'], `${first.pid}`)
    await replaced(t)
    t.equal(await refused(t, broker.port('doomed')), 'ECONNREFUSED')
  })
  await t.test('one moves to another address', async (t) => {
    t.equal(await refused(t, left), 'ECONNREFUSED')
    const client = await Client.open(t, { path })
    t.equal((await client.get()).headers['x-pid'], `${second.pid}`)
  })
  t.equal(await ask(broker.port()), first.pid)
  t.ok(program.running && existsSync(control))
}

/** The result of a connection attempt. */
async function refused(t: Test, port: number): Promise<string> {
  return new Client(t, { host: '127.0.0.1', port }).ended
}
