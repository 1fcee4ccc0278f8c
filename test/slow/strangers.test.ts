import { spawnSync } from 'node:child_process'
import { chmodSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { batonCommand, Broker, startBroker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT, starts } from '../support/limits.ts'
import { masterStatus, operatorSocket, reload } from '../support/operator.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { PATIENT } from '../support/service.ts'
import { visit } from '../support/visit.ts'
import { NOBODY } from '../support/other-user.ts'

// The slow cases of test/strangers.test.ts: a crowd, and a kernel that cannot refuse descriptors.

const asRoot = process.getuid?.() === 0
const withPython =
  spawnSync('python3', ['--version']).status !== 0 && process.env['CI'] === undefined && 'needs python3'
const LINGER = String(Math.ceil((10 * LIMIT) / 1000))

async function bothAnswer(t: Test, broker: Broker): Promise<void> {
  t.equal((await fetch(`${broker.admin}/healthz`)).status, 200)
  t.ok((await masterStatus(t, broker)).master.pid > 1)
}

/** Lets other users connect to the broker's sockets. */
function openTo(others: number, folder: string): Record<string, unknown> {
  chmodSync(folder, 0o711)
  return {
    runtimeDir: join(folder, 'run'),
    drainDeadline: 0,
    admin: { listen: '127.0.0.1:0' },
    security: { allowUids: [process.getuid?.() ?? -1, others] },
  }
}

void t.test(
  'a user who may not register and connects without pause does not slow the broker down',
  { skip: !asRoot && 'needs root', timeout: LIMIT },
  async (t) => {
    // The worker stayed in its accept loop as long as there was another connection, and answered nothing.
    const broker = await startBroker(t, {
      config: { ...openTo(NOBODY - 1, temporaryFolder(t)), services: { web: PATIENT } },
    })
    const program = join(root, 'test/programs/flood.mjs')
    const floods = [broker.control, broker.control, operatorSocket(broker)].map(
      (path) => new Program(t, process.execPath, [program, path, String(NOBODY)]),
    )
    for (const flood of floods) await flood.message('flooding')
    for (let count = 0; count < 5; count++) await bothAnswer(t, broker)
    await startBackend(t, broker)
    await (await visit(t, broker)).answer()
    for (const flood of floods) flood.kill('SIGKILL')
  },
)

for (const ring of ['on', 'off']) {
  void t.test(
    `before Linux 6.16, a descriptor whose close blocks freezes no process either: io_uring ${ring}`,
    { skip: withPython, timeout: starts(40) },
    async (t) => {
      const folder = temporaryFolder(t)
      const unix = join(folder, 'web.sock')
      const configFile = join(folder, 'baton.json')
      const config = {
        ...openTo(asRoot ? NOBODY : NOBODY - 1, folder),
        listeners: [
          { name: 'unix', listen: `unix:${unix}`, protocol: 'http', service: 'brief' },
          { name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'brief' },
        ],
        services: { brief: { ...PATIENT, holdTimeout: '500ms' } },
      }
      writeFileSync(configFile, JSON.stringify(config))
      const filter = join(root, 'test/programs/without-passrights.py')
      const start = [filter, process.execPath, batonCommand, 'start', '--config', configFile]
      const env = ring === 'off' ? { BATON_IO_URING: 'off' } : {}
      const program = new Program(t, 'python3', start, { group: true, env })
      const broker = new Broker(program, folder, configFile, await program.message('accepting connections'))
      const lingering = (...args: string[]) =>
        new Program(t, 'python3', [join(root, 'test/programs/lingering.py'), ...args])
      // More strangers than libuv has threads.
      const doors = [
        broker.control,
        broker.control,
        operatorSocket(broker),
        operatorSocket(broker),
        unix,
        unix,
      ]
      const strangers = doors.map((door) =>
        lingering('send', door, LINGER, ...(asRoot ? [String(NOBODY)] : [])),
      )
      for (const stranger of strangers) t.match(await stranger.message('done'), { errno: 0 }, 'it was sent')
      await broker.until(
        ({ services }) => services[0]?.outcomes.rejected === 2,
        'both that wait are rejected',
      )
      await bothAnswer(t, broker)
      for (const stranger of strangers) stranger.kill('SIGKILL')
      await bothAnswer(t, broker)

      await startBackend(t, broker, 'http-backend.mjs', { service: 'brief' })
      await (await visit(t, broker)).answer()
      const client = connect(unix)
      t.teardown(() => client.destroy())
      client.write('GET / HTTP/1.1\r\nHost: app\r\n\r\n')
      await eventually(() => client.bytesRead > 0, 'a client of the Unix listener is served')
    },
  )
}

void t.test(
  'a process with a hundred backends registers all of them, and again after a reload',
  { timeout: LIMIT },
  async (t) => {
    // Refused dials counted against the process's allowance: 64 backends registered, and the others never did.
    const BACKENDS = 100
    const broker = await startBroker(t, { config: { services: { web: PATIENT } } })
    const program = new Program(
      t,
      process.execPath,
      [join(root, 'test/programs/many-backends.mjs'), String(BACKENDS)],
      { env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' } },
    )
    const all = (found: Record<string, unknown>) => found['count'] === BACKENDS
    await eventually(() => program.messages().some(all), 'all are registered')
    t.ok((await reload(t, broker)).success)
    const { services } = (await (await fetch(`${broker.admin}/api/v1/status`)).json()) as {
      services: { backends: unknown[] }[]
    }
    t.equal(services[0]?.backends.length, BACKENDS)
  },
)
