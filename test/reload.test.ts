import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import {
  askAdmin,
  masterStatus,
  onlyWorker,
  openSession,
  operatorSocket,
  parseAnswer,
  reload,
  rest,
  samples,
  say,
} from './support/operator.ts'
import { openDescriptors } from './support/proc.ts'
import { cleanEnvironment, Program, root, temporaryFolder } from './support/process.ts'
import { servedBy, visit } from './support/visit.ts'

// Who asks for a reload hears how it went; and what goes wrong with one changes nothing.

const NOBODY = 65_534
const OPERATOR = join(root, 'test/programs/operator.mjs')
/** Another user must be able to read this repository, too. */
const canBeNobody =
  process.getuid?.() === 0 &&
  spawnSync(process.execPath, ['--check', OPERATOR], { cwd: root, uid: NOBODY, env: cleanEnvironment() })
    .status === 0
const onlyAsRoot = { skip: !canBeNobody && 'needs root, and a repository that everybody can read' }

/** A broker whose reloads can be made to go wrong: `test/programs/sabotage.mjs`. */
class Sabotaged {
  readonly broker: Broker
  readonly #folder: string

  constructor(broker: Broker, folder: string) {
    this.broker = broker
    this.#folder = folder
  }

  static async start(t: Test, config: Record<string, unknown> = {}): Promise<Sabotaged> {
    const folder = temporaryFolder(t)
    const env = {
      SABOTAGE: folder,
      NODE_OPTIONS: `--import=${join(root, 'test/programs/sabotage.mjs')}`,
    }
    return new Sabotaged(await startBroker(t, { config, env }), folder)
  }

  begin(what: 'check' | 'worker' | 'slow-check' | 'slow-master'): void {
    writeFileSync(join(this.#folder, what), '')
  }

  end(what: string): void {
    rmSync(join(this.#folder, what))
  }

  endAll(): void {
    for (const what of readdirSync(this.#folder)) this.end(what)
  }
}

/** Rewrites the configuration file; what is undefined is left out. */
function configure(broker: Broker, change: Record<string, unknown>): void {
  const config = JSON.parse(readFileSync(broker.configFile, 'utf8')) as Record<string, unknown>
  writeFileSync(broker.configFile, JSON.stringify({ ...config, ...change }))
}

function logged(broker: Broker, msg: string): number {
  return broker.program.messages().filter((message) => message['msg'] === msg).length
}

/** Resolves when the broker has logged `msg` `count` times. */
function logs(broker: Broker, msg: string, count = 1): Promise<void> {
  return eventually(() => logged(broker, msg) >= count, `${count} times "${msg}"`, 30_000)
}

/** When a process was started, of the kernel's clock: with the pid it names a process for good (proc(5), starttime). */
function startOf(pid: number): string | undefined {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return stat.slice(stat.lastIndexOf(')')).split(' ')[20]
}

/** Inodes of the master's ends of its sessions: those of the socket's name that are connected. */
function sessionInodes(broker: Broker): string[] {
  const path = operatorSocket(broker)
  return readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[7] === path && fields[5] === '03')
    .map((fields) => fields[6] as string)
}

function holds(pid: number, inode: string): boolean {
  return readdirSync(`/proc/${pid}/fd`).some((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`) === `socket:[${inode}]`
    } catch {
      return false
    }
  })
}

void t.test('a session asks for a reload', { timeout: 60_000 }, async (t) => {
  const scene = await Sabotaged.start(t)
  const { broker } = scene
  const { pid } = broker.program
  const born = startOf(pid)
  const backend = await startBackend(t, broker)

  const session = await openSession(t, broker)
  const other = await openSession(t, broker)
  other.send('prompt\n')
  await eventually(() => other.received === '> ', 'a prompt')
  session.send('prompt\n')
  await eventually(() => session.received === '> ', 'a prompt')
  const inodes = sessionInodes(broker)
  t.equal(inodes.length, 2)
  t.ok(inodes.every((inode) => holds(pid, inode)))

  scene.begin('slow-master')
  session.send('reload\n')
  await t.test('row 32: other sessions are cut', async (t) => {
    t.equal(await other.ended, 'end')
    t.equal(other.received, '> ', 'without a word')
  })
  await t.test('row 33: while there is no program the session waits in the kernel', async (t) => {
    const [inode = '', ...more] = sessionInodes(broker)
    t.same(more, [])
    t.ok(inodes.includes(inode), 'the same connection')
    t.notOk(holds(pid, inode), 'nobody has it')
    t.ok(session.open)
    t.equal(session.received, '> ')
    t.equal(await servedBy(t, broker), backend.pid, 'and clients are served meanwhile')
  })
  scene.end('slow-master')
  const text = await rest(session)
  await t.test(
    'row 31: the session that asked survives, and hears the answer from the same process',
    async (t) => {
      t.equal(startOf(pid), born)
      const status = await masterStatus(t, broker)
      t.match(status.master, { pid, reloads: 1, busy: null })
      t.not(await onlyWorker(t, broker), broker.pid, 'another worker')
      t.equal(await servedBy(t, broker), backend.pid)
    },
  )
  await t.test('row 34: it is a new context: the prompt is gone, and with the answer it is over', (t) => {
    t.match(text, /^> Success=1\n--\n/)
    t.notMatch(text.slice(2), /^> /m)
    t.end()
  })
  await t.test(
    'row 40: the answer is Success=1, a line of dashes, and what the new program has logged',
    (t) => {
      const { success, log } = parseAnswer(text.slice(2))
      t.equal(success, true)
      const lines = log.map((line) => JSON.parse(line) as Record<string, unknown>)
      t.ok(lines.every((line) => line['pid'] === pid))
      t.match(
        lines.map(({ msg }) => msg),
        ['program replaced, reload goes on', 'reloaded'],
      )
      t.end()
    },
  )
  await t.test('row 40: a second reload during one is refused by name', async (t) => {
    scene.begin('slow-check')
    const first = await openSession(t, broker)
    first.send('reload\n')
    await eventually(async () => (await masterStatus(t, broker)).master.busy === 'reload', 'it is under way')
    t.same(await reload(t, broker), { success: false, log: ['a reload is going on'] })
    t.same(await askAdmin(broker, '/api/v1/reload', 'POST'), [
      409,
      JSON.stringify({ success: false, log: ['a reload is going on'] }),
    ])
    broker.program.kill('SIGHUP')
    await logs(broker, 'reload refused')
    scene.end('slow-check')
    t.equal(parseAnswer(await rest(first)).success, true, 'the first one does not notice')
    t.equal((await masterStatus(t, broker)).master.reloads, 2)
  })
  await t.test('what is no command is answered, too', async (t) => {
    t.same(parseAnswer(await say(t, broker, 'relaod')), { success: false, log: ['unknown command "relaod"'] })
    t.same(parseAnswer(await say(t, broker, 'reload now')), {
      success: false,
      log: ['reload takes no arguments'],
    })
  })
})

void t.test('row 38: a session that leaves does not stop its reload', { timeout: 60_000 }, async (t) => {
  const scene = await Sabotaged.start(t)
  const { broker } = scene
  const backend = await startBackend(t, broker)

  scene.begin('slow-check')
  const early = await openSession(t, broker)
  early.send('reload\n')
  await logs(broker, 'reloading', 1)
  early.socket.destroy()
  await eventually(() => sessionInodes(broker).length === 0, 'the master has closed it')
  scene.end('slow-check')
  await logs(broker, 'reloaded', 1)

  scene.begin('slow-master')
  const late = await openSession(t, broker)
  late.send('reload\n')
  await logs(broker, 'reloading', 2)
  await eventually(
    () => sessionInodes(broker).every((inode) => !holds(broker.program.pid, inode)),
    'it waits',
  )
  late.socket.destroy()
  scene.end('slow-master')
  await logs(broker, 'reloaded', 2)

  t.equal((await masterStatus(t, broker)).master.reloads, 2)
  t.equal(await servedBy(t, broker), backend.pid)
  t.equal((await reload(t, broker)).success, true, 'the next one crosses as ever')
})

void t.test('a signal, the command and the API reload as well', { timeout: 60_000 }, async (t) => {
  const broker = await startBroker(t)
  const backend = await startBackend(t, broker)
  await t.test('SIGHUP', async (t) => {
    broker.program.kill('SIGHUP')
    await logs(broker, 'reloaded', 1)
    t.equal(await servedBy(t, broker), backend.pid)
  })
  await t.test('baton reload', async (t) => {
    const command = new Program(t, process.execPath, [batonCommand, 'reload', '--config', broker.configFile])
    t.same(await command.exited, { code: 0, signal: null })
    t.match(command.lines, [/^program replaced, reload goes on\b/, /^reloaded\b/])
  })
  await t.test('POST /api/v1/reload', async (t) => {
    const [status, body] = await askAdmin(broker, '/api/v1/reload', 'POST')
    t.equal(status, 200, 'answered by the worker that was asked, over the connection that it came on')
    const { success, log } = JSON.parse(body) as { success: boolean; log: string[] }
    t.equal(success, true)
    t.match(log.join('\n'), '"reloaded"')
  })
  const { master } = await masterStatus(t, broker)
  t.match(master, { pid: broker.program.pid, reloads: 3 })
  const values = await samples(broker)
  t.equal(values.get('baton_reloads_total{result="success"}'), 3)
  t.equal(values.get('baton_reloads_total{result="failure"}') ?? 0, 0)
  t.equal(values.get('baton_worker_deaths_total'), 0)
  t.ok(Math.abs((values.get('baton_last_reload_timestamp_seconds') ?? 0) - Date.now() / 1000) < 60)
})

void t.test(
  'row 35, row 37: the pair survives 20 reloads, and no descriptor stays behind',
  { timeout: 100_000 },
  async (t) => {
    const broker = await startBroker(t)
    const { pid } = broker.program
    const backend = await startBackend(t, broker)
    const kept = await visit(t, broker)
    t.match(await kept.answer(), { status: 200 })
    const port = Number(new URL(broker.admin).port)
    const count = async () => {
      const worker = await onlyWorker(t, broker)
      await eventually(() => sessionInodes(broker).length === 0, 'no session')
      return {
        master: openDescriptors(pid),
        worker: openDescriptors(worker, port),
        backend: openDescriptors(backend.pid),
      }
    }
    const takeOver = async () => t.equal((await reload(t, broker)).success, true)
    // What a program has open for good it has after the second.
    for (let number = 1; number <= 2; number++) await takeOver()
    const before = await count()
    for (let number = 3; number <= 20; number++) await takeOver()
    let after = await count()
    await eventually(
      async () => JSON.stringify((after = await count())) === JSON.stringify(before),
      () => `${JSON.stringify(after)} descriptors, ${JSON.stringify(before)} before`,
    )
    t.match((await masterStatus(t, broker)).master, { pid, reloads: 20 })
    t.match(await kept.get(), { status: 200, headers: { 'x-pid': `${backend.pid}` } })
    t.equal(logged(broker, 'worker died'), 0)
  },
)

void t.test('row 36: a reader may look, and nothing else', { timeout: 60_000, ...onlyAsRoot }, async (t) => {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o711)
  const broker = await startBroker(t, {
    config: { runtimeDir: join(folder, 'run'), security: { allowUids: [0, NOBODY] } },
  })
  const ask = async (line: string, uid: number) => {
    const program = new Program(t, process.execPath, [OPERATOR, operatorSocket(broker), line], { uid })
    return (await program.message('answered'))['text'] as string
  }
  t.equal(await ask('reload', NOBODY), 'Success=0\n--\nthis user may not reload\n')
  t.equal(await ask('stop', NOBODY), 'Success=0\n--\nthis user may not stop\n')
  t.match(JSON.parse(await ask('status', NOBODY)), { master: { reloads: 0, busy: null } })
  t.equal(await onlyWorker(t, broker), broker.pid)
  t.equal(parseAnswer(await ask('reload', 0)).success, true, 'as who has the right')
})

void t.test(
  'row 39: a start that cannot open what it needs says so and ends with 1',
  { timeout: 60_000 },
  async (t) => {
    const start = async (t: Test, listeners: object[], limit?: number): Promise<string> => {
      const folder = temporaryFolder(t)
      const file = join(folder, 'baton.json')
      const admin = { listen: '127.0.0.1:0' }
      writeFileSync(
        file,
        JSON.stringify({ runtimeDir: join(folder, 'run'), admin, listeners, services: { web: {} } }),
      )
      const command = [process.execPath, batonCommand, 'start', '--config', file]
      if (limit !== undefined) command.unshift('prlimit', `--nofile=${limit}`)
      const [program = '', ...args] = command
      const { exited, lines } = new Program(t, program, args)
      t.same(await exited, { code: 1, signal: null })
      t.same(
        ['control.sock', 'master.sock'].filter((name) => existsSync(join(folder, 'run', name))),
        [],
        'nothing stays behind',
      )
      return lines.join('\n')
    }
    const listener = (name: string, listen = '127.0.0.1:0') => ({
      name,
      listen,
      protocol: 'http',
      service: 'web',
    })
    await t.test('a port that is taken', async (t) => {
      const server = createServer().listen(0, '127.0.0.1')
      t.teardown(() => server.close())
      await once(server, 'listening')
      const { port } = server.address() as { port: number }
      t.match(
        await start(t, [listener('free'), listener('web', `127.0.0.1:${port}`)]),
        `baton: cannot listen: listener "web" on 127.0.0.1:${port}: the address is in use`,
      )
    })
    // As many listeners as leave no room: for the worker's sockets, for its channel, for the pair, for themselves.
    for (const count of [100, 130, 133, 170]) {
      await t.test(`${count} listeners, 160 descriptors`, async (t) => {
        const listeners = Array.from({ length: count }, (_, index) => listener(`web-${index}`))
        t.match(await start(t, listeners, 160), /^baton: .*\b(EMFILE|cannot start)\b/m)
      })
    }
  },
)

void t.test('what cannot be taken over changes nothing', { timeout: 100_000 }, async (t) => {
  const scene = await Sabotaged.start(t)
  const { broker } = scene
  const backend = await startBackend(t, broker)
  const good = readFileSync(broker.configFile, 'utf8')
  const taken = createServer().listen(0, '127.0.0.1')
  t.teardown(() => taken.close())
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const web = { name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }

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
      new RegExp(`listener "more" on 127\\.0\\.0\\.1:${port}: the address is in use`),
    ],
    'an admin address that is taken': [
      () => configure(broker, { admin: { listen: `127.0.0.1:${port}` } }),
      new RegExp(`admin\\.listen.*127\\.0\\.0\\.1:${port}`, 's'),
    ],
  }
  const kept = await visit(t, broker)
  t.match(await kept.answer(), { status: 200 })
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
  await t.test('the command says why and ends with 1', async (t) => {
    configure(broker, { listerners: [] })
    const command = new Program(t, process.execPath, [batonCommand, 'reload', '--config', broker.configFile])
    t.equal((await command.exited).code, 1)
    t.match(command.lines.join('\n'), /listerners/)
    writeFileSync(broker.configFile, good)
  })
  await t.test('then a good one is done', async (t) => {
    t.equal((await reload(t, broker)).success, true)
    t.not(await onlyWorker(t, broker), broker.pid)
    t.equal(await servedBy(t, broker), backend.pid)
    t.equal(
      (await samples(broker)).get('baton_worker_deaths_total'),
      1,
      'that of the worker that did not start',
    )
  })
  t.equal(
    new Set(descriptors.values()).size <= 2,
    true,
    `descriptors of the master: ${JSON.stringify([...descriptors])}`,
  )
})

void t.test('listeners and services come, change and go', { timeout: 100_000 }, async (t) => {
  const web = { name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }
  const broker = await startBroker(t)
  const { control, program } = broker
  const first = await startBackend(t, broker)
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
  const accept = async (t: Test, config: Record<string, unknown>) => {
    configure(broker, config)
    t.same((await reload(t, broker)).success, true)
  }
  const services = { web: {}, other: {} }

  await t.test('one is added, with its service', async (t) => {
    await accept(t, { services, listeners: [web, { ...web, name: 'extra', service: 'other' }] })
    const second = await startBackend(t, broker, 'http-backend.mjs', { service: 'other' })
    t.equal(await portOf('web'), broker.port(), 'the other keeps its port')
    t.equal(await ask(broker.port()), first.pid)
    t.equal(await ask(await portOf('extra')), second.pid)
  })
  const extra = await portOf('extra')
  await t.test('one gets another service, and keeps its socket', async (t) => {
    await accept(t, { listeners: [web, { ...web, name: 'extra', service: 'web' }] })
    t.equal(await ask(extra), first.pid)
  })
  await t.test('one moves to another address', async (t) => {
    const path = join(broker.folder, 'web.sock')
    await accept(t, { listeners: [web, { ...web, name: 'extra', listen: `unix:${path}` }] })
    t.equal(await refused(t, extra), 'ECONNREFUSED')
    const client = await Client.open(t, { path })
    t.equal((await client.get()).headers['x-pid'], `${first.pid}`)
  })
  await t.test('one goes: who waits in its queue is served, and nobody else gets in', async (t) => {
    await accept(t, { listeners: [web, { ...web, name: 'doomed' }] })
    const doomed = await portOf('doomed')
    const worker = await onlyWorker(t, broker)
    process.kill(worker, 'SIGSTOP')
    t.teardown(() => {
      try {
        process.kill(worker, 'SIGCONT')
      } catch {
        // It has ended.
      }
    })
    const waiting = await Promise.all(
      Array.from({ length: 20 }, () => Client.open(t, { host: '127.0.0.1', port: doomed })),
    )
    for (const client of waiting) client.request()
    await accept(t, { listeners: [web] })
    t.ok(waiting.every(({ open, received }) => open && received === ''))
    process.kill(worker, 'SIGCONT')
    for (const client of waiting) t.equal((await client.answer()).headers['x-pid'], `${first.pid}`)
    t.not(await onlyWorker(t, broker), worker)
    t.equal(await refused(t, doomed), 'ECONNREFUSED')
  })
  t.equal(await ask(broker.port()), first.pid)
  t.ok(program.running && existsSync(control))
})

/** How a connection attempt ends. */
async function refused(t: Test, port: number): Promise<string> {
  return new Client(t, { host: '127.0.0.1', port }).ended
}
