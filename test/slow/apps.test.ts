import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { io } from 'socket.io-client'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { AppRun, ask, Clients, NOTHING_LEFT } from '../support/app-run.ts'
import { batonCommand } from '../support/broker.ts'
import { freePort } from '../support/free-port.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { LIMIT } from '../support/limits.ts'
import { exists, signalGroup } from '../support/signal.ts'

// `baton run` with apps that know nothing about Baton, as written in their frameworks' own documentation (`test/apps`).

/** Options for two processes of the app. */
const TWO = ['-i', '2']

const app = (name: string) => [process.execPath, join(root, 'test/apps', name)]

/** A program written by the test. */
function script(t: Test, code: string): string[] {
  const file = join(temporaryFolder(t), 'app.mjs')
  writeFileSync(file, code)
  return [process.execPath, file]
}

/** Pids in the responses to new connections, until `count` have answered: the choice depends on the load last reported. */
async function answering(url: string, count: number): Promise<Set<string>> {
  const pids = new Set<string>()
  await eventually(
    async () => {
      const answers = await Promise.all(Array.from({ length: 4 }, () => ask(url)))
      for (const { body } of answers) pids.add(body.split(' ')[0] ?? '')
      return pids.size >= count
    },
    () => `${count} processes answer; there were ${[...pids].join(', ')}`,
  )
  return pids
}

/** Both processes answer, and see the client's address; a deploy replaces them under load; nothing is left. */
async function serves(
  t: Test,
  { name, protocol = 'http', env }: { name: string; protocol?: 'http' | 'tls'; env?: NodeJS.ProcessEnv },
  signal: NodeJS.Signals,
): Promise<void> {
  const port = await freePort()
  const url = `${protocol === 'tls' ? 'https' : 'http'}://127.0.0.1:${port}/`
  const run = new AppRun(t, { command: app(name), options: TWO, env: { ...env, PORT: String(port) } })
  await run.serving(2)
  t.match(await run.listeners(), [{ protocol, service: 'app' }])

  const { body, local } = await ask(url, { agent: false, localAddress: '127.0.0.2' })
  t.ok(body.replace('::ffff:', '').endsWith(` ${local}`), `${body}: the client is ${local}`)
  const before = await answering(url, 2)
  t.equal(before.size, 2)

  const clients = new Clients(t, url)
  await clients.more(20)
  const deploy = await run.deploy(...(name === 'http.mjs' ? [] : ['--at-once', '2']))
  t.match(await deploy.exited, { code: 0 }, deploy.lines.join('\n'))
  await clients.more(20)
  await clients.stop()
  t.same(clients.failures, [])
  const after = await answering(url, 2)
  t.equal(after.size, 2)
  t.same(
    [...after].filter((pid) => before.has(pid)),
    [],
    'all are new',
  )
  t.same(await run.end(signal), NOTHING_LEFT)
}

// Slow, so its result is checked after the others.
const crashing = new AppRun(t, {
  command: [process.execPath, '-e', 'process.exit(3)'],
  options: ['--restart', 'always'],
})

const samples: [what: string, file: string][] = [
  ['http', 'http.mjs'],
  ['Express', 'express.cjs'],
  ['Fastify', 'fastify.mjs'],
  ['Koa', 'koa.cjs'],
  ['NestJS', 'nest.mjs'],
]
for (const [index, [what, name]] of samples.entries()) {
  void t.test(what, { timeout: LIMIT }, (t) => serves(t, { name }, index % 2 === 0 ? 'SIGTERM' : 'SIGINT'))
}

void t.test('https', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const [KEY_FILE, CERT_FILE] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
  const made = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost'
  execFileSync('openssl', ['req', '-x509', ...made.split(' '), '-keyout', KEY_FILE, '-out', CERT_FILE], {
    stdio: 'ignore',
  })
  await serves(t, { name: 'https.mjs', protocol: 'tls', env: { KEY_FILE, CERT_FILE } }, 'SIGTERM')
})

interface Talk {
  /** The server's first message. */
  readonly greeting: string
  /** Sends a text; resolves with the reply. */
  readonly say: (text: string) => Promise<string>
  readonly end: () => void
}

/** Both processes talk; a conversation outlives the deploy of its process, which waits for it. */
async function talks(t: Test, name: string, open: (t: Test, port: number) => Promise<Talk>): Promise<void> {
  const port = await freePort()
  const run = await new AppRun(t, { command: app(name), options: TWO, env: { PORT: String(port) } }).serving(
    2,
  )
  const first = await Promise.all([1, 2, 3, 4].map(() => open(t, port)))
  const before = new Set(first.map(({ greeting }) => greeting.split(' ')[0] ?? ''))
  t.equal(before.size, 2)
  t.ok(first.every(({ greeting }) => / (?:::ffff:)?127\.0\.0\.1 \d+$/.test(greeting)))

  const deploy = await run.deploy('--at-once', '2')
  // Both new processes are there, and the old ones still have clients.
  await run.serving(4)
  await eventually(
    async () => {
      const talk = await open(t, port)
      talk.end()
      return !before.has(talk.greeting.split(' ')[0] ?? '')
    },
    () => deploy.lines.join('\n'),
  )
  for (const { greeting, say } of first)
    t.equal(await say('still there'), `${greeting.split(' ')[0]} received still there`)
  t.ok(deploy.running)
  for (const { end } of first) end()
  t.match(await deploy.exited, { code: 0 }, deploy.lines.join('\n'))

  const last = await open(t, port)
  t.match(await last.say('hello'), /^\d+ received hello$/)
  last.end()
  t.same(await run.end('SIGTERM'), NOTHING_LEFT)
}

void t.test('ws', { timeout: LIMIT }, (t) =>
  talks(t, 'ws.mjs', async (t, port) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`)
    t.teardown(() => socket.terminate())
    const next = async () => String((await once(socket, 'message'))[0])
    return {
      greeting: await next(),
      say: (text) => {
        socket.send(text)
        return next()
      },
      end: () => socket.close(),
    }
  }),
)

void t.test('socket.io', { timeout: LIMIT }, (t) =>
  talks(t, 'socket-io.mjs', async (t, port) => {
    const socket = io(`http://127.0.0.1:${port}`, {
      transports: ['websocket'],
      forceNew: true,
      reconnection: false,
    })
    t.teardown(() => socket.disconnect())
    const next = () => new Promise<string>((resolve) => socket.once('message', resolve))
    return {
      greeting: await next(),
      say: (text) => {
        socket.emit('message', text)
        return next()
      },
      end: () => socket.disconnect(),
    }
  }),
)

void t.test('Ctrl-C reaches every process in the terminal; requests in flight finish', async (t) => {
  const port = await freePort()
  const command = script(
    t,
    `import http from 'node:http'
    http.createServer((request, response) => {
      console.log('asked')
      request.resume().on('end', () => response.end('all of it'))
    }).listen(${port}, '127.0.0.1')`,
  )
  const run = await new AppRun(t, { command, options: TWO }).serving(2)
  const client = await Client.open(t, { host: '127.0.0.1', port })
  client.send('POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\n\r\n1')
  await run.program.line((line) => line.endsWith('asked'), 'the request')
  const processes = run.processes()
  signalGroup(run.program.pid, 'SIGINT')
  await run.program.line((line) => line.startsWith('draining '), 'that it drains')
  client.send('2')
  t.match(await client.answer(), { status: 200, body: 'all of it' })
  client.socket.destroy()
  t.same(await run.ended(processes), NOTHING_LEFT)
})

void t.test('an app below a shell that exits without forwarding the signal, like npm', async (t) => {
  const port = await freePort()
  const [node = '', file = ''] = app('http.mjs')
  const run = await new AppRun(t, {
    command: ['sh', '-c', `"${node}" "${file}"; true`],
    options: TWO,
    env: { PORT: String(port) },
  }).serving(2)
  const url = `http://127.0.0.1:${port}/`
  const before = await answering(url, 2)
  const deploy = await run.deploy('--at-once', '2')
  t.match(await deploy.exited, { code: 0 }, deploy.lines.join('\n'))
  t.notOk([...(await answering(url, 2))].some((pid) => before.has(pid)))
  const processes = run.processes()
  t.equal(processes.length, 5, 'a worker, two shells, two apps')
  t.match(await run.end('SIGTERM'), { code: 0, files: [] })
  await eventually(() => !processes.some(exists), 'the apps have ended, too')
})

void t.test('--watch deploys changes, and no client notices', { timeout: LIMIT }, async (t) => {
  const port = await freePort()
  const folder = temporaryFolder(t)
  const write = (answer: string) =>
    writeFileSync(
      join(folder, 'server.js'),
      `require('node:http').createServer((_, response) => response.end('${answer}')).listen(${port})`,
    )
  write('old')
  const sabotage = temporaryFolder(t)
  const run = new AppRun(t, {
    command: ['node', 'server.js'],
    options: [...TWO, '--watch'],
    cwd: folder,
    env: { SABOTAGE: sabotage, NODE_OPTIONS: `--import=${join(root, 'test/programs/sabotage.mjs')}` },
  })
  await run.serving(2)
  const url = `http://127.0.0.1:${port}/`
  t.equal((await ask(url)).body, 'old')
  const clients = new Clients(t, url)
  await clients.more(10)
  write('new')
  await run.program.line((line) => line.startsWith('deployed '), 'that it has deployed')
  for (let each = 0; each < 4; each++) t.equal((await ask(url)).body, 'new')
  // A change during a reload was lost: it was refused, or no program was running to see it.
  const config = ['--config', await run.configFile()]
  const deploys = () => run.program.lines.filter((line) => line.startsWith('deployed ')).length
  for (const stage of ['slow-check', 'slow-master']) {
    const before = deploys()
    writeFileSync(join(sabotage, stage), '')
    const reload = new Program(t, process.execPath, [batonCommand, 'reload', ...config])
    await eventually(() => existsSync(join(sabotage, `${stage}-reached`)), stage)
    write(stage)
    rmSync(join(sabotage, stage))
    t.match(await reload.exited, { code: 0 }, reload.lines.join('\n'))
    await eventually(
      () => deploys() > before,
      () => `changes made meanwhile are deployed:\n${run.program.lines.join('\n')}`,
    )
    for (let each = 0; each < 4; each++) t.equal((await ask(url)).body, stage)
  }
  await clients.stop()
  t.same(clients.failures, [])
  t.same(await run.end('SIGINT'), NOTHING_LEFT)
})

void t.test('an app with two ports, one of them on two addresses', { timeout: LIMIT }, async (t) => {
  const [port, other] = [await freePort(), await freePort()]
  const command = script(
    t,
    `import http from 'node:http'
    const answer = (name) => (_, response) => response.end(process.pid + ' ' + name)
    http.createServer(answer('main')).listen(${port}, 'localhost', () => {
      http.createServer(answer('main too')).listen(${port}, '127.0.0.2')
      http.createServer(answer('admin')).listen(${other})
    })`,
  )
  const run = await new AppRun(t, { command, options: TWO }).serving(4)
  await run.serving(2, `app-${other}`)
  const urls = [`http://127.0.0.1:${port}/`, `http://127.0.0.2:${port}/`, `http://127.0.0.1:${other}/`]
  const [main, second, admin] = urls as [string, string, string]
  t.match((await ask(main)).body, /^\d+ main/)
  t.match((await ask(second)).body, /^\d+ main/)
  t.match((await ask(admin)).body, /^\d+ admin$/)
  const before = new Set(
    (await Promise.all(urls.map((url) => answering(url, 2)))).flatMap((pids) => [...pids]),
  )
  t.equal(before.size, 2)

  const clients = urls.map((url) => new Clients(t, url))
  await Promise.all(clients.map((each) => each.more(10)))
  const deploy = await run.deploy()
  t.match(await deploy.exited, { code: 0 }, deploy.lines.join('\n'))
  await Promise.all(clients.map((each) => each.more(10)))
  await Promise.all(clients.map((each) => each.stop()))
  t.same(
    clients.flatMap(({ failures }) => failures),
    [],
  )
  const after = (await Promise.all(urls.map((url) => answering(url, 2)))).flatMap((pids) => [...pids])
  t.notOk(after.some((pid) => before.has(pid)))
  t.same(await run.end('SIGTERM'), NOTHING_LEFT)
})

void t.test(
  'a port in use is the same error as in plain Node; once it is free, the app gets it',
  async (t) => {
    const occupant = createServer().listen(0)
    await once(occupant, 'listening')
    const { port } = occupant.address() as AddressInfo
    const run = new AppRun(t, { command: app('http.mjs'), env: { PORT: String(port) } })
    await run.program.line(
      (line) => line === `app.1 | Error: listen EADDRINUSE: address already in use :::${port}`,
      'the error',
    )
    await run.program.line((line) => line.includes("code: 'EADDRINUSE'"), 'its code')
    occupant.close()
    await run.serving(1)
    t.match((await ask(`http://127.0.0.1:${port}/`)).body, /^\d+ /)
    t.same(await run.end('SIGTERM'), NOTHING_LEFT)
  },
)

void t.test('--listen ADDR overrides the address of the app; -i max', async (t) => {
  const [port, asked] = [await freePort(), await freePort()]
  const run = new AppRun(t, {
    command: app('http.mjs'),
    options: ['--listen', `127.0.0.2:${port}`, '--instances', 'max'],
    env: { PORT: String(asked) },
  })
  await run.serving(availableParallelism())
  t.equal((await answering(`http://127.0.0.2:${port}/`, availableParallelism())).size, availableParallelism())
  await t.rejects(ask(`http://127.0.0.1:${asked}/`), { code: 'ECONNREFUSED' })
  await t.rejects(ask(`http://127.0.0.1:${port}/`), { code: 'ECONNREFUSED' })
  t.same(await run.end('SIGTERM'), NOTHING_LEFT)
})

void t.test('an app that never listens still runs', async (t) => {
  const command = script(t, `console.log('working'); setInterval(() => {}, 60_000)`)
  const run = new AppRun(t, { command })
  await run.program.line((line) => line === 'app.1 | working', 'the output of the app')
  t.same(await run.listeners(), [])
  t.same(await run.end('SIGINT'), NOTHING_LEFT)
})

void t.test(
  'an app that crashes at start, with --restart always: each exit is logged, and restarts continue',
  async (t) => {
    const { lines } = crashing.program
    const told = await crashing.program.line((line) => line.startsWith('app.1 | error: '), 'the crash loop')
    t.match(told, /crash/)
    const exits = lines
      .slice(0, lines.indexOf(told))
      .filter((line) => /^app\.1 \| warning: .*code=3/.test(line))
    t.equal(exits.length, 8)
    t.same(await crashing.end('SIGTERM'), NOTHING_LEFT)
  },
)
