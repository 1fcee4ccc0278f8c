import { mkdirSync, readFileSync, rmdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker, type Status } from './support/broker.ts'
import { Client } from './support/client.ts'
import { baton, batonHere } from './support/command.ts'
import { freePort } from './support/free-port.ts'
import { temporaryFolder } from './support/process.ts'
import { LIMIT } from './support/limits.ts'
import { servedBy } from './support/visit.ts'

// The command as a user types it: its output, and the exit code that a script sees. Usage errors are tested in
// packages/broker/test/cli.test.ts, which needs no process for each.

const LISTENER = { name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }
const WORKING = { admin: { listen: '127.0.0.1:0' }, listeners: [LISTENER], services: { web: {} } }

/** Clients are held until the test or the broker ends, and a backend on a busy machine has time to adopt. */
const PATIENT = { services: { web: { ackDeadline: '5m', tokenTtl: '10m', holdTimeout: '10m' } } }

function configured(t: Test, config: object): string {
  const file = join(temporaryFolder(t), 'baton.json')
  writeFileSync(file, JSON.stringify({ runtimeDir: 'run', ...config }))
  return file
}

void t.test(
  'exit codes, and what goes where: help to standard output, a refusal to standard error',
  async (t) => {
    const help = await baton(t, ['drain', '--help'])
    t.match(help, { code: 0, out: { 0: /^Usage: baton drain SERVICE\[\/BACKEND\]/ } })
    t.same(help.err, [])

    t.same(await baton(t, ['start', '--confg', 'x']), {
      code: 2,
      out: [],
      err: ['baton: unknown option --confg (did you mean --config?)', 'Try: baton start --help'],
    })
  },
)

// Two folders with the same `admin.listen`: the commands of the one whose broker could not start acted upon the other one's.
void t.test('a command reaches the broker of its folder, and no other', { timeout: LIMIT }, async (t) => {
  const admin = { listen: `127.0.0.1:${await freePort()}` }
  const broker = await startBroker(t, { config: { admin } })
  const other = configured(t, { ...WORKING, admin })
  const folder = join(other, '..', 'run')
  mkdirSync(folder)
  for (const command of ['status', 'pause']) {
    const args = command === 'pause' ? ['pause', 'web'] : [command]
    const { code, out, err } = await batonHere(...args, '--config', other)
    const message = `baton: another broker listens at admin.listen, that of ${join(broker.folder, 'run')}: give each broker an address of its own (BATON_ERR_ADMIN_OTHER_BROKER)`
    t.same({ code, out, err }, { code: 1, out: [], err: [message] })
  }
  const { services } = await broker.status()
  t.match(services, [{ paused: null }])

  // Another path to its folder will do.
  rmdirSync(folder)
  symlinkSync(join(broker.folder, 'run'), folder)
  t.match(await batonHere('pause', 'web', '--config', other), { code: 0, err: [] })
})

/** Holds for every broker that was asked to stop and had until its drainDeadline. */
async function drainedInOrder(t: Test, broker: Broker): Promise<void> {
  t.same(await broker.program.exited, { code: 0, signal: null })
  t.same(
    broker.program
      .messages()
      .map(({ msg }) => msg)
      .filter((msg) => msg === 'draining' || msg === 'stopped'),
    ['draining', 'stopped'],
  )
}

async function heldClient(t: Test, broker: Broker): Promise<Client> {
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  client.request()
  await broker.until(({ services }) => services[0]?.held === 1, 'the client is held')
  return client
}

/** Whether the worker runs with Node options for a small heap. */
function isSmall(broker: Broker): boolean {
  return readFileSync(`/proc/${broker.pid}/cmdline`, 'utf8').split('\0').includes('--max-semi-space-size=4')
}

void t.test(
  'a broker, from its start to the start of the next one on its addresses',
  { timeout: LIMIT },
  async (t) => {
    const [listen, admin] = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`]
    const config = {
      ...PATIENT,
      drainDeadline: '1s',
      admin: { listen: admin },
      listeners: [{ ...LISTENER, listen }],
    }
    const broker = await startBroker(t, { config })
    let complaints = ''
    broker.program.child.stderr?.on('data', (chunk: Buffer) => (complaints += chunk.toString()))
    // Client commands find a running broker through its configuration file.
    const file = broker.configFile
    const smallAtFirst = isSmall(broker)

    await t.test('a second broker exits with 1, and names what is in use', async (t) => {
      const sameListener = configured(t, { ...WORKING, listeners: [{ ...LISTENER, listen }] })
      const sameAdmin = configured(t, { ...WORKING, admin: { listen: admin } })
      const taken = await baton(t, ['start', '--config', sameListener])
      t.equal(taken.code, 1)
      t.equal(taken.err.length, 1, 'no stack')
      t.match(
        taken.err[0],
        new RegExp(`^baton: .*listener "web" on ${listen}: .*\\(EADDRINUSE\\) \\(BATON_ERR_LISTEN\\)$`),
      )
      t.match(await baton(t, ['start', '--config', sameAdmin]), {
        code: 1,
        err: [
          `baton: admin.listen: ${admin} is in use by another process (EADDRINUSE) (BATON_ERR_ADMIN_LISTEN)`,
        ],
      })
    })

    const backend = await startBackend(t, broker)
    t.equal(await servedBy(t, broker), backend.pid)
    const id = (await broker.status()).services[0]?.backends[0]?.id ?? ''

    await t.test('status', async (t) => {
      await broker.until(({ services }) => services[0]?.outcomes.handed_off === 1, 'it is counted')
      const { code, out, err } = await baton(t, ['status', '--config', file])
      t.equal(code, 0)
      t.same(err, [])
      t.match(out[0], new RegExp(`^broker [0-9A-Z]{26}: running, version .*, pid ${broker.pid}, since`))
      t.equal(out[1], `master (send signals to it): pid ${broker.program.pid}`)
      const text = out.join('\n')
      t.match(text, new RegExp(`^web +${listen.replaceAll('.', '\\.')} +http +web +1$`, 'm'))
      t.match(text, new RegExp(`^web/web-1 +ready .* ${backend.pid} .* ${id}$`, 'm'))
    })

    await t.test('status --json is what the API answers', async (t) => {
      const { code, out } = await batonHere('status', '--json', '--config', file)
      t.equal(code, 0)
      const printed = JSON.parse(out.join('\n')) as Status
      t.match(printed.services[0]?.backends, [{ id, slot: 'web-1', pid: backend.pid, state: 'ready' }])
      t.match(printed.services[0]?.outcomes, { handed_off: 1 })
    })

    await t.test(
      'drain of a service that does not exist, and of a backend that is not there: with its name',
      async (t) => {
        for (const [name, code, says] of [
          ['wbe', 2, 'baton: there is no service "wbe"; there are: web (BATON_ERR_ADMIN_NO_SERVICE)'],
          [
            'web/web-7',
            1,
            'baton: service web has no backend "web-7"; there are: web-1 (BATON_ERR_ADMIN_NO_BACKEND)',
          ],
        ] as const)
          t.same(await batonHere('drain', name, '--config', file), { code, out: [], err: [says] })
        t.equal((await broker.status()).services[0]?.backends[0]?.state, 'ready', 'none was drained')
      },
    )

    const other = await startBackend(t, broker)
    await t.test('drain of one backend, by its slot', async (t) => {
      const said = await baton(t, ['drain', 'web/web-1', '--deadline', '0', '--config', file])
      t.same(said, { code: 0, out: ['web/web-1: draining 1 backend, for at most 0s'], err: [] })
      await broker.until(({ services }) => services[0]?.backends.length === 1, 'it has left')
      t.equal(await servedBy(t, broker), other.pid)
    })

    await t.test('drain of a service, for as long as drainDeadline says', async (t) => {
      const said = await batonHere('drain', 'web', '--config', file)
      t.same(said, { code: 0, out: ['web: draining 1 backend, for at most 1s'], err: [] })
      await broker.until(({ services }) => services[0]?.backends.length === 0, 'it has left')
    })

    await t.test('SIGTERM drains and exits 0; a client that waits has until drainDeadline', async (t) => {
      const waiting = await heldClient(t, broker)
      const idle = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
      await broker.until(({ services }) => services[0]?.held === 2, 'another one is held')
      broker.program.kill('SIGTERM')
      await broker.program.message('draining')
      idle.socket.destroy()
      t.equal((await waiting.answer()).status, 503, 'then it is rejected')
      await drainedInOrder(t, broker)
      t.equal(complaints, '')
      t.same(
        broker.program.lines.filter((line) => !line.startsWith('{')),
        [],
        'nothing but its log',
      )
    })

    await t.test('after its end there is no answer: exit code 1, with the address', async (t) => {
      t.same(await batonHere('status', '--config', file), {
        code: 1,
        out: [],
        err: [
          `baton: cannot reach the broker at ${admin} (admin.listen of ${file}): ECONNREFUSED; is it running? (BATON_ERR_NO_BROKER)`,
        ],
      })
    })

    // One connection was closed by the client, one by the server.
    const next = await startBroker(t, { config, env: { NODE_OPTIONS: '--max-semi-space-size=32' } })
    t.equal(next.address(), listen, 'a drained broker can be started again at once on the same addresses')
    t.equal(next.admin, `http://${admin}`)

    await t.test('a worker has a small young generation, unless Node options set one', async (t) => {
      t.ok(smallAtFirst)
      t.notOk(isSmall(next))
    })

    await t.test('SIGINT drains and exits 0; a client that waits has until drainDeadline', async (t) => {
      const waiting = await heldClient(t, next)
      next.program.kill('SIGINT')
      t.equal((await waiting.answer()).status, 503, 'then it is rejected')
      await drainedInOrder(t, next)
    })
  },
)

void t.test('a second signal ends the broker at once, with exit code 1', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { config: { ...PATIENT, drainDeadline: '5m' } })
  const waiting = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  await broker.until(
    ({ services }) => services[0]?.held === 1,
    'a client is held, so the drain takes its time',
  )
  broker.program.kill('SIGTERM')
  await broker.program.message('draining')
  t.ok(waiting.open)
  broker.program.kill('SIGTERM')
  t.same(await broker.program.exited, { code: 1, signal: null })
})
