import { chmodSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { batonCommand } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { blocksOf, read } from '../support/markdown.ts'
import { canContain, Running } from '../support/pod.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'

// examples/docker, and what the broker does as process 1: in namespaces, with a read-only root and without root.

const FILES = 'examples/docker'
const onlyContained = { skip: !canContain && 'needs root, and a repository that all users can read' }

interface Compose {
  readonly services: {
    readonly app: {
      readonly user: string
      readonly tmpfs: readonly string[]
      readonly read_only: boolean
      readonly stop_grace_period: string
    }
  }
}

const { app } = (parse(read(`${FILES}/compose.yaml`)) as Compose).services

void t.test('the page shows the files, and they fit each other', async (t) => {
  const blocks = blocksOf('docs/how-to/docker.md')
  for (const [language, file] of [
    ['dockerfile', 'Dockerfile'],
    ['json', 'baton.json'],
    ['yaml', 'compose.yaml'],
  ] as const) {
    const shown = blocks.find((block) => block.language === language)
    t.equal(shown?.text.trim(), read(`${FILES}/${file}`).trim(), file)
  }
  const image = read(`${FILES}/Dockerfile`)
  const config = JSON.parse(read(`${FILES}/baton.json`)) as { runtimeDir: string }
  t.match(image, new RegExp(`^USER ${app.user}$`, 'm'))
  t.match(image, /^CMD \["node_modules\/\.bin\/baton", "start", "--config", "baton\.json"\]$/m)
  t.equal(app.tmpfs[0]?.split(':')[0], config.runtimeDir)
  t.ok(app.read_only)
  t.ok(Number.parseInt(app.stop_grace_period, 10) > 30, 'more than the default of drainDeadline')
})

/** An app that leaves processes behind: one that ends at once, and one that says when it gets SIGTERM. */
const APP = `
import http from 'node:http'
import { spawn } from 'node:child_process'
import { createBackend } from '@baton/backend-sdk'
const behind = (command, args) => spawn('setsid', ['sh', '-c', '"$@" & echo $!', 'sh', command, ...args], { stdio: ['ignore', 'pipe', 'ignore'] })
const talker = \`
  const socket = require('node:net').connect(\${process.env.TEST_PORT}, '127.0.0.1')
  process.on('SIGTERM', () => socket.end('SIGTERM'))
  socket.on('close', () => process.exit())
  socket.write('here ')\`
const server = http.createServer((request, response) => {
  if (request.url === '/healthz') return response.end()
  const child = request.url === '/short' ? behind('true', []) : behind(process.execPath, ['-e', talker])
  child.stdout.on('data', (pid) => response.end(String(pid)))
})
await createBackend().attach(server).ready()
`

/** The broker of the example as process 1, with the example's user, root and tmpfs. */
function contained(t: Test, folder: string, testPort: number): Program {
  const [target = '', options = ''] = (app.tmpfs[0] ?? '').split(':')
  const [uid = '', gid = ''] = app.user.split(':')
  const script = [
    'mount -t tmpfs tmpfs /run',
    `mkdir ${target}`,
    `mount -t tmpfs -o ${options} tmpfs ${target}`,
    'mount -o remount,bind,ro /',
    `exec setpriv --reuid=${uid} --regid=${gid} --clear-groups --no-new-privs "$@"`,
  ].join(' && ')
  const spaces = ['--pid', '--fork', '--kill-child', '--mount', '--mount-proc', '--propagation', 'private']
  const command = [process.execPath, batonCommand, 'start', '--config', 'baton.json']
  return new Program(t, 'unshare', [...spaces, 'sh', '-c', script, 'sh', ...command], {
    cwd: folder,
    env: { TEST_PORT: String(testPort) },
    group: true,
  })
}

/** The process, as this namespace sees it, which has this pid in the namespace of `init`. */
function outside(pid: number, init: number): number | undefined {
  const space = (of: number | string) => readFileSync(`/proc/${of}/status`, 'utf8')
  for (const name of readdirSync('/proc').filter((each) => /^\d+$/.test(each))) {
    try {
      const [, own, inner] = /^NSpid:\s+(\d+)\s+(\d+)$/m.exec(space(name)) ?? []
      if (Number(inner) !== pid) continue
      const [, parent] = /^PPid:\s+(\d+)$/m.exec(space(name)) ?? []
      if (Number(parent) === init) return Number(own)
    } catch {
      // It has ended meanwhile.
    }
  }
  return undefined
}

void t.test('as process 1', { timeout: LIMIT, ...onlyContained }, async (t) => {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o755)
  const [port, admin] = [await freePort(), await freePort()]
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  mkdirSync(join(folder, 'app'))
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  writeFileSync(join(folder, 'app.js'), APP)
  const config = read(`${FILES}/baton.json`).replace('8080', String(port)).replace('9180', String(admin))
  writeFileSync(join(folder, 'baton.json'), config)
  const talkers: Socket[] = []
  const server = createServer((socket) => void talkers.push(socket.on('error', () => {})))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const program = contained(t, folder, (server.address() as { port: number }).port)
  const running = new Running(program)
  await program.message('accepting connections')
  await eventually(
    async () => (await fetch(`http://127.0.0.1:${admin}/readyz`).catch(() => undefined))?.ok === true,
    'the app is ready',
  )
  const client = await Client.open(t, { host: '127.0.0.1', port })
  const init = running.init

  await t.test('it reaps processes whose parent has ended, also after a reload', async (t) => {
    for (const round of [1, 2]) {
      const pid = Number((await client.get('/short')).body)
      t.ok(pid > 1)
      await eventually(() => outside(pid, init) === undefined, `${round}: it is no zombie`)
      if (round === 2) break
      running.signal('SIGHUP')
      await program.message('reloaded')
    }
    t.match(await client.get('/healthz'), { status: 200 }, 'the app’s own processes are not touched')
  })

  await t.test('SIGTERM drains, and ends what the app has left behind', async (t) => {
    await client.get('/long')
    await eventually(() => talkers.length === 1, 'it runs')
    let said = ''
    talkers[0]?.on('data', (chunk) => (said += chunk.toString()))
    running.signal('SIGTERM')
    t.equal(await running.ended(), 0)
    await eventually(() => talkers[0]?.readableEnded === true, 'it has ended')
    t.equal(said, 'here SIGTERM')
    t.match(program.messages().at(-1), { msg: 'stopped' })
  })
})
