import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, type Broker } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import {
  askAdmin,
  configure,
  logged,
  logs,
  masterStatus,
  onlyWorker,
  openSession,
  operatorSocket,
  parseAnswer,
  reload,
  rest,
  samples,
  say,
  sessionInodes,
} from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { Sabotaged } from './support/sabotage.ts'
import { servedBy } from './support/visit.ts'
import { LIMIT } from './support/limits.ts'
import { canBeNobody, NOBODY, onlyAsRoot } from './support/other-user.ts'

// The requester of a reload gets its result, and a failed reload changes nothing.

/** test/slow/reload.test.ts, which CI runs, sends more of them. */
const SIGNALS = (process.env['SIGNALS'] ?? 'SIGUSR2').split(',')
/** Numbers of listeners that a process with 160 descriptors cannot have; again, there are more in test/slow/reload.test.ts. */
const LISTENERS = (process.env['LISTENERS'] ?? '133').split(',').map(Number)

const OPERATOR = join(root, 'test/programs/operator.mjs')
/** The other user must be able to read this repository. */

/** Start time of a process on the kernel's clock: together with the pid it identifies a process for good (proc(5), starttime). */
function startOf(pid: number): string | undefined {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return stat.slice(stat.lastIndexOf(')')).split(' ')[20]
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

/** The answer that a program of user `uid` gets. */
async function askAs(t: Test, broker: Broker, uid: number, line: string): Promise<string> {
  const program = new Program(t, process.execPath, [OPERATOR, operatorSocket(broker), line], { uid })
  return (await program.message('answered'))['text'] as string
}

void t.test('one broker is asked to reload again and again', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o711)
  const scene = await Sabotaged.start(t, {
    runtimeDir: join(folder, 'run'),
    services: { web: { ackDeadline: '5m', tokenTtl: '10m', holdTimeout: '10m' } },
    ...(canBeNobody && { security: { allowUids: [0, NOBODY] } }),
  })
  const { broker } = scene
  const { pid } = broker.program
  const born = startOf(pid)
  const backend = await startBackend(t, broker)

  await t.test('a session that disconnects does not stop its reload', async (t) => {
    scene.begin('slow-check')
    const early = await openSession(t, broker)
    early.send('reload\n')
    await scene.reached('slow-check')
    early.socket.destroy()
    await eventually(() => sessionInodes(broker).length === 0, 'the master has closed it')
    scene.end('slow-check')
    await logs(broker, 'reloaded', 1)

    scene.begin('slow-master')
    const late = await openSession(t, broker)
    late.send('reload\n')
    await scene.reached('slow-master')
    t.notOk(
      sessionInodes(broker).some((inode) => holds(pid, inode)),
      'it waits in the kernel',
    )
    late.socket.destroy()
    await t.test('a SIGHUP during exec does not end the broker, and reloads it', async (t) => {
      broker.program.kill('SIGHUP')
      scene.end('slow-master')
      await logs(broker, 'reloaded', 3)
      t.ok(broker.program.running)
      t.equal(await servedBy(t, broker), backend.pid)
    })
    const { master } = await masterStatus(t, broker)
    t.match(master, { pid, reloads: 3 })
    t.equal(startOf(pid), born)
  })

  // Once those sessions have left, a session is handed over as usual.
  const before = await onlyWorker(t, broker)
  const begun = Date.now() / 1000
  const session = await openSession(t, broker)
  const other = await openSession(t, broker)
  other.send('prompt\n')
  await eventually(() => other.received === '> ', 'a prompt')
  session.send('prompt\n')
  await eventually(() => session.received === '> ', 'a prompt')
  const inodes = sessionInodes(broker)
  t.equal(inodes.length, 2)
  t.ok(inodes.every((inode) => holds(pid, inode)))

  const waited = logged(broker, 'reload waits')
  scene.begin('patient-master')
  scene.begin('slow-check')
  session.send('reload\n')
  await scene.reached('slow-check')
  await eventually(async () => (await masterStatus(t, broker)).master.busy === 'reload', 'it is in progress')
  await t.test('a reader may only query', onlyAsRoot, async (t) => {
    t.equal(
      await askAs(t, broker, NOBODY, 'reload'),
      `Success=0\n--\npermission denied: reload requires the broker's user or root\n`,
    )
    t.equal(
      await askAs(t, broker, NOBODY, 'stop'),
      `Success=0\n--\npermission denied: stop requires the broker's user or root\n`,
    )
    t.match(JSON.parse(await askAs(t, broker, NOBODY, 'status')), { master: { reloads: 3, busy: 'reload' } })
    t.equal(
      await askAs(t, broker, 0, 'reload no-wait'),
      'Success=0\n--\na reload is already in progress\n',
      'an operator gets another reason',
    )
    t.equal(await onlyWorker(t, broker), before)
  })
  await t.test('a second reload that is not to wait is refused with the reason', async (t) => {
    const refused = { success: false, log: ['a reload is already in progress'] }
    t.same(parseAnswer(await say(t, broker, 'reload no-wait')), refused)
    t.same(await askAdmin(broker, '/api/v1/reload?wait=false', 'POST'), [409, JSON.stringify(refused)])
    const command = new Program(t, process.execPath, [
      batonCommand,
      'reload',
      '--no-wait',
      '--config',
      broker.configFile,
    ])
    t.same(await command.exited, { code: 1, signal: null })
    t.same(command.lines, ['a reload is already in progress'])
    t.match(await askAdmin(broker, '/api/v1/reload?wait=maybe', 'POST'), [400, /BATON_ERR_ADMIN_BAD_REQUEST/])
    t.ok(other.open)
    t.equal(session.received, '> ', 'the first one does not notice')
  })
  // They were refused, and a configuration newer than the one the first reload had read never took effect.
  const joined = await openSession(t, broker)
  joined.send('reload\n')
  const overHttp = askAdmin(broker, '/api/v1/reload', 'POST')
  await logs(broker, 'reload waits', waited + 2)
  for (let count = 0; count < 3; count++) broker.program.kill('SIGHUP')
  await logs(broker, 'reload waits', waited + 3)
  scene.begin('slow-master')
  scene.end('slow-check')
  await t.test('other sessions are cut', async (t) => {
    t.equal(await other.ended, 'end')
    t.equal(other.received, '> ', 'without a word')
  })
  await scene.reached('slow-master')
  await t.test('during exec the session waits in the kernel', async (t) => {
    const crossing = sessionInodes(broker)
    t.equal(crossing.length, 2, 'together with the next one in the queue')
    t.ok(
      crossing.some((inode) => inodes.includes(inode)),
      'the same connection',
    )
    t.notOk(
      crossing.some((inode) => holds(pid, inode)),
      'no process has it',
    )
    t.ok(session.open)
    t.equal(session.received, '> ')
    t.equal(await servedBy(t, broker), backend.pid, 'and clients are served meanwhile')
  })
  scene.end('slow-master')
  const text = await rest(session)
  await t.test('requests that came during a reload share the next one', async (t) => {
    t.match(parseAnswer(await rest(joined)), { success: true })
    t.match(await overHttp, [200, /"success":true/], 'including a worker that has left meanwhile')
    await eventually(async () => (await masterStatus(t, broker)).master.busy === null, 'all are done')
    t.equal((await masterStatus(t, broker)).master.reloads, 5)
    t.equal(logged(broker, 'reload refused'), 0)
  })
  scene.end('patient-master')
  await t.test('the requesting session survives, and gets the answer from the same process', async (t) => {
    t.equal(startOf(pid), born)
    const status = await masterStatus(t, broker)
    t.match(status.master, { pid, reloads: 5, busy: null })
    t.not(await onlyWorker(t, broker), before, 'another worker')
    t.equal(await servedBy(t, broker), backend.pid)
  })
  await t.test('it is a new session: the prompt is gone, and it ends with the answer', (t) => {
    t.match(text, /^> Success=1\n--\n/)
    t.notMatch(text.slice(2), /^> /m)
    t.end()
  })
  await t.test('the answer is Success=1, a line of dashes, and the log lines of the new program', (t) => {
    const { success, log } = parseAnswer(text.slice(2))
    t.equal(success, true)
    const lines = log.map((line) => JSON.parse(line) as Record<string, unknown>)
    t.ok(lines.every((line) => line['pid'] === pid))
    t.match(
      lines.map(({ msg }) => msg),
      ['program replaced, reload continues', 'reloaded'],
    )
    t.end()
  })

  await t.test('all of them are counted', async (t) => {
    const { master } = await masterStatus(t, broker)
    t.match(master, { pid, reloads: 5 })
    const values = await samples(broker)
    t.equal(values.get('baton_reloads_total{result="success"}'), 5)
    t.equal(values.get('baton_reloads_total{result="failure"}') ?? 0, 0)
    t.equal(values.get('baton_worker_deaths_total'), 0)
    const last = values.get('baton_last_reload_timestamp_seconds') ?? 0
    t.ok(last > begun, 'after the test began')
    t.ok(last <= Date.now() / 1000)
  })
  // `pkill -USR2 -f baton`: while Node starts it has no listeners yet, and such a signal killed it. The reload was refused, or
  // the start failed.
  await t.test('signals that would end a check or a worker while it starts', async (t) => {
    for (const name of SIGNALS) {
      scene.begin('signalled-check', name)
      scene.begin('signalled-worker', name)
      t.match(await reload(t, broker), { success: true }, name)
    }
    await logs(
      broker,
      'a signal ended or stopped a worker that was starting; starting another',
      SIGNALS.length,
    )
    t.equal(await servedBy(t, broker), backend.pid)
  })
  // The master blocked in open(2), waiting for a writer: it answered nothing, and a worker that died was not replaced.
  await t.test('a configuration that is a FIFO', async (t) => {
    const aside = `${broker.configFile}.aside`
    renameSync(broker.configFile, aside)
    t.equal(spawnSync('mkfifo', [broker.configFile]).status, 0)
    t.match(await reload(t, broker), { success: false, log: [/not a regular file; a reload cannot read it/] })
    renameSync(aside, broker.configFile)
    t.match(await reload(t, broker), { success: true })
  })
  await t.test("a service's own drainDeadline counts from the reload on", async (t) => {
    const drain = async () =>
      JSON.parse((await askAdmin(broker, '/api/v1/services/web/drain', 'POST'))[1]) as unknown
    configure(broker, { services: { web: { drainDeadline: '7m' } } })
    t.match(await reload(t, broker), { success: true })
    t.match(await drain(), { draining: 1, deadlineMs: 420_000 })
  })
  await t.test('an unknown command is answered, too', async (t) => {
    t.same(parseAnswer(await say(t, broker, 'relaod')), { success: false, log: ['unknown command "relaod"'] })
    t.same(parseAnswer(await say(t, broker, 'x'.repeat(256))), {
      success: false,
      log: ['a word has at most 255 characters'],
    })
    t.same(parseAnswer(await say(t, broker, 'reload now')), {
      success: false,
      log: ['reload takes no argument except no-wait'],
    })
  })
})

void t.test(
  'a start that cannot open what it needs exits with 1 and the reason',
  { timeout: LIMIT },
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
        'nothing is left',
      )
      return lines.join('\n')
    }
    const listener = (name: string, listen = '127.0.0.1:0') => ({
      name,
      listen,
      protocol: 'http',
      service: 'web',
    })
    await t.test('a port in use', async (t) => {
      const server = createServer().listen(0, '127.0.0.1')
      t.teardown(() => server.close())
      await once(server, 'listening')
      const { port } = server.address() as { port: number }
      t.match(
        await start(t, [listener('free'), listener('web', `127.0.0.1:${port}`)]),
        `baton: cannot listen: listener "web" on 127.0.0.1:${port}: the address is in use`,
      )
    })
    // Too many listeners: no room for the worker's sockets, for its channel, for the socketpair, for the listeners themselves.
    for (const count of LISTENERS) {
      await t.test(`${count} listeners, 160 descriptors`, async (t) => {
        const listeners = Array.from({ length: count }, (_, index) => listener(`web-${index}`))
        t.match(await start(t, listeners, 160), /^baton: .*\b(EMFILE|cannot start)\b/m)
      })
    }
  },
)
