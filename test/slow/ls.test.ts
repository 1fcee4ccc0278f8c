import { chownSync, mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { AppRun } from '../support/app-run.ts'
import { batonCommand, type Broker, startBroker } from '../support/broker.ts'
import { baton, batonHere } from '../support/command.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { onlyWorker } from '../support/operator.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { signal } from '../support/signal.ts'

// `baton ls` finds every broker of this user. Others may run beside this test, so it looks for its own.

interface Listed {
  readonly config: string
  readonly kind: string
  readonly runtimeDir: string
  readonly state: string
  readonly pid: number | null
  readonly worker: number | null
  readonly startedAt: string
  readonly version: string
  readonly listeners: readonly { name: string; address: string }[]
  readonly services: readonly { name: string; backends: number; ready: number }[]
  readonly connections: number
}

async function list(): Promise<Listed[]> {
  const { code, out, err } = await batonHere('ls', '--json')
  if (code !== 0 || err.length > 0) throw new Error(err.join('\n'))
  return JSON.parse(out.join('\n')) as Listed[]
}

async function listed({ folder }: Broker): Promise<Listed | undefined> {
  return (await list()).find(({ runtimeDir }) => runtimeDir === join(folder, 'run'))
}

const command = [process.execPath, join(root, 'test/programs/http-backend.mjs')]
const listener = (name: string) => ({ name, listen: '127.0.0.1:0', protocol: 'http', service: name })

async function startTwo(t: Test): Promise<Broker> {
  const broker = await startBroker(t, {
    config: {
      listeners: [listener('web'), listener('api')],
      services: { web: { command, instances: 2 }, api: {} },
    },
  })
  await broker.backends(2)
  return broker
}

void t.test('every broker of this user is found, from any folder', { timeout: LIMIT }, async (t) => {
  const broker = await startTwo(t)
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  client.request('/')
  await client.answer()
  await eventually(async () => (await listed(broker))?.connections === 1, 'the connection is counted')

  await t.test('baton start, as JSON', async (t) => {
    const found = await listed(broker)
    t.match(found, {
      config: broker.configFile,
      kind: 'start',
      state: 'running',
      pid: broker.program.pid,
      worker: broker.pid,
      listeners: [
        { name: 'web', address: broker.address() },
        { name: 'api', address: broker.address('api') },
      ],
      services: [
        { name: 'web', backends: 2, ready: 2 },
        { name: 'api', backends: 0, ready: 0 },
      ],
    })
    t.ok(Date.parse(found?.startedAt ?? '') <= Date.now())
    t.match(found?.version, /^\d+\.\d+\.\d+/)
  })

  await t.test('baton run in another folder, as text', async (t) => {
    const file = join(temporaryFolder(t), 'app.mjs')
    writeFileSync(file, `import http from 'node:http'; http.createServer().listen(${await freePort()})`)
    const run = new AppRun(t, { command: [process.execPath, file], cwd: temporaryFolder(t) })
    await run.serving(1)
    const config = await run.configFile()
    const { code, out, err } = await baton(t, ['ls'], { cwd: '/' })
    t.same({ code, err }, { code: 0, err: [] })
    t.match(out[0], /^CONFIG +KIND +STATE +PID +UPTIME +LISTENERS +SERVICES +READY +CONNECTIONS +VERSION$/)
    const lines = out.filter((line) => line.startsWith(config) || line.startsWith(broker.configFile))
    t.equal(lines.length, 2)
    t.match(
      lines.find((line) => line.startsWith(config)),
      / run +running +\d+ +\d+s .* app +1\/1 +0 /,
    )
    const own = lines.find((line) => line.startsWith(broker.configFile))
    t.match(own, new RegExp(` start +running +${broker.program.pid} .* web, api +2/2 +1 `))
    signal(run.program.pid, 'SIGTERM')
    await run.program.exited
    t.notOk(
      (await list()).some((each) => each.config === config),
      'when it has ended, it is gone',
    )
  })

  await t.test('a socket of another user is not asked', { skip: process.getuid?.() !== 0 }, async (t) => {
    const folder = join(temporaryFolder(t), 'run')
    mkdirSync(folder)
    let asked = 0
    for (const name of ['master.sock', 'control.sock']) {
      const server = createServer((socket) => {
        asked += 1
        socket.end('{"master":null,"managed":[],"workers":[]}\n')
      })
      await new Promise<void>((resolve) => server.listen(join(folder, name), resolve))
      t.teardown(() => server.close())
    }
    t.ok(
      (await list()).some(({ runtimeDir }) => runtimeDir === folder),
      'one of this user is',
    )
    t.equal(asked, 1)
    chownSync(folder, 65_534, 65_534)
    t.notOk((await list()).some(({ runtimeDir }) => runtimeDir === folder))
    t.equal(asked, 1)
  })

  await t.test('a broker that is stopped', async (t) => {
    signal(broker.program.pid, 'SIGSTOP')
    t.match(await listed(broker), { state: 'not-answering', config: null, pid: null })
    signal(broker.program.pid, 'SIGCONT')
    t.match(await listed(broker), { state: 'running' })
  })

  await t.test('a worker whose master was killed, and the next master', async (t) => {
    broker.program.kill('SIGKILL')
    await eventually(async () => (await listed(broker))?.state === 'no-master', 'the worker answers')
    t.match(await listed(broker), {
      config: broker.configFile,
      pid: null,
      worker: broker.pid,
      services: [
        { name: 'web', backends: 2, ready: 2 },
        { name: 'api', backends: 0 },
      ],
      listeners: [{ address: broker.address() }, { address: broker.address('api') }],
      connections: 1,
    })
    const { out } = await batonHere('ls')
    t.match(
      out.find((line) => line.startsWith(broker.configFile)),
      new RegExp(` start +no master +worker ${broker.pid} `),
    )
    const next = new Program(t, process.execPath, [batonCommand, 'start', '--config', broker.configFile], {
      group: true,
    })
    await next.line((line) => line.includes('reloaded'), 'it has taken over')
    const worker = await onlyWorker(t, broker)
    t.match(await listed(broker), { state: 'running', pid: next.pid, worker })
    // Both die: the sockets stay behind, and no process listens on them.
    next.kill('SIGKILL')
    signal(worker, 'SIGKILL')
    await eventually(async () => (await listed(broker)) === undefined, 'what is dead is not listed')
  })
})

void t.test('bad input', async (t) => {
  t.match(await batonHere('ls', 'web'), { code: 2, err: [/unexpected argument "web"/] })
})
