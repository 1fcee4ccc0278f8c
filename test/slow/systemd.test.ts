import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { batonCommand, Broker, startBroker } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { batonHere } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { logs, masterStatus, onlyWorker, reload } from '../support/operator.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { LIMIT, starts } from '../support/limits.ts'
import { signal } from '../support/signal.ts'

// The broker's messages to a service manager, and what it takes from one. The manager's ends of both are real sockets, in
// separate programs.

/** Milliseconds: the delays of a busy machine must be less than half of this. */
const WATCHDOG = Math.max(1000, starts(0.3))

interface Notification {
  readonly said: Readonly<Record<string, string>>
  readonly pid: number
  /** CLOCK_MONOTONIC, microseconds. */
  readonly at: number
}

/** Reads the notifications on a notify socket, in order. */
class Manager {
  readonly #program: Program
  #read = 0

  static async start(t: Test, name: string): Promise<Manager> {
    const program = new Program(t, 'python3', [join(root, 'test/programs/notify-socket.py'), name])
    await program.message('bound')
    return new Manager(program)
  }

  private constructor(program: Program) {
    this.#program = program
  }

  get all(): Notification[] {
    return this.#program.messages().filter(({ msg }) => msg === 'notified') as unknown as Notification[]
  }

  /** The next notification that was not taken yet and is not a watchdog message. */
  async next(): Promise<Notification> {
    for (;;) {
      const notification = await this.#next()
      if (notification.said['WATCHDOG'] === undefined) return notification
    }
  }

  /** The next watchdog message. */
  async tick(): Promise<Notification> {
    for (;;) {
      const notification = await this.#next()
      if (notification.said['WATCHDOG'] === '1') return notification
    }
  }

  /** Time since the last watchdog message, in milliseconds. */
  silence(): number {
    const last = this.all.findLast(({ said }) => said['WATCHDOG'] === '1')
    return now() / 1000 - (last?.at ?? Number.NaN) / 1000
  }

  async #next(): Promise<Notification> {
    const index = this.#read++
    await this.#program.line(() => this.all.length > index, 'another notification')
    return this.all[index] as Notification
  }
}

/** CLOCK_MONOTONIC, microseconds. */
function now(): number {
  return Number(process.hrtime.bigint() / 1000n)
}

/** Sockets other than its standard descriptors, as `socket:[INODE]`. */
function otherSocketsOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .filter((fd) => Number(fd) > 2)
    .map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))
    .filter((target) => target.startsWith('socket:'))
}

const MANAGERS_OWN = /^(?:NOTIFY_SOCKET|WATCHDOG_|LISTEN_)/

function managersVariables(environment: string, separator: string): string[] {
  return environment.split(separator).filter((variable) => MANAGERS_OWN.test(variable))
}

void t.test('from READY=1 over reloads to STOPPING=1', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const name = join(folder, 'notify')
  const manager = await Manager.start(t, name)
  const path = join(folder, 'web.sock')
  const started = startBroker(t, { env: { NOTIFY_SOCKET: name }, config: withLocal(path) })
  const ready = await manager.next()
  const early = await Client.open(t, { path })
  const broker = await started
  const { pid } = broker.program

  await t.test('READY=1 when clients are accepted', async (t) => {
    t.same(ready.said, { READY: '1', STATUS: 'serving', MAINPID: String(pid) })
    t.equal(ready.pid, pid)
    await startBackend(t, broker)
    t.equal((await early.get()).status, 200)
    early.socket.destroy()
  })

  await t.test('a reload is announced with its time, and its end with READY=1', async (t) => {
    const asks = {
      SIGHUP: () => broker.program.kill('SIGHUP'),
      'baton reload': async () => t.match(await reload(t, broker), { success: true }),
    }
    for (const [how, ask] of Object.entries(asks)) {
      const before = now()
      const asked = ask()
      const reloading = await manager.next()
      t.match(reloading.said, { RELOADING: '1' }, how)
      const stamp = Number(reloading.said['MONOTONIC_USEC'])
      t.ok(before <= stamp && stamp <= reloading.at, `${before} <= ${stamp} <= ${reloading.at}`)
      const again = await manager.next()
      t.same(again.said, { READY: '1', STATUS: 'serving; reloaded', MAINPID: String(pid) })
      t.equal(again.pid, pid, 'the same process, though another program')
      await asked
    }
    t.equal((await masterStatus(t, broker)).master.reloads, 2)
  })

  await t.test('a reload that fails ends with READY=1 too, and says why', async (t) => {
    const taken = createServer().listen(0, '127.0.0.1')
    t.teardown(() => taken.close())
    await new Promise((resolve) => taken.once('listening', resolve))
    const { port } = taken.address() as { port: number }
    const config = JSON.parse(readFileSync(broker.configFile, 'utf8')) as { listeners: object[] }
    const listeners = [...config.listeners, { name: 'more', listen: `127.0.0.1:${port}`, service: 'web' }]
    const failures: [string, RegExp][] = [
      ['{', /^serving; reload failed: .*baton\.json/],
      // Only the new program detects this.
      [JSON.stringify({ ...config, listeners }), /^serving; reload failed: .*"more".*in use/],
    ]
    for (const [text, status] of failures) {
      writeFileSync(broker.configFile, text)
      broker.program.kill('SIGHUP')
      t.match((await manager.next()).said, { RELOADING: '1' })
      t.match((await manager.next()).said, { READY: '1', STATUS: status })
    }
  })

  await stops(t, broker, manager)
})

void t.test(
  'a manager with an abstract name; a SIGHUP during a reload causes one more reload after it',
  { timeout: LIMIT },
  async (t) => {
    const folder = temporaryFolder(t)
    const name = `@baton-test-${process.pid}`
    const manager = await Manager.start(t, name)
    const go = join(folder, 'go')
    const hold = join(folder, 'hold.mjs')
    writeFileSync(
      hold,
      `import { existsSync } from 'node:fs'
    const word = new Int32Array(new SharedArrayBuffer(4))
    if (process.argv.includes('check')) while (!existsSync(${JSON.stringify(go)})) Atomics.wait(word, 0, 0, 10)`,
    )
    const path = join(folder, 'web.sock')
    const env = { NOTIFY_SOCKET: name, NODE_OPTIONS: `--import=${hold}` }
    const started = startBroker(t, { env, config: withLocal(path) })
    const ready = await manager.next()
    const early = await Client.open(t, { path })
    const broker = await started
    const { pid } = broker.program
    t.same(ready.said, { READY: '1', STATUS: 'serving', MAINPID: String(pid) })
    t.equal(ready.pid, pid)

    broker.program.kill('SIGHUP')
    t.match((await manager.next()).said, { RELOADING: '1' })
    broker.program.kill('SIGHUP')
    await logs(broker, 'reload waits')
    const asked = process.hrtime.bigint() / 1000n
    writeFileSync(go, '')
    t.match((await manager.next()).said, { READY: '1', STATUS: 'serving; reloaded' })
    const { said } = await manager.next()
    t.match(said, { RELOADING: '1' })
    t.ok(BigInt(said['MONOTONIC_USEC'] ?? 0) > asked, 'later than systemd’s last request')
    t.match((await manager.next()).said, { READY: '1', STATUS: 'serving; reloaded' })
    t.equal((await masterStatus(t, broker)).master.reloads, 2)

    await startBackend(t, broker)
    t.equal((await early.get()).status, 200)
    early.socket.destroy()
    await stops(t, broker, manager)
  },
)

/** A Unix socket besides the port: a client can connect before the test knows the port. */
function withLocal(path: string): Record<string, unknown> {
  return {
    listeners: [
      { name: 'web', listen: '127.0.0.1:0', service: 'web' },
      { name: 'local', listen: `unix:${path}`, service: 'web' },
    ],
  }
}

async function stops(t: Test, broker: Broker, manager: Manager): Promise<void> {
  broker.program.kill('SIGTERM')
  t.same((await manager.next()).said, { STOPPING: '1', STATUS: 'draining' })
  t.match((await manager.next()).said, { EXTEND_TIMEOUT_USEC: '15000000' })
  t.match(await broker.program.exited, { code: 0 })
}

void t.test('the watchdog is notified while the worker is alive', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const name = join(folder, 'notify')
  const manager = await Manager.start(t, name)
  const broker = await startWatched(t, folder, name, '$$')

  const ticks = [await manager.tick(), await manager.tick(), await manager.tick()]
  for (const { pid } of ticks) t.equal(pid, broker.program.pid)
  const apart = (ticks[2]?.at ?? 0) - (ticks[1]?.at ?? 0)
  t.ok(apart < WATCHDOG * 1000, `${apart} us between two, of ${WATCHDOG} ms`)

  t.match(await reload(t, broker), { success: true })
  const after = now()
  while ((await manager.tick()).at < after);
  t.pass('it continues in the new program')

  const worker = await onlyWorker(t, broker)
  signal(worker, 'SIGSTOP')
  await eventually(() => manager.silence() > 1.5 * WATCHDOG, 'silence: systemd would have ended it')
  const stuck = now()
  signal(worker, 'SIGCONT')
  while ((await manager.tick()).at < stuck);
  t.pass('and again when the worker continues')

  broker.program.kill('SIGTERM')
  await broker.program.exited
})

void t.test('the watchdog of another process is not served', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const name = join(folder, 'notify')
  const manager = await Manager.start(t, name)
  const broker = await startWatched(t, folder, name, '1')
  t.match(await reload(t, broker), { success: true })
  broker.program.kill('SIGTERM')
  await broker.program.exited
  t.notOk(manager.all.some(({ said }) => said['WATCHDOG'] !== undefined))
})

/** With a watchdog. `pid` is a shell word, and `$$` the broker's own pid. */
async function startWatched(t: Test, folder: string, name: string, pid: string): Promise<Broker> {
  // Otherwise the master would replace the worker before the watchdog noticed.
  const configFile = writeConfig(folder, { workerTimeout: '1h' })
  const command = `WATCHDOG_PID=${pid} exec "$0" "$@"`
  const args = ['-c', command, process.execPath, batonCommand, 'start', '--config', configFile]
  const env = { NOTIFY_SOCKET: name, WATCHDOG_USEC: String(WATCHDOG * 1000) }
  const program = new Program(t, 'sh', args, { env, group: true })
  return new Broker(program, folder, configFile, await program.message('accepting connections'))
}

function writeConfig(folder: string, more: Record<string, unknown>): string {
  const configFile = join(folder, 'baton.json')
  const config = {
    runtimeDir: join(folder, 'run'),
    admin: { listen: '127.0.0.1:0' },
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
    services: { web: {} },
    ...more,
  }
  writeFileSync(configFile, JSON.stringify(config))
  return configFile
}

void t.test('an unreachable manager is logged once', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { env: { NOTIFY_SOCKET: join(temporaryFolder(t), 'missing') } })
  writeFileSync(broker.configFile, '{')
  t.match(await reload(t, broker), { success: false })
  broker.program.kill('SIGTERM')
  t.match(await broker.program.exited, { code: 0 })
  const said = broker.program.messages().filter(({ msg }) => msg === 'cannot notify the service manager')
  t.match(said, [{ level: 40, err: { code: 'ENOENT' } }])
})

/** A manager that keeps its sockets open, and starts a broker with them. */
class Activation {
  readonly program: Program
  readonly #folder: string
  readonly #configFile: string
  #ports: Record<string, number> = {}
  #starts = 0

  constructor(
    t: Test,
    folder: string,
    sockets: readonly Record<string, string>[],
    config: Record<string, unknown>,
    env?: NodeJS.ProcessEnv,
  ) {
    this.#folder = folder
    this.#configFile = writeConfig(folder, config)
    const manager = join(root, 'test/programs/socket-manager.py')
    const command = [process.execPath, batonCommand, 'start', '--config', this.#configFile]
    const args = [manager, JSON.stringify(sockets), ...command]
    this.program = new Program(t, 'python3', args, { group: true, ...(env && { env }) })
  }

  async bound(): Promise<Record<string, number>> {
    this.#ports = (await this.program.message('bound'))['ports'] as Record<string, number>
    return this.#ports
  }

  /** @returns the broker, and its master's pid */
  async start(listenPid = 'own'): Promise<[Broker, number]> {
    this.#starts += 1
    this.program.child.stdin?.write(`${listenPid}\n`)
    const started = await this.#nth('started')
    return [
      new Broker(this.program, this.#folder, this.#configFile, await this.#nth('accepting connections')),
      Number(started['pid']),
    ]
  }

  async ended(): Promise<number> {
    return Number((await this.#nth('ended'))['code'])
  }

  /** The message of the current start. */
  async #nth(msg: string): Promise<Record<string, unknown>> {
    const those = () => this.program.messages().filter((message) => message['msg'] === msg)
    await this.program.line(() => those().length >= this.#starts, msg)
    return those()[this.#starts - 1] as Record<string, unknown>
  }
}

void t.test(
  'sockets of the manager are used, and their clients wait through a restart',
  { timeout: LIMIT },
  async (t) => {
    const folder = temporaryFolder(t)
    const path = join(folder, 'local.sock')
    const activation = new Activation(
      t,
      folder,
      [
        { name: 'unknown', unix: path },
        { name: 'admin', tcp: '127.0.0.1' },
        { name: 'web', tcp: '127.0.0.1' },
      ],
      {
        admin: { listen: '127.0.0.1:9' },
        listeners: [
          { name: 'web', listen: '127.0.0.1:0', service: 'web' },
          { name: 'local', listen: `unix:${path}`, service: 'web' },
        ],
      },
    )
    const ports = await activation.bound()
    const early = [
      await Client.open(t, { host: '127.0.0.1', port: ports['web'] as number }),
      await Client.open(t, { path }),
    ]
    const [broker, master] = await activation.start()
    t.equal(broker.port(), ports['web'], 'by its name')
    t.equal(broker.admin, `http://127.0.0.1:${ports['admin']}`)
    const backend = await startBackend(t, broker)
    for (const client of early) t.equal((await client.get()).status, 200, 'connected before the start')
    for (const client of early) client.socket.destroy()

    const workerBefore = await onlyWorker(t, broker)
    t.match(await reload(t, broker), { success: true })
    t.not(await onlyWorker(t, broker), workerBefore)
    await broker.backends(1)
    for (const where of [{ host: '127.0.0.1', port: broker.port() }, { path }]) {
      const client = await Client.open(t, where)
      t.equal((await client.get()).status, 200, 'the sockets cross a reload')
      client.socket.destroy()
    }

    signal(master, 'SIGTERM')
    t.equal(await activation.ended(), 0)
    t.ok(existsSync(path), 'the name is the manager’s to take away')
    const waiting = [
      await Client.open(t, { host: '127.0.0.1', port: broker.port() }),
      await Client.open(t, { path }),
    ]
    const [next] = await activation.start()
    t.equal(next.port(), broker.port())
    t.ok(backend.running, 'and registers again by itself')
    for (const client of waiting)
      t.equal((await client.get()).status, 200, 'connected while there was no broker')
    t.notOk(activation.program.messages().some(({ level }) => Number(level) >= 50))
  },
)

void t.test('sockets that match no listener are closed and named', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const sockets = [
    { name: 'datagram', udp: '127.0.0.1' },
    { name: 'else', tcp: '127.0.0.1' },
    // Without a token the admin server accepts this host only.
    { name: 'admin', tcp: '0.0.0.0' },
  ]
  const activation = new Activation(t, folder, sockets, {})
  const ports = await activation.bound()
  const [broker, master] = await activation.start()
  t.not(broker.port(), ports['else'])
  t.equal((await fetch(`${broker.admin}/healthz`)).status, 200)
  t.not(new URL(broker.admin).port, String(ports['admin']))
  await activation.program.line((line) => line.includes('"admin","address":"0.0.0.0'), 'the last of them')
  const warnings = activation.program.messages().filter(({ level }) => level === 40)
  t.match(
    warnings.map(({ name, msg }) => [name, msg]),
    [
      ['datagram', /not a listening stream; closed/],
      ['else', /matches no listener; closed/],
      ['admin', /matches no listener; closed/],
    ],
  )
  signal(master, 'SIGTERM')
  t.equal(await activation.ended(), 0)
})

void t.test('no child has a variable of the manager’s, or its sockets', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const name = join(folder, 'notify')
  const manager = await Manager.start(t, name)
  const printed = join(folder, 'environment')
  // Written completely, then renamed.
  const script = `env > ${printed}.part; ls -l /proc/self/fd >> ${printed}.part; mv ${printed}.part ${printed}; exec sleep 60`
  const activation = new Activation(
    t,
    folder,
    [{ name: 'web', tcp: '127.0.0.1' }],
    { services: { web: { command: ['sh', '-c', script] } } },
    { NOTIFY_SOCKET: name, WATCHDOG_USEC: '60000000', WATCHDOG_PID: '1' },
  )
  const ports = await activation.bound()
  const [broker, master] = await activation.start()
  t.equal(broker.port(), ports['web'])
  t.match((await manager.next()).said, { READY: '1' })
  await eventually(() => existsSync(printed), 'the backend ran')
  t.same(managersVariables(readFileSync(printed, 'utf8'), '\n'), [])
  t.match(readFileSync(printed, 'utf8'), /^BATON_SERVICE=web$/m)
  const held = readFileSync(printed, 'utf8').match(/socket:\[\d+\]/g) ?? []
  const given = otherSocketsOf(activation.program.pid)
  t.equal(given.length, 1)
  t.notOk(held.some((socket) => given.includes(socket)))
  t.same(managersVariables(readFileSync(`/proc/${broker.pid}/environ`, 'utf8'), '\0'), [])

  t.match(await reload(t, broker), { success: true })
  t.match((await manager.next()).said, { RELOADING: '1' })
  t.match((await manager.next()).said, { READY: '1' }, 'but the surviving program knows the manager')
  const worker = await onlyWorker(t, broker)
  t.same(managersVariables(readFileSync(`/proc/${worker}/environ`, 'utf8'), '\0'), [])
  signal(master, 'SIGTERM')
  t.equal(await activation.ended(), 0)
})

void t.test('sockets that are meant for another process are left alone', { timeout: LIMIT }, async (t) => {
  const activation = new Activation(t, temporaryFolder(t), [{ name: 'web', tcp: '127.0.0.1' }], {})
  const ports = await activation.bound()
  const [broker, master] = await activation.start('1')
  t.not(broker.port(), ports['web'])
  signal(master, 'SIGTERM')
  t.equal(await activation.ended(), 0)
})

const units = join(root, 'examples/systemd')
/** `systemd 252 (252.38-1~deb12u1)`; undefined if it is not installed. */
const [, version] =
  /^systemd (\d+)/.exec(spawnSync('systemd-analyze', ['--version']).stdout?.toString() ?? '') ?? []

void t.test(
  'systemd finds nothing wrong with the example units',
  { skip: version === undefined && 'needs systemd-analyze' },
  async (t) => {
    const folder = temporaryFolder(t)
    const service = readFileSync(join(units, 'baton.service'), 'utf8')
    const command = join(root, 'packages/broker/bin/baton.js')
    // As the comment for older versions says.
    const older = service.replace(/^#(?=Type=|ExecReload=)/gm, '').replace(/^Type=notify-reload\n/m, '')
    t.match(older, /^Type=notify\nExecReload=/m)
    const suits = Number(version) < 253 ? [older] : [older, service]
    for (const text of suits) {
      writeFileSync(join(folder, 'baton.service'), text.replaceAll('/usr/local/bin/baton', command))
      writeFileSync(join(folder, 'baton.socket'), readFileSync(join(units, 'baton.socket')))
      const files = ['baton.service', 'baton.socket'].map((file) => join(folder, file))
      const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...files])
      // It also checks units of the host.
      const complaints = `${stdout.toString()}${stderr.toString()}`
        .split('\n')
        .filter((line) => line.includes('baton'))
      t.same(complaints, [])
      t.equal(status, 0)
    }
  },
)

/** Settings of a unit. */
function settingsOf(text: string): Map<string | undefined, string | undefined> {
  return new Map([...text.matchAll(/^(\w+)=(.*)$/gm)].map(([, key, value]) => [key, value]))
}

const isWithoutSystemd = { skip: version === undefined && 'needs systemd-analyze' }

void t.test('baton systemd prints a unit that systemd accepts', isWithoutSystemd, async (t) => {
  const folder = temporaryFolder(t)
  const configFile = join(folder, 'a 100% $name.json')
  const services = { web: { maxHeld: 100_000 } }
  const web = { name: 'web', listen: '0.0.0.0:80', protocol: 'http', service: 'web' }
  const path = { name: 'path', listen: `unix:${folder}/sockets/path.sock`, protocol: 'http', service: 'web' }
  const config = { runtimeDir: '/run/baton', listeners: [web, path], services, workerTimeout: '1m' }
  writeFileSync(configFile, JSON.stringify(config))
  const { code, out, err } = await batonHere('systemd', '--config', configFile, '--user', 'root')
  t.same({ code, err }, { code: 0, err: [] })
  writeFileSync(join(folder, 'baton.service'), `${out.join('\n')}\n`)
  const verified = spawnSync('systemd-analyze', ['verify', '--man=no', join(folder, 'baton.service')])
  const complaints = `${verified.stdout.toString()}${verified.stderr.toString()}`
    .split('\n')
    .filter((line) => line.includes('baton'))
  t.same(complaints, [])
  t.equal(verified.status, 0)
  const settings = settingsOf(out.join('\n'))
  t.equal(settings.get('Type'), Number(version) < 253 ? 'notify' : 'notify-reload')
  t.match(settings.get('ExecStart'), /^\/\S+ \S+ start --config "\/\S+\/a 100%% \$\$name\.json"$/)
  t.equal(settings.get('WatchdogSec'), '120')
  t.equal(settings.get('LimitNOFILE'), '262144')
  t.equal(settings.get('ReadWritePaths'), join(folder, 'sockets'))
  t.equal(settings.get('AmbientCapabilities'), 'CAP_NET_BIND_SERVICE')
})

void t.test('the printed unit has the settings of the example', async (t) => {
  const file = join(units, 'baton.json')
  const example = settingsOf(readFileSync(join(units, 'baton.service'), 'utf8'))
  const printed = async (of: string) =>
    settingsOf(
      (await batonHere('systemd', '--config', file, '--user', 'baton', '--for-version', of)).out.join('\n'),
    )
  const unit = await printed('254')
  const own = ['ExecStart', 'Wants', 'After', 'Group']
  const others = [...example].filter(([key]) => !own.includes(key ?? ''))
  t.same(Object.fromEntries(others.map(([key]) => [key, unit.get(key)])), Object.fromEntries(others))
  t.equal(unit.get('FileDescriptorStorePreserve'), 'restart')
  const older = await printed('252')
  t.equal(older.get('Type'), 'notify')
  t.match(older.get('ExecReload'), / reload --config /)
  t.notOk(older.has('FileDescriptorStorePreserve'))
  t.equal((await printed('253')).get('Type'), 'notify-reload')
  const wrong = await batonHere('systemd', '--config', file, '--for-version', 'new')
  t.equal(wrong.code, 2)
  t.match(wrong.err[0], /^baton: --for-version: "new" is not a version of systemd/)
})

void t.test('a runtimeDir outside of /run is named, and stays writable', async (t) => {
  const folder = temporaryFolder(t)
  const configFile = join(folder, 'baton.json')
  const listeners = [{ name: 'web', listen: '127.0.0.1:8080', protocol: 'http', service: 'web' }]
  writeFileSync(configFile, JSON.stringify({ runtimeDir: '/srv/app/run', listeners, services: { web: {} } }))
  const { out, err } = await batonHere('systemd', '--config', configFile)
  t.match(err, [/^baton: runtimeDir is \/srv\/app\/run; under systemd, /])
  const settings = settingsOf(out.join('\n'))
  t.equal(settings.get('ReadWritePaths'), '/srv/app')
  t.equal(settings.get('CapabilityBoundingSet'), '')
  t.notOk(settings.has('RuntimeDirectory'))
})

void t.test('the example units and their configuration fit each other', async (t) => {
  const keysOf = (file: string) => settingsOf(readFileSync(join(units, file), 'utf8'))
  const config = JSON.parse(readFileSync(join(units, 'baton.json'), 'utf8')) as {
    runtimeDir: string
    listeners: { name: string; listen: string }[]
  }
  const socket = keysOf('baton.socket')
  t.equal(socket.get('FileDescriptorName'), config.listeners[0]?.name)
  t.equal(`[::]:${socket.get('ListenStream')}`, config.listeners[0]?.listen)
  t.equal(`/run/${keysOf('baton.service').get('RuntimeDirectory')}`, config.runtimeDir)
  const check = spawnSync(process.execPath, [batonCommand, 'check', '--config', join(units, 'baton.json')])
  t.equal(check.status, 0, check.stderr.toString())
})
