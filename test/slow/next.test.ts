import { execFile } from 'node:child_process'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { AppRun, ask, Clients, NOTHING_LEFT } from '../support/app-run.ts'
import { freePort } from '../support/free-port.ts'
import { eventually } from '../support/eventually.ts'
import { cleanEnvironment, root, temporaryFolder } from '../support/process.ts'
import { LIMIT } from '../support/limits.ts'

// Next.js's custom server under `baton run`. Separate from the other apps: its 340 MB should not be a dependency of everyone
// who works on Baton, so the test installs it itself.

const run = promisify(execFile)

void t.test('Next.js', { timeout: LIMIT * LIMIT }, async (t) => {
  const folder = join(temporaryFolder(t), 'app')
  cpSync(join(root, 'test/apps/next'), folder, { recursive: true })
  const env = cleanEnvironment({ NODE_ENV: 'production', NEXT_TELEMETRY_DISABLED: '1' })
  const npm = async (...args: string[]) => run('npm', args, { cwd: folder, env })
  await npm('install', '--no-audit', '--no-fund', '--no-package-lock', '--prefer-offline')
  await npm('run', 'build')

  const port = await freePort()
  const app = await new AppRun(t, {
    command: ['node', 'server.cjs'],
    options: ['-i', '2'],
    cwd: folder,
    env: { PORT: String(port), NODE_ENV: 'production', NEXT_TELEMETRY_DISABLED: '1' },
  }).serving(2)

  const url = `http://127.0.0.1:${port}/api/who`
  const answering = async () => {
    const pids = new Set<string>()
    await eventually(
      async () => pids.add((await ask(url)).body.split(' ')[0] ?? '').size === 2,
      () => `two processes answer; there were ${[...pids].join(', ')}`,
    )
    return pids
  }
  t.match((await ask(`http://127.0.0.1:${port}/`)).body, '<h1>Hello, Next.js!</h1>')
  const { body, local } = await ask(url, { agent: false, localAddress: '127.0.0.2' })
  t.ok(body.replace('::ffff:', '').endsWith(` ${local}`), `${body}: the client is ${local}`)
  const before = await answering()

  const clients = new Clients(t, url)
  await clients.more(20)
  const deploy = await app.deploy()
  t.match(await deploy.exited, { code: 0 }, deploy.lines.join('\n'))
  await clients.more(20)
  await clients.stop()
  t.same(clients.failures, [])
  const after = await answering()
  t.same(
    [...after].filter((pid) => before.has(pid)),
    [],
    'all are new',
  )
  t.same(await app.end('SIGTERM'), NOTHING_LEFT)
})
