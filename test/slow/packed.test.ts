import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { read } from '../support/markdown.ts'
import { packAll } from '../support/packed.ts'
import { Program, temporaryFolder } from '../support/process.ts'

// The packages as users install them: from tarballs, in a folder outside the repository. npm fetches their dependencies.

const APP = `
import { createServer } from 'node:http'
createServer((_request, response) => response.end('run')).listen(process.env.PORT)
`

const SDK_APP = `
import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const backend = createBackend({ service: 'web', logger: false })
backend.attach(createServer((request, response) => response.end(backend.connection(request.socket).listener)))
await backend.ready()
console.log('registered')
process.once('SIGTERM', () => void backend.drain())
`

void t.test('the packed packages work without a clone', { timeout: LIMIT * 2 }, async (t) => {
  const folder = temporaryFolder(t)
  const work = join(folder, 'app')
  mkdirSync(work)
  /** As in a shell that npm did not start. */
  const env = {
    ...Object.fromEntries(
      Object.keys(process.env)
        .filter((name) => /^(?:npm_|INIT_CWD$)/.test(name) && name !== 'npm_config_registry')
        .map((name) => [name, undefined]),
    ),
    npm_config_audit: 'false',
    npm_config_fund: 'false',
    npm_config_prefer_offline: 'true',
  }
  const start = (command: string, ...args: string[]) =>
    new Program(t, command, args, { cwd: work, env, group: true })
  const succeeds = async (command: string, ...args: string[]) => {
    const program = start(command, ...args)
    const { code } = await program.exited
    t.equal(code, 0, `${command} ${args.join(' ')}:\n${program.lines.join('\n')}`)
    return program.lines
  }
  const { version } = JSON.parse(read('package.json')) as { version: string }

  await succeeds('npm', 'init', '--yes')
  await succeeds('npm', 'pkg', 'set', 'type=module')
  await succeeds('npm', 'install', ...packAll(folder))
  t.same(await succeeds('npx', 'baton', '--version'), [version])

  await t.test('baton run', async (t) => {
    writeFileSync(join(work, 'server.js'), APP)
    const port = String(await freePort())
    const program = start('env', `PORT=${port}`, 'npx', 'baton', 'run', '--', 'node', 'server.js')
    await program.line((line) => line.startsWith('backend registered '), 'that the app is registered')
    t.equal(await (await fetch(`http://127.0.0.1:${port}/`)).text(), 'run')
    program.kill('SIGTERM')
    await program.exited
  })

  await t.test('baton start, and an app with the SDK', async (t) => {
    const port = await freePort()
    const config = {
      runtimeDir: join(folder, 'run'),
      listeners: [{ name: 'web', listen: `127.0.0.1:${port}`, service: 'web' }],
      services: { web: {} },
    }
    writeFileSync(join(work, 'baton.json'), JSON.stringify(config))
    writeFileSync(join(work, 'app.js'), SDK_APP)
    t.match(await succeeds('npx', 'baton', 'check'), [/^baton\.json: ok/])
    const broker = start('npx', 'baton', 'start')
    await broker.message('accepting connections')
    const app = start('env', `BATON_SOCKET=${join(folder, 'run/control.sock')}`, 'node', 'app.js')
    await app.line((line) => line === 'registered', 'that it is registered')
    t.equal(await (await fetch(`http://127.0.0.1:${port}/`)).text(), 'web')
    app.kill('SIGTERM')
    t.match(await app.exited, { code: 0 }, 'it drains')
    t.match(await succeeds('npx', 'baton', 'stop'), [])
    await broker.exited
  })
})
