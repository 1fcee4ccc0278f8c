import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Broker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT } from '../support/limits.ts'
import { logged, onlyWorker, reload } from '../support/operator.ts'
import { PACKAGES, packAll } from '../support/packed.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { installNode, moveLink, Releases } from '../support/release.ts'
import { signal } from '../support/signal.ts'

// Node and Baton are upgraded, and their old versions removed, while a broker runs.

const VERSION = /BROKER_VERSION = "[^"]*"/

/** The version is a constant of the bundle. */
function setVersion(chunks: string, version: string): void {
  const files = readdirSync(chunks).filter((file) => file.endsWith('.js'))
  const [file = '', ...more] = files.filter((each) => VERSION.test(readFileSync(join(chunks, each), 'utf8')))
  if (file === '' || more.length > 0) throw new Error('the bundle has no version, or several')
  const text = readFileSync(join(chunks, file), 'utf8')
  writeFileSync(join(chunks, file), text.replace(VERSION, `BROKER_VERSION = "${version}"`))
}

/** As npm installs it: packages from their tarballs, and the command as a link. Other dependencies are found in a parent folder. */
function installBaton(release: string, version: string, tarballs: readonly string[]): void {
  const modules = join(release, 'node_modules')
  for (const [index, name] of PACKAGES.entries()) {
    const to = join(modules, '@baton', name)
    mkdirSync(to, { recursive: true })
    execFileSync('tar', ['-xzf', tarballs[index] ?? '', '-C', to, '--strip-components=1'])
    const manifest = JSON.parse(readFileSync(join(to, 'package.json'), 'utf8')) as object
    writeFileSync(join(to, 'package.json'), JSON.stringify({ ...manifest, version }))
    if (name === 'broker') setVersion(join(to, 'dist/bundle/chunks'), version)
  }
  mkdirSync(join(modules, '.bin'))
  symlinkSync('../@baton/broker/bin/baton.js', join(modules, '.bin/baton'))
  chmodSync(join(modules, '@baton/broker/bin/baton.js'), 0o755)
}

void t.test('one broker outlives its Node, and its own installation', { timeout: LIMIT * 2 }, async (t) => {
  const folder = temporaryFolder(t)
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  const node = (version: string) => join(folder, 'node', version, 'bin/node')
  const stable = join(folder, 'bin/node')
  installNode(node('v1'))
  mkdirSync(join(folder, 'bin'))
  moveLink(stable, '../node/v1/bin/node')
  const releases = new Releases(folder, {
    runtimeDir: join(folder, 'run'),
    admin: { listen: '127.0.0.1:0' },
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
    services: { web: { command: ['node', 'app.mjs'] } },
  })
  const tarballs = packAll(temporaryFolder(t))
  installBaton(releases.add('one'), '0.0.1', tarballs)
  releases.use('one')
  const program = new Program(
    t,
    'sh',
    ['-c', 'cd "$1" && exec node_modules/.bin/baton start', 'sh', releases.current],
    {
      group: true,
      env: { PATH: `${join(folder, 'bin')}:${process.env['PATH']}` },
    },
  )
  const ready = await program.message('accepting connections')
  const broker = new Broker(program, folder, join(releases.current, 'baton.json'), ready)
  const binaryOf = (pid: number) => readlinkSync(`/proc/${pid}/exe`)
  const release = async () => (await fetch(broker.url(), { headers: { connection: 'close' } })).text()
  const loseWorker = async (t: Test): Promise<number> => {
    const worker = await onlyWorker(t, broker)
    signal(worker, 'SIGKILL')
    t.equal(await release(), 'one', 'another worker serves')
    return onlyWorker(t, broker)
  }
  const reloads = async (t: Test, version: string) => {
    const { success, log } = await reload(t, broker)
    t.equal(success, true, log.join('\n'))
    t.match(log[0], `"version":"${version}"`)
    t.equal(await release(), 'one')
  }
  t.equal(await release(), 'one')
  t.equal(binaryOf(program.pid), node('v1'))

  await t.test('the link leads to another Node, and the former one is removed', async (t) => {
    installNode(node('v2'))
    moveLink(stable, '../node/v2/bin/node')
    t.equal(binaryOf(await loseWorker(t)), node('v1'), 'a worker uses the same Node as long as it exists')
    // Like a package manager in the middle of an upgrade.
    writeFileSync(join(folder, 'half'), '#!/bin/sh\nexit 3\n', { mode: 0o755 })
    renameSync(join(folder, 'half'), node('v1'))
    t.match(binaryOf(await loseWorker(t)), 'node/v1/bin/node (deleted)')
    rmSync(join(folder, 'node/v1'), { recursive: true })
    t.match(binaryOf(await loseWorker(t)), 'node/v1/bin/node (deleted)', 'and when it was removed')
    await reloads(t, '0.0.1')
    t.equal(binaryOf(program.pid), node('v2'))
  })

  await t.test('no Node is left under its name', async (t) => {
    rmSync(join(folder, 'node'), { recursive: true })
    t.match(binaryOf(await loseWorker(t)), 'node/v2/bin/node (deleted)')
    await reloads(t, '0.0.1')
    await reloads(t, '0.0.1')
    t.match(binaryOf(program.pid), 'node/v2/bin/node (deleted)')
  })

  await t.test('it is installed again', async (t) => {
    installNode(node('v3'))
    moveLink(stable, '../node/v3/bin/node')
    await reloads(t, '0.0.1')
    t.equal(binaryOf(program.pid), node('v3'), 'under the name that it was started by')
  })

  await t.test('the next release has another Baton', async (t) => {
    installBaton(releases.add('two'), '0.0.2', tarballs)
    releases.use('two')
    await reloads(t, '0.0.2')
  })

  await t.test('the running Baton is removed before the reload', async (t) => {
    installBaton(releases.add('three'), '0.0.3', tarballs)
    releases.use('three')
    releases.remove('two')
    const reloaded = logged(broker, 'reloaded')
    signal(await onlyWorker(t, broker), 'SIGKILL')
    await eventually(() => logged(broker, 'reloaded') > reloaded, 'it is reloaded, to get a worker')
    t.equal(await release(), 'one')
    t.match(
      program.messages().findLast(({ msg }) => String(msg).startsWith('program replaced')),
      {
        version: '0.0.3',
      },
    )
  })

  await t.test('the running Baton is removed, and its worker hangs', async (t) => {
    installBaton(releases.add('three-b'), '0.0.31', tarballs)
    releases.use('three-b')
    releases.remove('three')
    const reloaded = logged(broker, 'reloaded')
    signal(await onlyWorker(t, broker), 'SIGSTOP')
    await eventually(() => logged(broker, 'reloaded') > reloaded, 'it is reloaded, to get a worker')
    t.equal(await release(), 'one')
  })

  await t.test('no Baton is installed any longer', async (t) => {
    const four = releases.add('four')
    releases.use('four')
    await reloads(t, '0.0.31')
    releases.remove('three-b')
    t.match(await reload(t, broker), {
      success: false,
      log: [`the broker's program is no longer installed: ${releases.current}/node_modules/.bin/baton`],
    })
    t.equal(await release(), 'one')
    installBaton(four, '0.0.4', tarballs)
    await reloads(t, '0.0.4')
  })
})
