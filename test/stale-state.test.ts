import { readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { AppRun, ask, NOTHING_LEFT } from './support/app-run.ts'
import { type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { killWorker } from './support/deaths.ts'
import { eventually } from './support/eventually.ts'
import { answerOn, FalseBackend, hello } from './support/false-backend.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { logs, masterStatus, onlyWorker, openSession, parseAnswer, reload, rest } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { startRedirected } from './support/redirected.ts'
import { cannotTrace } from './support/refused-calls.ts'
import { exists, signal } from './support/signal.ts'

// Decisions of one process of a broker on what it knows of another one, which may not be so any more.

/** Children of the process whose arguments match. */
function children(pid: number, program: RegExp): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .filter(Boolean)
    .map(Number)
    .filter((child) => {
      try {
        return program.test(readFileSync(`/proc/${child}/cmdline`, 'latin1'))
      } catch {
        // It has ended.
        return false
      }
    })
}

const WORKER = /bundle\/worker\.js/

/** Stops the next worker that is started while it loads. */
async function stopNext(master: number, known: readonly number[]): Promise<number> {
  let next = 0
  await eventually(() => {
    next = children(master, WORKER).find((pid) => !known.includes(pid)) ?? 0
    if (next !== 0) signal(next, 'SIGSTOP')
    return next !== 0
  }, 'another worker is started')
  return next
}

/** An app that listens on `port`, and for `GET /PORT` on another one as well. */
function openingApp(t: Test, port: number): string[] {
  const file = join(temporaryFolder(t), 'app.mjs')
  writeFileSync(
    file,
    `import http from 'node:http'
    const server = http.createServer((request, response) => {
      const another = Number(request.url.slice(1))
      if (another > 0) http.createServer((_, answer) => answer.end('another')).listen(another)
      response.end('hello')
    })
    server.keepAliveTimeout = server.headersTimeout = 600_000
    server.listen(${port})`,
  )
  return [process.execPath, file]
}

/** A connection to the app, which does not need a worker any more. */
async function connected(t: Test, port: number): Promise<Client> {
  const client = await Client.open(t, { host: '127.0.0.1', port })
  t.equal((await client.get()).body, 'hello')
  return client
}

/** Waits until the app is a backend of the service of its other port, or cannot be. */
async function isServed(run: AppRun, port: number): Promise<boolean> {
  const service = `service=app-${port} `
  const has = (msg: string) => run.program.lines.some((line) => line.includes(msg) && line.includes(service))
  await eventually(
    () => has('backend registered ') || has('registration refused '),
    () => `its answer to the registration:\n${run.program.lines.join('\n')}`,
  )
  return has('backend registered ')
}

/** The next worker has its orders, and is stopped while the app opens another port. */
async function openMeanwhile(
  t: Test,
  prepare: (run: AppRun) => Promise<void>,
  meanwhile: (run: AppRun) => Promise<unknown>,
): Promise<{ run: AppRun; another: number }> {
  const [port, another] = [await freePort(), await freePort()]
  const run = await new AppRun(t, { command: openingApp(t, port) }).serving(1)
  const client = await connected(t, port)
  await prepare(run)
  const master = run.program.pid
  const known = children(master, WORKER)
  for (const pid of known) signal(pid, 'SIGKILL')
  const next = await stopNext(master, known)
  await meanwhile(run)
  client.request(`/${another}`)
  const to = { host: '127.0.0.1', port: another }
  // The log waits while a reload is prepared.
  const isOpen = () =>
    Client.open(t, to).then(
      () => true,
      () => false,
    )
  await eventually(isOpen, 'it is open')
  // On a slow machine, the master has replaced it meanwhile.
  if (exists(next)) signal(next, 'SIGCONT')
  return { run, another }
}

void t.test(
  'baton run: a port that the app opens while the next worker starts',
  { timeout: LIMIT },
  async (t) => {
    // That worker had its orders already, and was not told: nothing accepted on the port until the next reload.
    const { run, another } = await openMeanwhile(
      t,
      async () => {},
      async () => {},
    )
    t.ok(await isServed(run, another), 'the next worker has its service')
    t.equal((await ask(`http://127.0.0.1:${another}`)).body, 'another')
    t.same(await run.end('SIGTERM'), NOTHING_LEFT)
  },
)

void t.test(
  'baton run: a port that the app opens while a reload is prepared',
  { timeout: LIMIT },
  async (t) => {
    // The reload had read the configuration before, so it closed the port again.
    let session: Client | undefined
    const { run, another } = await openMeanwhile(
      t,
      async (each) => {
        const text = readFileSync(await each.configFile(), 'utf8')
        const { runtimeDir } = JSON.parse(text) as { runtimeDir: string }
        session = await Client.open(t, { path: join(runtimeDir, 'master.sock') })
      },
      (each) => {
        session?.send('reload\n')
        // It waits for the worker that is stopped.
        return each.program.line((line) => line.startsWith('reloading '), 'the reload begins')
      },
    )
    t.match(parseAnswer(await rest(session as Client)), { success: true })
    t.ok(await isServed(run, another), 'the next worker has its service')
    t.equal((await ask(`http://127.0.0.1:${another}`)).body, 'another')
    t.same(await run.end('SIGTERM'), NOTHING_LEFT)
  },
)

void t.test('a log that is reopened while a reload is prepared', { timeout: LIMIT }, async (t) => {
  // The next worker had been started already, and wrote to the old file for as long as it lived.
  const file = join(temporaryFolder(t), 'log')
  const broker = await startRedirected(t, `>> ${file} 2>&1`, { config: { workerTimeout: '1m' } })
  const { pid } = broker.program
  const known = children(pid, WORKER)
  const reloaded = reload(t, broker)
  const next = await stopNext(pid, known)
  renameSync(file, `${file}.1`)
  signal(pid, 'SIGUSR1')
  await eventually(() => {
    const found = statSync(file, { throwIfNoEntry: false })
    return found !== undefined && readFileSync(file, 'utf8').includes('"msg":"log reopened"')
  }, 'the log is reopened')
  signal(next, 'SIGCONT')
  t.match(await reloaded, { success: true })
  t.equal(statSync(`/proc/${await onlyWorker(t, broker)}/fd/1`).ino, statSync(file).ino)
  broker.program.kill('SIGTERM')
  await broker.program.exited
})

void t.test(
  'a signal that arrives right before the master replaces its program',
  { timeout: LIMIT, skip: cannotTrace },
  async (t) => {
    // Signals are blocked in the main thread by then, so another thread caught it; what its handler had left for the event loop was lost.
    const broker = await startBroker(t)
    const { pid } = broker.program
    const delay = 'inject=memfd_create:delay_exit=1000000:when=1'
    const strace = new Program(t, 'strace', [
      '-f',
      '-p',
      String(pid),
      '-e',
      'trace=memfd_create',
      '-e',
      delay,
    ])
    await strace.line((line) => line.includes(`Process ${pid} attached`), 'strace is attached')
    const session = await openSession(t, broker)
    session.send('reload\n')
    await strace.line(
      (line) => line.includes('memfd_create("baton-master-state"'),
      'what is carried over is written',
    )
    signal(pid, 'SIGTERM')
    t.match(await broker.program.exited, { code: 0, signal: null })
    t.same(parseAnswer(await rest(session)), { success: false, log: ['the broker is stopping'] })
  },
)

const SDK = pathToFileURL(join(root, 'packages/backend-sdk/dist/index.js')).href

/** A managed backend that answers each request but those for `/wait`, says at SIGTERM how many of these it has, and says that it exits. */
const WAITING_APP = `
import { createServer } from 'node:http'
import { createBackend } from '${SDK}'

const waiting = new Set()
const backend = createBackend({ logger: false })
const server = createServer((request, response) => {
  if (request.url !== '/wait') return response.setHeader('x-pid', process.pid).end('hello')
  waiting.add(response)
  response.on('close', () => waiting.delete(response))
})
backend.attach(server)
await backend.ready()
process.once('SIGTERM', async () => {
  console.log('SIGTERM with ' + waiting.size + ' requests')
  await backend.drain({ deadline: '1h' })
  process.exit()
})
process.once('exit', () => console.log('exits'))
`

async function startManaged(
  t: Test,
  service: Record<string, unknown>,
  workerTimeout: string,
): Promise<Broker> {
  const app = join(temporaryFolder(t), 'app.mjs')
  writeFileSync(app, WAITING_APP)
  const web = { command: [process.execPath, app], drainDeadline: '1h', ...service }
  const broker = await startBroker(t, { config: { workerTimeout, services: { web } } })
  return broker
}

async function pidOf(t: Test, broker: Broker, instance: string): Promise<number> {
  const { managed } = await masterStatus(t, broker)
  return managed.find((each) => each.instance === instance)?.pid ?? 0
}

/** How many backends of a service the master knows of. */
async function backendsOf(t: Test, broker: Broker, service: string): Promise<number | undefined> {
  const status: unknown = await masterStatus(t, broker)
  const { services } = (status as { broker: { services: { name: string; backends: number }[] } }).broker
  return services.find(({ name }) => name === service)?.backends
}

/** A client whose request this process keeps waiting. */
async function waitingClient(t: Test, broker: Broker, pid: number): Promise<Client> {
  for (;;) {
    const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
    const { headers } = await client.get()
    if (headers['x-pid'] !== String(pid)) {
      client.socket.destroy()
      continue
    }
    client.request('/wait')
    return client
  }
}

void t.test(
  'a process that is retired while no worker serves drains first',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startManaged(t, { instances: 2 }, '30s')
    await broker.backends(2)
    const retired = await pidOf(t, broker, 'web.2')
    const client = await waitingClient(t, broker, retired)
    const worker = await onlyWorker(t, broker)
    const session = await openSession(t, broker)
    signal(worker, 'SIGKILL')
    const next = await stopNext(broker.program.pid, [worker])
    session.send('scale web to=1\n')
    await eventually(() => session.received.includes('draining web.2'), 'it is retired')
    signal(next, 'SIGCONT')
    // The first report of the next worker listed no backend yet. This one was taken for drained, and got SIGTERM, and SIGKILL 10 s later.
    await eventually(
      async () => (await backendsOf(t, broker, 'web')) === 2,
      'the master knows that both backends are back',
    )
    client.socket.destroy()
    t.match(await rest(session), /^Success=1$/m)
    const said = (text: string) => broker.program.messages().some(({ msg }) => msg === text)
    await eventually(() => said('exits'), 'it has ended')
    t.notOk(said('SIGTERM with 1 requests'), 'it was not ended before it had drained')
  },
)

void t.test('a deploy goes on only with what a worker says', { timeout: LIMIT }, async (t) => {
  const broker = await startManaged(t, { minHealthy: '4s' }, '10s')
  await broker.backends(1)
  const deploy = async () => {
    const worker = await onlyWorker(t, broker)
    const session = await openSession(t, broker)
    session.send('deploy web\n')
    await eventually(() => session.received.includes('ready web.1'), 'the new version is ready')
    return { worker, session }
  }
  const steps = async (session: Client) =>
    (await rest(session)).split('\n').flatMap((line) => /^(\w+) web(?:\.1)?: /.exec(line)?.[1] ?? [])

  await t.test('the worker dies', async (t) => {
    const { worker, session } = await deploy()
    signal(worker, 'SIGKILL')
    await stopNext(broker.program.pid, [worker])
    // It is stopped for longer than `minHealthy`, in which the new version took over: nothing was known of either.
    await logs(broker, 'a signal ended or stopped a worker that was starting; starting another')
    t.same(await steps(session), ['started', 'ready', 'started', 'ready', 'draining', 'stopped', 'done'])
  })

  await t.test('the worker hangs', async (t) => {
    const { worker, session } = await deploy()
    signal(worker, 'SIGSTOP')
    await logs(broker, 'worker does not answer; starting another')
    t.notMatch(session.received, /^draining/m, 'the old version has not been touched')
    signal(worker, 'SIGCONT')
    t.same(await steps(session), ['started', 'ready', 'draining', 'stopped', 'done'])
  })

  await t.test('the worker hangs until it is ended', async (t) => {
    const { worker, session } = await deploy()
    signal(worker, 'SIGSTOP')
    // The empty report of the worker that is to take over counted as one about the new version.
    await logs(broker, 'worker hangs; ending it')
    t.notMatch(session.received, /^draining/m, 'the old version has not been touched')
    t.equal((await steps(session)).at(-1), 'done')
  })
})

void t.test('an unhealthy backend that registers again is checked first', { timeout: LIMIT }, async (t) => {
  const healthCheck = { path: '/healthz', interval: 50, timeout: '10m' }
  const broker = await startBroker(t, {
    config: {
      services: { web: { healthCheck, holdTimeout: '10m', ackDeadline: '10m', tokenTtl: '20m' }, other: {} },
    },
  })
  const register = (frame = {}) => FalseBackend.responsive(t, broker.control, hello('web', frame))
  const state = (wanted: string) =>
    broker.until(({ services }) => services[0]?.backends.at(-1)?.state === wanted, `it is ${wanted}`)
  let peer = await register()
  const { backend } = peer.welcome
  const fail = async (count: number) => {
    for (let failed = 1; failed <= count; failed++) {
      const offer = (await peer.offers(failed)).at(-1)
      peer.take(1)[0]?.fd.close()
      if (offer !== undefined) peer.nack(offer)
    }
  }
  /** Offered first: a check, or the client that is held. */
  const firstOffer = async () => {
    peer = await register({ backend })
    t.equal(peer.welcome.backend, backend)
    return (await peer.offers(1))[0]?.listener
  }

  const [first] = await peer.offers(1)
  const [taken] = peer.take(1)
  if (first !== undefined) peer.ack(first)
  if (taken !== undefined) answerOn(taken.fd, 'well')
  await state('ready')
  await killWorker(t, broker)
  peer = await register({ backend })
  await fail(3)
  await state('unhealthy')
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  client.request()
  await broker.until(({ services }) => services[0]?.held === 1, 'a client waits')
  // It was healthy at the worker before, which still counted: it got the client.
  t.equal(await firstOffer(), 'baton:health', 'with the same worker')

  await fail(3)
  await state('unhealthy')
  peer.wire.answersProbes = false
  await state('unresponsive')
  // The master gets a list of all.
  await FalseBackend.register(t, broker.control, hello('other'))
  await eventually(async () => (await backendsOf(t, broker, 'other')) === 1, 'the master knows it')
  await killWorker(t, broker)
  await broker.until(({ services }) => services[0]?.held === 1, 'the client still waits')
  // The master knew only that it did not answer, and took it for healthy.
  t.equal(await firstOffer(), 'baton:health', 'with the next worker')
})
