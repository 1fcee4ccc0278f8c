import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { Broker, startBroker, batonCommand } from './support/broker.ts'
import { Client } from './support/client.ts'
import { batonHere } from './support/command.ts'
import { EventStream } from './support/event-stream.ts'
import { eventually } from './support/eventually.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { onlyWorker, reload } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { holdsServerEnd } from './support/proc.ts'
import { PATIENT } from './support/service.ts'
import { signal } from './support/signal.ts'

// Operators hold the new connections of a service, or answer them with a page.

const listener = (name: string, more: object = {}) => ({
  name,
  listen: '127.0.0.1:0',
  protocol: 'http',
  service: 'web',
  ...more,
})

let broker = await startBroker(t, {
  config: {
    // In the file, because commands read it there.
    admin: { listen: `127.0.0.1:${await freePort()}` },
    listeners: [listener('web'), listener('raw', { protocol: 'tcp' }), listener('full', { service: 'full' })],
    services: { web: PATIENT, full: { ...PATIENT, maxHeld: 1 } },
    drainDeadline: '10m',
    workerTimeout: '1h',
  },
})
const file = broker.configFile
for (const service of ['web', 'full']) {
  const backend = new Program(t, process.execPath, [join(root, 'test/programs/http-backend.mjs')], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: service, DRAIN_DEADLINE: '10m' },
  })
  await backend.message('ready')
  await broker.backends(1, service)
}

const baton = (...args: string[]) => batonHere(...args, '--config', file)
const open = (test: Test, name = 'web') => Client.open(test, { host: '127.0.0.1', port: broker.port(name) })

interface Controlled {
  readonly name: string
  readonly held: number
  readonly paused: { since: string; until: string | null } | null
  readonly maintenance: { since: string; bytes: number } | null
}

async function service(name = 'web'): Promise<Controlled> {
  const { services } = await broker.status()
  return services.find((each) => each.name === name) as unknown as Controlled
}

/** Resolves once this many clients of `web` are held. */
const held = (count: number) => eventually(async () => (await service()).held === count, `${count} held`)

async function ask(test: Test, path = '/', name = 'web'): Promise<Client> {
  const client = await open(test, name)
  client.request(path)
  return client
}

/** So that they survive the death of the worker. They must be held until then. */
async function copied(waiting: readonly Client[]): Promise<void> {
  const master = broker.program.child.pid as number
  const isCopied = ({ socket }: Client) => holdsServerEnd(master, broker.port(), socket.localPort as number)
  await eventually(() => waiting.every(isCopied), 'the master has a copy of each')
}

async function killWorker(test: Test): Promise<void> {
  const worker = await onlyWorker(test, broker)
  signal(worker, 'SIGKILL')
  await eventually(async () => (await onlyWorker(test, broker)) !== worker, 'another worker serves')
  await broker.backends(1)
}

/** The master is killed, and another one takes its worker over. */
async function replaceMaster(test: Test): Promise<void> {
  broker.program.kill('SIGKILL')
  await broker.until((status) => status.broker.master === null, 'the worker has noticed')
  const next = new Program(t, process.execPath, [batonCommand, 'start', '--config', file], { group: true })
  broker = new Broker(next, broker.folder, file, await next.message('accepting connections'))
  await onlyWorker(test, broker)
  await broker.backends(1)
}

void t.test('a pause holds new connections, in order, over every death', { timeout: LIMIT }, async (t) => {
  const kept = await open(t)
  t.equal((await kept.get()).status, 200)
  const events = await EventStream.open(t, broker)
  t.same(await baton('pause', 'web'), { code: 0, out: ['web: paused; new connections are held'], err: [] })
  t.equal((await kept.get()).status, 200, 'what backends have goes on')
  const waiting = [await ask(t, '/first')]
  await held(1)
  waiting.push(await ask(t, '/second'))
  await held(2)
  t.match(await service(), { paused: { until: null }, maintenance: null })
  const { out } = await baton('status')
  t.match(out.join('\n'), /^web +1\/1 paused +2 /m)
  t.match(out.join('\n'), /^web is paused since .*: 2 held; baton resume web$/m)
  t.equal(await broker.metric('baton_service_paused{service="web"}'), 1)
  t.equal(await broker.metric('baton_fallbacks_total{service="web",action="hold",reason="ServicePaused"}'), 2)
  await eventually(() => events.events.some(({ data }) => data['kind'] === 'pause'), 'an event')
  t.match(await broker.program.message('pause requested'), {
    service: 'web',
    by: /^127\.0\.0\.1:\d+ without a token$/,
  })

  t.equal((await reload(t, broker)).success, true)
  await onlyWorker(t, broker)
  await broker.backends(1)
  t.match(await service(), { held: 2, paused: { until: null } }, 'a reload')
  await copied(waiting)
  await killWorker(t)
  await held(2)
  t.not((await service()).paused, null, 'the death of the worker')
  await replaceMaster(t)
  await held(2)
  t.not((await service()).paused, null, 'the death of the master')
  t.equal(await broker.metric('baton_service_paused{service="web"}'), 1)
  waiting.push(await ask(t, '/third'))
  await held(3)

  t.same(await baton('resume', 'web'), { code: 0, out: ['web: resumed'], err: [] })
  for (const [index, path] of ['/first', '/second', '/third'].entries())
    t.match(await waiting[index]?.answer(), { status: 200, body: new RegExp(`"path":"${path}"`) })
  t.match(await service(), { held: 0, paused: null })
  t.same(await baton('resume', 'web'), { code: 0, out: ['web: was not paused'], err: [] })
  t.equal(await broker.metric('baton_service_paused{service="web"}'), 0)
  await killWorker(t)
  t.equal((await service()).paused, null, 'and stays over')
})

void t.test('a pause ends by itself, in whichever worker', { timeout: LIMIT }, async (t) => {
  const { out } = await baton('pause', 'web', '--for', '1h')
  t.match(out, [/^web: paused until 2\d+-.*Z; new connections are held$/])
  t.match(await service(), { paused: { until: /Z$/ } })
  const client = await ask(t)
  await held(1)
  await copied([client])
  await baton('pause', 'web', '--for', '1s')
  await killWorker(t)
  t.equal((await client.answer()).status, 200)
  await eventually(async () => (await service()).paused === null, 'it is over')
})

void t.test('as many are held as always', { timeout: LIMIT }, async (t) => {
  await baton('pause', 'full')
  const first = await ask(t, '/', 'full')
  await eventually(async () => (await service('full')).held === 1, 'one is held')
  t.equal((await (await ask(t, '/', 'full')).answer()).status, 503)
  await baton('resume', 'full')
  t.equal((await first.answer()).status, 200)
})

void t.test('maintenance answers with a page, over every death', { timeout: LIMIT }, async (t) => {
  const kept = await open(t)
  t.equal((await kept.get()).status, 200)
  await baton('pause', 'web')
  const waiting = await ask(t)
  await held(1)
  const page = join(temporaryFolder(t), 'page.html')
  const body = `<h1>Back soon</h1>${'.'.repeat(64 * 1024 - 18)}`
  writeFileSync(page, body)
  t.same(await baton('maintenance', 'web', '--page', page), {
    code: 0,
    out: ['web: in maintenance, with a page of 65536 bytes'],
    err: [],
  })
  writeFileSync(page, 'changed later')
  const refused = async (client: Client) => {
    const { status, headers, body: received } = await client.answer()
    t.equal(status, 503)
    t.match(headers, { 'retry-after': '30', 'content-type': 'text/html; charset=utf-8', connection: 'close' })
    t.ok(received === body, 'the whole page')
    client.socket.destroy()
  }
  await refused(waiting)
  await refused(await ask(t))
  t.equal(await text((await open(t, 'raw')).socket), '', 'tcp: a close')
  t.equal((await kept.get()).status, 200, 'what backends have goes on')
  t.match(await service(), { held: 0, maintenance: { bytes: 65_536 } })
  t.match((await baton('status')).out.join('\n'), /^web +1\/1 maintenance /m)
  t.equal(await broker.metric('baton_service_maintenance{service="web"}'), 1)
  t.equal(await broker.metric('baton_rejections_total{service="web",reason="maintenance"}'), 3)

  t.equal((await reload(t, broker)).success, true)
  await onlyWorker(t, broker)
  await refused(await ask(t))
  await killWorker(t)
  await refused(await ask(t))
  await replaceMaster(t)
  await refused(await ask(t))

  t.same(await baton('maintenance', 'web', '--off'), { code: 0, out: ['web: in service again'], err: [] })
  const held2 = await ask(t)
  await held(1)
  await baton('resume', 'web')
  t.equal((await held2.answer()).status, 200, 'the pause from before was still there')
  t.same(await baton('maintenance', 'web', '--off'), {
    code: 0,
    out: ['web: was not in maintenance'],
    err: [],
  })
})

void t.test('what a command cannot use changes nothing', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const path = (name: string) => join(folder, name)
  writeFileSync(path('large.html'), 'x'.repeat(64 * 1024 + 1))
  mkdirSync(path('folder'))
  execFileSync('mkfifo', [path('pipe')])
  const maximum = 'a page has at most 65536'
  for (const [args, code, line] of [
    [['pause'], 2, 'pause needs SERVICE'],
    [['pause', 'web', '--for', 'soon'], 2, '--for: "soon" is not a duration such as 250ms, 30s or 5m'],
    [['pause', 'web', '--for', '30'], 2, '--for: "30" is not a duration such as 250ms, 30s or 5m'],
    [['pause', 'web', '--for', '0'], 2, '--for: must be at least 1 ms'],
    [['resume', 'web', 'full'], 2, 'unexpected argument "full"'],
    [['maintenance', 'web'], 2, 'maintenance needs either --page FILE or --off'],
    [['maintenance', 'web', '--off', '--page', 'x'], 2, 'maintenance needs either --page FILE or --off'],
    [['maintenance', 'web', '--page', path('none')], 2, `--page: "${path('none')}" cannot be read (ENOENT)`],
    [['maintenance', 'web', '--page', path('folder')], 2, `--page: "${path('folder')}" is not a file`],
    [['maintenance', 'web', '--page', path('pipe')], 2, `--page: "${path('pipe')}" is not a file`],
    [
      ['maintenance', 'web', '--page', path('large.html')],
      2,
      `--page: "${path('large.html')}" is too large (65537 bytes): ${maximum}`,
    ],
    [['pause', 'wbe'], 2, 'there is no service "wbe"; there are: web, full'],
    [['resume', 'wbe'], 2, 'there is no service "wbe"; there are: web, full'],
    [['maintenance', 'wbe', '--off'], 2, 'there is no service "wbe"; there are: web, full'],
  ] as const) {
    const said = await baton(...args)
    t.same([said.code, said.out], [code, []], args.join(' '))
    t.match(said.err[0], line)
    t.ok(said.err.slice(1).every((more) => more.startsWith('Try: ')))
  }
  for (const [what, body] of [
    ['pause', { for: 'soon' }],
    ['pause', { until: '1s' }],
    ['resume', { for: '1s' }],
    ['maintenance', {}],
    ['maintenance', { page: '', off: true }],
    ['maintenance', { page: 'not base64!' }],
    ['maintenance', { page: 'eA==', type: 'text/html\r\nX: y' }],
    ['maintenance', { page: Buffer.alloc(64 * 1024 + 1).toString('base64') }],
  ] as const) {
    const answer = await fetch(`${broker.admin}/api/v1/services/web/${what}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    t.equal(answer.status, 400, JSON.stringify(body).slice(0, 60))
    t.match(await answer.json(), { error: { code: 'BATON_ERR_ADMIN_BAD_REQUEST' } })
  }
  t.match(await service(), { paused: null, maintenance: null })
})
