import { spawnSync } from 'node:child_process'
import {
  appendFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { AppRun, ask } from '../support/app-run.ts'
import { startBackend } from '../support/backend.ts'
import { startBroker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { servedBy } from '../support/visit.ts'
import { root, temporaryFolder } from '../support/process.ts'
import { signal } from '../support/signal.ts'

// A cleaner removes whole folders from the temporary folder: that of `baton run`, and that of a backend.

void t.test('baton run: the folder with its configuration and sockets', { timeout: LIMIT }, async (t) => {
  const port = await freePort()
  const run = await new AppRun(t, {
    command: [process.execPath, join(root, 'test/apps/http.mjs')],
    env: { PORT: String(port) },
  }).serving(1)
  const url = `http://127.0.0.1:${port}/`
  const pidOf = async () => Number((await ask(url)).body.split(' ')[0])
  const pid = await pidOf()
  const file = await run.configFile()
  const restored = () => run.program.lines.filter((line) => line.includes(`path=${file}`)).length

  for (let time = 1; time <= 2; time++) {
    rmSync(dirname(file), { recursive: true })
    await eventually(() => restored() === time, 'the configuration is written again')
    t.equal(statSync(dirname(file)).mode & 0o777, 0o700)
  }
  const listeners = await run.listeners()
  t.match(listeners, [{ listen: `[::]:${port}` }], 'with the app’s requests since then')

  signal(pid, 'SIGKILL')
  // The new process asks the master for its port, and registers.
  await run.serving(2)
  t.not(await pidOf(), pid)
  const deploy = await run.deploy()
  t.equal((await deploy.exited).code, 0, deploy.lines.join('\n'))

  truncateSync(file)
  await eventually(() => restored() === 3, 'an empty file is none')

  run.program.kill('SIGTERM')
  t.equal((await run.program.exited).code, 0)
  t.notOk(existsSync(dirname(file)))
})

// The part of the file written before the disk was full was taken for the whole: no command could be sent any longer.
const asRoot = { timeout: LIMIT, skip: process.getuid?.() !== 0 && 'needs root' }
void t.test('baton run: the disk is full when the folder is removed', asRoot, async (t) => {
  const disk = temporaryFolder(t)
  const { status, stderr } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', disk])
  t.equal(status, 0, stderr.toString())
  t.teardown(() => spawnSync('umount', ['-l', disk]))
  const run = await new AppRun(t, {
    command: [process.execPath, join(root, 'test/apps/http.mjs')],
    env: { PORT: String(await freePort()) },
    temporary: disk,
  }).serving(1)
  const file = await run.configFile()
  const text = readFileSync(file, 'utf8')
  const ballast = join(disk, 'ballast')
  const full = () => {
    // The folder may have been restored before the ballast filled its space.
    rmSync(dirname(file), { recursive: true, force: true })
    try {
      for (;;) appendFileSync(ballast, Buffer.alloc(4096))
    } catch {
      return run.program.lines.some((line) => line.includes(`${file}: ENOSPC`))
    }
  }
  await eventually(full, 'the file cannot be written')
  rmSync(ballast)
  await eventually(() => existsSync(file) && readFileSync(file, 'utf8') === text, 'it is written as a whole')
  const deploy = await run.deploy()
  t.equal((await deploy.exited).code, 0, deploy.lines.join('\n'))
})

void t.test(
  'the folder of a relay endpoint that is not next to the control socket',
  { timeout: LIMIT },
  async (t) => {
    const folder = temporaryFolder(t)
    const runtimeDir = join(folder, 'd'.repeat(90 - folder.length))
    const broker = await startBroker(t, {
      config: { runtimeDir, services: { web: { handoff: 'off', holdTimeout: '30m' } } },
    })
    const temporary = temporaryFolder(t)
    const backend = await startBackend(t, broker, 'http-backend.mjs', { env: { TMPDIR: temporary } })
    t.equal(await servedBy(t, broker), backend.pid)
    const [own = ''] = readdirSync(temporary).filter((name) => name.startsWith('baton-relay-'))
    t.ok(own)
    rmSync(join(temporary, own), { recursive: true })
    // Held until the endpoint exists again under the path known to the broker. More clients than the failure limit.
    const served = await Promise.all(Array.from({ length: 20 }, () => servedBy(t, broker)))
    t.same(new Set(served), new Set([backend.pid]))
    t.notOk(broker.program.messages().some(({ msg }) => String(msg).startsWith('too many failures')))
    t.equal(statSync(join(temporary, own)).mode & 0o777, 0o700)
    backend.kill('SIGTERM')
    await backend.exited
    t.same(readdirSync(temporary), [], 'and nothing is left')
  },
)
