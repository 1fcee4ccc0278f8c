import { chmodSync, existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { installedNode } from '../../scripts/node-release.mjs'
import { batonCommand } from '../support/broker.ts'
import { LIMIT } from '../support/limits.ts'
import { Program, temporaryFolder } from '../support/process.ts'

// From Node 22 on, compiled code is kept for the next start.

void t.test('master and worker keep their compiled code', { timeout: LIMIT }, async (t) => {
  const node = join(installedNode('24').bin, 'node')
  const home = temporaryFolder(t)
  chmodSync(home, 0o700)
  const kept = () => {
    const folder = join(home, 'baton')
    return existsSync(folder) ? readdirSync(folder, { recursive: true }).length : 0
  }
  const run = async (t: Test, env: NodeJS.ProcessEnv) => {
    const folder = temporaryFolder(t)
    const file = join(folder, 'baton.json')
    writeFileSync(
      file,
      JSON.stringify({
        runtimeDir: join(folder, 'run'),
        admin: { listen: '127.0.0.1:0' },
        listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
        services: { web: {} },
      }),
    )
    const broker = new Program(t, node, [batonCommand, 'start', '--config', file], { env })
    await broker.line((line) => line.includes('accepting connections'), 'it accepts')
    broker.kill('SIGTERM')
    t.same(await broker.exited, { code: 0, signal: null })
  }
  await run(t, { XDG_CACHE_HOME: home })
  const count = kept()
  t.ok(count > 20, `${count} files`)
  await run(t, { XDG_CACHE_HOME: home })
  t.equal(kept(), count, 'the next start finds all of them')

  await t.test('not where others may write', async (t) => {
    const open = temporaryFolder(t)
    chmodSync(open, 0o777)
    await run(t, { XDG_CACHE_HOME: open })
    t.same(readdirSync(open), [])
  })
})
