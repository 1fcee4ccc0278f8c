import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { batonCommand, type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { onlyWorker, reload } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { PATIENT } from './support/service.ts'
import { signal } from './support/signal.ts'

// Limits of a listener: how many connections may be open, in all and of each source, and how fast a source may open them.

const listener = (name: string, limits: object, more: object = {}) => ({
  name,
  listen: '127.0.0.1:0',
  protocol: 'http',
  service: 'web',
  limits,
  ...more,
})

const broker: Broker = await startBroker(t, {
  config: {
    listeners: [
      listener('web', { connections: 5, perSource: { connections: 3 } }),
      listener('parked', { perSource: { connections: 2 } }, { service: 'parked' }),
      listener('crowd', { perSource: { connections: 20 } }),
      listener('rated', { perSource: { rate: '1/h', burst: 10 } }),
      listener('tcp', { connections: 1 }, { protocol: 'tcp' }),
    ],
    services: { web: PATIENT, parked: { ...PATIENT, parkAfter: '0ms' } },
    drainDeadline: '10m',
    workerTimeout: '1h',
  },
})
for (const service of ['web', 'parked']) {
  const backend = new Program(t, process.execPath, [join(root, 'test/programs/http-backend.mjs')], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: service, DRAIN_DEADLINE: '10m' },
  })
  await backend.message('ready')
  await broker.backends(1, service)
}

/** A client with this address. */
const open = (test: Test, name: string, localAddress: string) =>
  Client.open(test, { host: '127.0.0.1', port: broker.port(name), localAddress })

/** The status of the answer to its first request; the connection stays open. */
async function visit(test: Test, name: string, address: string): Promise<[number, Client]> {
  const client = await open(test, name, address)
  const { status } = await client.get()
  return [status, client]
}

const status = async (test: Test, name: string, address: string) => (await visit(test, name, address))[0]

/** Resolves once a connection of this source is admitted. */
async function admitted(test: Test, name: string, address: string): Promise<Client> {
  let client: Client | undefined
  await eventually(async () => {
    const [code, visitor] = await visit(test, name, address)
    if (code === 200) client = visitor
    return code === 200
  }, `${address} is admitted`)
  return client as Client
}

const unrouted = (name: string, reason: string) =>
  broker.metric(`baton_connections_unrouted_total{listener="${name}",reason="${reason}"}`)

void t.test('open connections of a source, and of a listener', { timeout: LIMIT }, async (t) => {
  const first = [
    await visit(t, 'web', '127.0.0.2'),
    await visit(t, 'web', '127.0.0.2'),
    await visit(t, 'web', '127.0.0.2'),
  ]
  t.same(
    first.map(([code]) => code),
    [200, 200, 200],
  )
  const fourth = await open(t, 'web', '127.0.0.2')
  const refused = await fourth.get()
  t.match([refused.status, refused.headers], [429, { 'retry-after': '1', connection: 'close' }])
  t.equal(await fourth.ended, 'end')
  t.equal(await status(t, 'web', '127.0.0.3'), 200, 'another source')
  t.equal(await status(t, 'web', '127.0.0.4'), 200)
  const full = await open(t, 'web', '127.0.0.4')
  const { status: code, headers } = await full.get()
  t.match([code, headers], [429, { 'retry-after': '5' }])
  t.same(
    [await unrouted('web', 'limit_source_connections'), await unrouted('web', 'limit_connections')],
    [1, 1],
  )

  t.equal(await reload(t, broker).then(({ success }) => success), true)
  await onlyWorker(t, broker)
  t.equal(await status(t, 'web', '127.0.0.2'), 429, 'a new worker knows of them')
  t.equal(await status(t, 'web', '127.0.0.5'), 429)
  signal(await onlyWorker(t, broker), 'SIGKILL')
  await broker.backends(1).catch(() => broker.backends(1))
  t.equal(await status(t, 'web', '127.0.0.2'), 429, 'and so does the next one after its death')

  first[0]?.[1].socket.destroy()
  await admitted(t, 'web', '127.0.0.2')
  t.equal(await status(t, 'web', '127.0.0.2'), 429)
})

void t.test('a parked connection is open, and its next request is none', { timeout: LIMIT }, async (t) => {
  const clients = [await visit(t, 'parked', '127.0.0.2'), await visit(t, 'parked', '127.0.0.2')]
  const parked = async () =>
    (await broker.status()).services.find(({ name }) => name === 'parked')?.parked === 2
  await eventually(parked, 'both are parked')
  t.equal(await status(t, 'parked', '127.0.0.2'), 429)
  for (const [, client] of clients) t.equal((await client.get()).status, 200)
  await eventually(parked, 'both are parked again')
  t.equal(await status(t, 'parked', '127.0.0.2'), 429)
  clients[0]?.[1].socket.destroy()
  await admitted(t, 'parked', '127.0.0.2')
})

void t.test(
  'one source opens as many as it can, and the others do not notice',
  { timeout: LIMIT },
  async (t) => {
    const flood = async (name: string, count: number) => {
      const answers: (number | string)[] = []
      const one = async () => {
        const client = new Client(t, {
          host: '127.0.0.1',
          port: broker.port(name),
          localAddress: '127.0.0.6',
        })
        client.request()
        // Beyond a bound, a refused connection is closed at once, and the answer may be lost.
        answers.push(
          await client.answer().then(
            ({ status: code }) => code,
            () => 'closed',
          ),
        )
      }
      for (let n = 0; n < count; n += 50) await Promise.all(Array.from({ length: 50 }, one))
      return answers
    }
    for (const [name, admittedOnes] of [
      ['crowd', 20],
      ['rated', 10],
    ] as const) {
      const flooding = flood(name, 600)
      for (let n = 0; n < 10; n += 1) {
        const [code, client] = await visit(t, name, '127.0.0.7')
        t.equal(code, 200)
        client.socket.destroy()
      }
      const answers = await flooding
      t.equal(answers.filter((answer) => answer === 200).length, admittedOnes, name)
      t.equal(answers.filter((answer) => answer !== 200 && answer !== 429 && answer !== 'closed').length, 0)
    }
    t.equal(await unrouted('crowd', 'limit_source_connections'), 580)
    t.equal(await unrouted('rated', 'limit_rate'), 590)
  },
)

void t.test(
  'where the kernel lists no connections, a limit of them is refused',
  { timeout: LIMIT, skip: process.arch !== 'x64' && 'its filter knows the numbers of x86-64 only' },
  async (t) => {
    const folder = temporaryFolder(t)
    const file = join(folder, 'baton.json')
    const start = (limits: object) => {
      const config = {
        runtimeDir: join(folder, 'run'),
        admin: { listen: '127.0.0.1:0' },
        listeners: [listener('web', limits)],
        services: { web: {} },
      }
      writeFileSync(file, JSON.stringify(config))
      const filter = join(root, 'test/programs/without-netlink.py')
      const command = [filter, process.execPath, batonCommand, 'start', '--config', file]
      return new Program(t, 'python3', command, { group: true })
    }
    const refused = start({ connections: 5 })
    t.match(await refused.exited, { code: 1 })
    t.match(refused.lines.join('\n'), /limits of open connections need sock_diag\(7\): socket: EPERM/)
    t.ok(await start({ perSource: { rate: '5/s' } }).message('accepting connections'), 'a rate needs nothing')
  },
)

void t.test('on tcp, the connection is closed', { timeout: LIMIT }, async (t) => {
  t.equal(await status(t, 'tcp', '127.0.0.2'), 200)
  const second = await open(t, 'tcp', '127.0.0.2')
  t.equal(await text(second.socket), '', 'without a byte')
  t.equal(await unrouted('tcp', 'limit_connections'), 1)
})
