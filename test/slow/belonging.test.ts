import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { AppRun } from '../support/app-run.ts'
import { batonCommand, type Broker, startBroker } from '../support/broker.ts'
import { behind, program } from '../support/commands.ts'
import { eventually } from '../support/eventually.ts'
import { FalseBackend, hello } from '../support/false-backend.ts'
import { freePort } from '../support/free-port.ts'
import { starts } from '../support/limits.ts'
import { configure, logged, logs, masterStatus, onlyWorker, reload } from '../support/operator.ts'
import { inSession } from '../support/proc.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { exists, signal } from '../support/signal.ts'
import { visit } from '../support/visit.ts'
import { NOBODY, onlyAsRoot } from '../support/other-user.ts'

// Which processes belong together: the slow cases. `test/belonging.test.ts` and `test/orphans.test.ts` have the fast ones.

async function started(broker: Broker, count: number): Promise<number[]> {
  const pids = () => broker.program.messages().filter(({ msg }) => msg === 'backend process started')
  await eventually(() => pids().length >= count, `${count} processes started`)
  return pids().map(({ peerPid }) => Number(peerPid))
}

async function haveEnded(leaders: readonly number[]): Promise<void> {
  const left = () => leaders.flatMap((pid) => inSession(pid))
  await eventually(
    () => left().length === 0,
    () => `${left().join(', ')} still there`,
    starts(20),
  )
}

void t.test(
  'a master that is killed some time after it started a backend',
  { timeout: starts(60) },
  async (t) => {
    for (const delay of [0, 150, 300, 600, 1000]) {
      const commands = {
        direct: program(),
        shell: behind.shell(program()),
        closing: behind.closing(program()),
      }
      const services = Object.entries(commands).map(([name, command]) => [name, { command }])
      const broker = await startBroker(t, {
        config: { services: { web: {}, ...Object.fromEntries(services) } },
      })
      const pids = await started(broker, 3)
      await new Promise((resolve) => setTimeout(resolve, delay))
      await broker.die()
      await haveEnded(pids)
      t.pass(`${delay} ms`)
    }
  },
)

// `baton run` puts its preload into every Node process below it: those that serve no clients end as well.
void t.test('processes under `baton run` end with its master', { timeout: starts(60) }, async (t) => {
  const folder = temporaryFolder(t)
  const port = await freePort()
  writeFileSync(
    join(folder, 'server.mjs'),
    `import { spawn } from 'node:child_process'
    import http from 'node:http'
    // A helper of the app, which may live as long as the app answers.
    spawn(process.execPath, ['-e', 'setInterval(() => {}, 60_000)'], { stdio: 'inherit' })
    http.createServer((_, response) => response.end('served')).listen(${port})`,
  )
  const kinds = {
    npm: behind.npm([process.execPath, join(folder, 'server.mjs')], folder),
    loader: behind.loader([process.execPath, join(folder, 'server.mjs')]),
    silent: [process.execPath, '-e', 'console.log("up"); setInterval(() => {}, 60_000)'],
  }
  for (const [name, command] of Object.entries(kinds)) {
    const run = new AppRun(t, {
      command,
      cwd: folder,
      // Otherwise npm would leave compiled modules in the temporary folder.
      env: { NODE_DISABLE_COMPILE_CACHE: '1' },
    })
    if (name === 'silent') await run.program.line((line) => line.endsWith('| up'), 'that it runs')
    else await run.serving(1)
    const processes = run.processes()
    t.ok(processes.length >= (name === 'silent' ? 2 : 3), processes.join())
    signal(run.program.pid, 'SIGKILL')
    await eventually(
      () => !processes.some(exists),
      () => `${processes.filter(exists).join()} still there`,
      starts(20),
    )
  }
})

void t.test('a backend left behind by another master', { timeout: starts(60) }, async (t) => {
  // Like an older SDK below a shell: it cannot see its master.
  const blind = ['env', '-u', 'BATON_MASTER_START', '-u', 'BATON_MASTER_LIFELINE', ...program()]
  const command = behind.shell(blind)
  const runtimeDir = join(temporaryFolder(t), 'run')
  const services = { web: { command, minHealthy: '0s' } }
  const first = await startBroker(t, { config: { runtimeDir, services } })
  const stale = (await first.backends(1)).services[0]?.backends[0]?.pid ?? 0
  t.teardown(() => {
    if (exists(stale)) signal(stale, 'SIGKILL')
  })
  await first.die()

  const second = await startBroker(t, { config: { runtimeDir, services } })
  const refused = (line: string) =>
    line.includes('"registration refused"') && line.includes(`"peerPid":${stale},`)
  t.match(await second.program.line(refused, 'the refusal'), /"code":"NotManaged"/)
  const served = async () => {
    const client = await visit(t, second)
    const { headers } = await client.answer()
    client.socket.destroy()
    return Number(headers['x-pid'])
  }
  const own = (await second.backends(1)).services[0]?.backends[0]?.pid
  for (let each = 0; each < 4; each++) t.equal(await served(), own)
  const deploy = new Program(t, process.execPath, [
    batonCommand,
    'deploy',
    'web',
    '--config',
    second.configFile,
  ])
  t.match(await deploy.exited, { code: 0 }, deploy.lines.join('\n'))
  t.not(await served(), stale)
  t.ok(exists(stale), 'it continues, and serves no client')
  // SIGTERM, because its backends would not notice any other end.
  second.program.kill('SIGTERM')
  t.match(await second.program.exited, { code: 0 })
})

void t.test('an id, while its worker is gone', { timeout: starts(60) }, async (t) => {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o711)
  const broker = await startBroker(t, {
    config: {
      runtimeDir: join(folder, 'run'),
      security: { allowUids: [process.getuid?.() ?? 0, NOBODY] },
      services: { web: { command: program() }, open: {} },
    },
  })
  const { control } = broker
  const victim = new Program(t, ...commandOf(program()), {
    env: { BATON_SOCKET: control, BATON_SERVICE: 'open' },
  })
  const { id } = await victim.message('ready')
  const { services } = await broker.backends(1)
  const managed = services.find(({ name }) => name === 'web')?.backends[0]
  const killWorker = async () => {
    const before = logged(broker, 'accepting connections')
    signal(await onlyWorker(t, broker), 'SIGKILL')
    await logs(broker, 'accepting connections', before + 1)
  }
  const thieves = async (what: string) => {
    const thief = await FalseBackend.register(t, control, hello('open', { backend: String(id) }))
    t.not(thief.welcome.backend, id, `another process of the same user, ${what}`)
    thief.die()
  }

  signal(victim.pid, 'SIGSTOP')
  if (managed !== undefined) signal(managed.pid, 'SIGSTOP')
  await killWorker()
  await thieves('after one death')
  await t.test('another user', onlyAsRoot, async (t) => {
    const folder = temporaryFolder(t)
    chmodSync(folder, 0o777)
    for (const [service, claimed] of [
      ['open', String(id)],
      ['web', String(managed?.id)],
    ] as const) {
      const thief = new Program(t, process.execPath, [join(root, 'test/programs/listening-backend.mjs')], {
        env: { BATON_SOCKET: control, BATON_SERVICE: service, BATON_BACKEND_ID: claimed, TMPDIR: folder },
        uid: NOBODY,
      })
      if (service === 'web') t.match(await thief.message('not ready'), { reason: 'NotManaged' })
      else t.not((await thief.message('ready'))['id'], claimed)
      thief.kill('SIGKILL')
      await thief.exited
    }
  })
  await killWorker()
  await thieves('after two')
  t.match(await reload(t, broker), { success: true })
  await thieves('after a reload')
  signal(victim.pid, 'SIGCONT')
  if (managed !== undefined) signal(managed.pid, 'SIGCONT')
  const whole = await broker.backends(1, 'open')
  t.match(whole.services.find(({ name }) => name === 'open')?.backends, [{ id, pid: victim.pid }])
  const own = await broker.backends(1)
  t.match(own.services.find(({ name }) => name === 'web')?.backends, [
    managed && { id: managed.id, pid: managed.pid },
  ])
})

void t.test('backends that a deploy did not replace', { timeout: starts(60) }, async (t) => {
  const beside = (left: string) => {
    const [node, file] = program(left)
    // In its own session, which signals to the app's group do not reach.
    return ['sh', '-c', `setsid "${node}" "${file}" & exec ${program().join(' ')}`]
  }
  const service = (command: string[]) => ({ command, minHealthy: '0s' })
  const broker = await startBroker(t, {
    config: {
      drainDeadline: '1s',
      services: {
        web: {},
        good: service(beside('http-backend.mjs')),
        bad: service(beside('stubborn-backend.mjs')),
      },
    },
  })
  const deploy = async (name: string) => {
    const command = [batonCommand, 'deploy', name, '--config', broker.configFile]
    const deployed = new Program(t, process.execPath, command)
    return { ...(await deployed.exited), text: deployed.lines.join('\n') }
  }
  /** The process that has left its instance's session. */
  const left = async (name: string) => {
    const found = (status: Awaited<ReturnType<typeof broker.status>>) =>
      status.services.find((each) => each.name === name)?.backends ?? []
    const status = await broker.until((each) => found(each).length === 2, `two backends of ${name}`)
    const { managed } = await masterStatus(t, broker)
    const instance = managed.find((each) => each.instance === `${name}.1`)
    const one = found(status).find(({ pid }) => pid !== instance?.pid)
    if (one === undefined) throw new Error('there is none')
    t.teardown(() => {
      if (exists(one.pid)) signal(one.pid, 'SIGKILL')
    })
    return one
  }

  await t.test('are drained, and awaited', async (t) => {
    const { pid } = await left('good')
    configure(broker, {
      services: { web: {}, good: service(program()), bad: service(beside('stubborn-backend.mjs')) },
    })
    t.match(await reload(t, broker), { success: true })
    t.match(await deploy('good'), { code: 0 })
    await broker.until(
      ({ services }) => services.find(({ name }) => name === 'good')?.backends.length === 1,
      'only the new one is left',
    )
    t.notOk(exists(pid))
  })

  await t.test('and fail the deploy if they do not leave', async (t) => {
    const { pid, id } = await left('bad')
    const { code, text } = await deploy('bad')
    t.equal(code, 1)
    t.match(text, `bad still has backends that this deploy did not replace: `)
    t.match(text, `(pid ${pid}, backend ${id})`)
    t.match(text, 'every instance runs the new version')
  })

  // Backends next to the new instances outlive the broker.
  const { services } = await broker.status()
  for (const { pid } of services.flatMap(({ backends }) => backends)) signal(pid, 'SIGKILL')
})

void t.test(
  'a replaced process that registers again is drained immediately',
  { timeout: starts(60) },
  async (t) => {
    const service = (command: string[]) => ({ web: { command, minHealthy: '0s' } })
    const broker = await startBroker(t, {
      config: { drainDeadline: '10m', services: service(program('stubborn-backend.mjs')) },
    })
    const [old = 0] = await started(broker, 1)
    await broker.until(({ services }) => services[0]?.backends.length === 1, 'it has registered')
    configure(broker, { services: service(program()) })
    t.match(await reload(t, broker), { success: true })
    const deploy = new Program(t, process.execPath, [
      batonCommand,
      'deploy',
      'web',
      '--config',
      broker.configFile,
    ])
    await deploy.line((line) => line.startsWith('draining web.1'), 'that the new one has taken over')
    const before = logged(broker, 'accepting connections')
    signal(await onlyWorker(t, broker), 'SIGKILL')
    await logs(broker, 'accepting connections', before + 1)
    await broker.until(
      ({ services }) =>
        services[0]?.backends.length === 2 &&
        services[0].backends.every(({ pid, state }) => (pid === old) === (state === 'draining')),
      'the old one drains again, and the new one is ready',
    )
    await logs(broker, 'draining backend')
    signal(old, 'SIGKILL')
    t.match(await deploy.exited, { code: 0 }, deploy.lines.join('\n'))
  },
)

function commandOf([file = '', ...args]: readonly string[]): [string, string[]] {
  return [file, args]
}
