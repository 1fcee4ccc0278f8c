import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, type Broker, startBroker, type Status, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import {
  askAdmin,
  configure,
  logs,
  masterStatus,
  onlyWorker,
  openSession,
  reload,
} from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { servedBy, visit, visitors } from './support/visit.ts'
import { LIMIT } from './support/limits.ts'
import { signal } from './support/signal.ts'

// While a reload waited for a backend that did not move, the worker before it was killed: its replacement and the reload's own worker
// both served from then on, with the backends at one of them, and every other client waited in vain.
void t.test('a worker that is killed during a reload is replaced once', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const backend = await startBackend(t, broker)
  await broker.backends(1)
  signal(backend.pid, 'SIGSTOP')
  const session = await openSession(t, broker)
  session.send('reload\n')
  // A session that asks for the status while the program is replaced would be cut.
  await broker.program.message('program replaced, reload goes on')
  await eventually(async () => (await masterStatus(t, broker)).workers.length === 2, 'a successor is there')
  signal(broker.pid, 'SIGKILL')
  await session.ended
  signal(backend.pid, 'SIGCONT')
  t.match(session.received, /^Success=1\n/)
  await eventually(async () => (await masterStatus(t, broker)).workers.length === 1, 'one worker is left')
  for (let count = 0; count < 8; count++) t.equal((await fetch(broker.url())).status, 200)
  t.match(await masterStatus(t, broker), { workers: [{ role: 'serving' }] })
})

// A health check that takes its time left a moment after each reload in which no backend was ready.
void t.test(
  'a backend that was healthy need not prove it anew after a reload',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, {
      config: { services: { web: { healthCheck: { path: '/slow?ms=900', interval: '1s', timeout: '5s' } } } },
    })
    await startBackend(t, broker)
    await broker.backends(1)
    const session = await openSession(t, broker)
    session.send('reload\n')
    await session.ended
    t.match(session.received, /^Success=1\n/)
    const [, text] = await askAdmin(broker, '/api/v1/services/web')
    t.match(JSON.parse(text), { backends: [{ state: 'ready' }] }, 'at the very moment')
  },
)

// To find the runtime folder is all that these commands need, and a broken file is when they are needed.
void t.test(
  'a broker is stopped although its configuration file is broken by now',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const config = JSON.parse(readFileSync(broker.configFile, 'utf8')) as Record<string, unknown>
    writeFileSync(broker.configFile, JSON.stringify({ ...config, listeners: [] }))
    const reload = new Program(t, process.execPath, [batonCommand, 'reload', '--config', broker.configFile])
    t.equal((await reload.exited).code, 1)
    t.match(reload.lines.join('\\n'), 'listeners: needs at least one listener')
    const stop = new Program(t, process.execPath, [batonCommand, 'stop', '--config', broker.configFile])
    t.equal((await stop.exited).code, 0)
    t.same(await broker.program.exited, { code: 0, signal: null })
  },
)

// The start used to clear the way for its sockets, and took a file of the user's with it.
void t.test('a file in the place of a socket is left alone', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const run = join(folder, 'run')
  mkdirSync(run, { mode: 0o700 })
  writeFileSync(join(run, 'master.sock'), 'precious')
  writeFileSync(
    join(folder, 'baton.json'),
    JSON.stringify({
      runtimeDir: run,
      admin: { listen: '127.0.0.1:0' },
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: {} },
    }),
  )
  const program = new Program(t, process.execPath, [
    batonCommand,
    'start',
    '--config',
    join(folder, 'baton.json'),
  ])
  t.equal((await program.exited).code, 1)
  t.match(program.lines, [/^baton: the runtime folder cannot be used: .*master\.sock/])
  t.equal(readFileSync(join(run, 'master.sock'), 'utf8'), 'precious')
})

// A client that was with a stuck backend came back to its worker when the successor, to whom it belonged by then, was dead: it was
// reset, with a backend ready beside it.
void t.test(
  'a client that comes back to a worker whose successor is dead is served',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, {
      config: { services: { web: { balance: 'round-robin', ackDeadline: '8s', tokenTtl: '30s' } } },
    })
    const backends = [await startBackend(t, broker), await startBackend(t, broker)]
    await broker.backends(2)
    const [stuck, other] = backends
    signal(stuck?.pid, 'SIGSTOP')
    const clients = [
      await Client.open(t, { port: broker.port() }),
      await Client.open(t, { port: broker.port() }),
    ]
    for (const client of clients) client.request('/')
    await broker.until(
      ({ services }) => services[0]?.inFlight === 1,
      'one of the two is with the stuck backend',
    )
    const session = await openSession(t, broker)
    session.send('reload\n')
    await session.ended
    t.match(session.received, /^Success=1\n/)
    const { workers } = await masterStatus(t, broker)
    signal(workers.find(({ role }) => role === 'serving')?.pid, 'SIGKILL')
    for (const client of clients) {
      t.match(await client.answer(), { status: 200, headers: { 'x-pid': String(other?.pid) } })
    }
    signal(stuck?.pid, 'SIGCONT')
  },
)

// Each line that was answered at once was obeyed from within the answer to the one before it: a few thousand of them in one write were
// deeper than the stack.
void t.test('many lines in one write do not end the master', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const session = await openSession(t, broker)
  session.send(`prompt\n${'x\n'.repeat(2000)}quit\n`)
  await session.ended
  t.match(session.received, /unknown command "x"/)
  t.match(await masterStatus(t, broker), { master: { busy: null } })
})

// Backends that were asked to move still had their link to the worker before the reload, and got a second one there when the successor
// died: under another id and another slot, with all of their connections as its load.
void t.test(
  'backends that have moved to a worker which dies are back under their names, once',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const [moving, stuck] = [await startBackend(t, broker), await startBackend(t, broker)]
    const known = namesOf(await broker.backends(2))
    const kept = await visit(t, broker)
    await kept.answer()
    signal(stuck.pid, 'SIGSTOP')
    const session = await openSession(t, broker)
    session.send('reload\n')
    const registrations = ({ pid }: Program) =>
      broker.program.messages().filter(({ msg, peerPid }) => msg === 'backend registered' && peerPid === pid)
        .length
    await eventually(() => registrations(moving) === 2, 'one has moved')
    const successor = (await masterStatus(t, broker)).workers.find(({ role }) => role === 'starting')
    signal(successor?.pid, 'SIGKILL')
    await session.ended
    signal(stuck.pid, 'SIGCONT')
    t.match(session.received, /^Success=0\n/)
    await eventually(() => registrations(moving) === 3 && registrations(stuck) === 2, 'both are back')

    const after = await broker.backends(2)
    t.equal(after.broker.pid, broker.pid, 'at the same worker')
    t.same(namesOf(after), known)
    t.match(await kept.get(), { status: 200 })
    const pids = []
    for (let count = 0; count < 4; count++) pids.push(await servedBy(t, broker))
    t.same(new Set(pids), new Set([moving.pid, stuck.pid]))
    t.equal(unaccounted(await broker.status()), 0)
  },
)

// A backend that drains does not register any more. When the worker that had seen it begin was gone, the master took that for a drain
// that is done, and an app without a handler of SIGTERM was cut off in the middle of its answers.
const STREAMS = { command: [process.execPath, join(root, 'test/programs/stream-backend.mjs')] }
const losses: Record<
  string,
  { change: Record<string, unknown>; lose: (t: Test, broker: Broker) => Promise<void> }
> = {
  'that dies': {
    change: { services: { web: { ...STREAMS, instances: 1 } } },
    lose: async (t, broker) => {
      signal(await onlyWorker(t, broker), 'SIGKILL')
      await logs(broker, 'accepting connections', 3)
      await broker.backends(1)
    },
  },
  'that is replaced': {
    change: { services: { web: { ...STREAMS, instances: 1 } } },
    lose: async (t, broker) => {
      t.match(await reload(t, broker), { success: true })
    },
  },
  'whose successor does not know the service': {
    change: {
      services: { other: {} },
      listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'other' }],
    },
    lose: () => Promise.resolve(),
  },
}
for (const [which, { change, lose }] of Object.entries(losses)) {
  void t.test(
    `a managed backend drains to its end under a worker ${which}`,
    { timeout: LIMIT },
    async (t) => {
      const broker = await startBroker(t, { config: { services: { web: { ...STREAMS, instances: 2 } } } })
      await broker.backends(2)
      const drained = (await masterStatus(t, broker)).managed.find(({ instance }) => instance === 'web.2')
      const streams = [await visit(t, broker, '/events'), await visit(t, broker, '/events')]
      await eventually(() => streams.every(({ received }) => received.includes(': open')), 'both are served')
      const stream = streams.find(({ received }) => received.includes(`x-pid: ${drained?.pid}\r\n`))

      configure(broker, change)
      t.match(await reload(t, broker), { success: true })
      await onlyWorker(t, broker)
      await lose(t, broker)
      await onlyWorker(t, broker)
      t.equal(stream?.open, true, 'its answer goes on')
      stream?.socket.destroy()
      const end = () =>
        broker.program
          .messages()
          .find(({ msg, peerPid }) => msg === 'backend process ended' && peerPid === drained?.pid)
      await eventually(() => end() !== undefined, 'it ends with its last answer')
      t.match(end(), { code: 0, signal: null }, 'by itself')
    },
  )
}

function namesOf({ services }: Status): unknown[] {
  return (services[0]?.backends ?? [])
    .toSorted((one, other) => one.pid - other.pid)
    .map(({ id, slot, pid }) => ({ id, slot, pid }))
}

/** After a reload a backend joins: everybody who waited at the worker before gets its answer, and that worker ends. */
async function servedAfterReload(t: Test, broker: Broker, waiting: readonly Client[]): Promise<void> {
  t.equal((await reload(t, broker)).success, true)
  await startBackend(t, broker)
  const answers = await Promise.all(waiting.map((client) => client.answer()))
  t.equal(answers.filter(({ status }) => status === 200).length, waiting.length)
  const { outcomes } = (await broker.until(({ services }) => services[0]?.inFlight === 0, 'all have gone'))
    .services[0] as { outcomes: object }
  const none = { relayed: 0, rejected: 0, client_gone: 0, relinquished: 0 }
  t.same(outcomes, { handed_off: waiting.length, ...none })
  await eventually(
    async () => (await masterStatus(t, broker)).workers.length === 1,
    'the worker before has ended',
  )
}

// The clients that a leaving worker held went to its successor through a socket that has room for some 2,600. The rest waited for
// the poller to tell of room, and the worker had closed its poller: it stayed for ever, and they with it.
void t.test(
  'a reload takes along more clients than the kernel has room for',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const waiting = await visitors(t, broker, 4000)
    await broker.until(({ services }) => services[0]?.held === waiting.length, 'all wait')
    await servedAfterReload(t, broker, waiting)
  },
)

// A leaving worker duplicated 200 descriptors at a time to pass them on, more than the reserve had: EMFILE ended it, with everybody
// who waited there. And the successor had filled its own table from the kernel's queue by then, so that descriptors were lost on
// the way.
void t.test('a reload loses nobody when descriptors are short', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { descriptors: 640 })
  const waiting = await visitors(t, broker, 700)
  await broker.program.message('cannot accept; clients wait in the kernel')
  const { services } = await broker.status()
  t.ok((services[0]?.held ?? 0) > 400, `${services[0]?.held} are held, the others wait in the kernel`)
  await servedAfterReload(t, broker, waiting)
})
