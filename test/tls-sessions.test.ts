import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import tls from 'node:tls'
import { TICKETS_CAPABILITY } from '@baton/backend-sdk/protocol'
import t, { type Test } from 'tap'
import { Broker, startBroker } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { LIMIT } from './support/limits.ts'
import { logs, onlyWorker, reload } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { PATIENT } from './support/service.ts'
import { signal } from './support/signal.ts'
import { startAgain } from './support/visitor.ts'

// TLS that ends in the backends: a client resumes its session in any process of the service.

const folder = temporaryFolder(t)
const [KEY, CERTIFICATE] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
const request =
  'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost'
execFileSync('openssl', [...request.split(' '), '-keyout', KEY, '-out', CERTIFICATE], { stdio: 'pipe' })

/** test/slow/tls-sessions.test.ts names the others. */
const SERVERS = (process.env['SERVERS'] ?? 'https').split(',')
const [SERVER = ''] = SERVERS
const VERSIONS = ['TLSv1.2', 'TLSv1.3'] as const

interface Said {
  readonly pid: number
  readonly resumed: boolean
  readonly authorized: boolean
}

async function visit(
  port: number,
  version: tls.SecureVersion,
  session?: Buffer,
): Promise<{ said: Said; session: Buffer | undefined }> {
  const socket = tls.connect({
    port,
    host: '127.0.0.1',
    rejectUnauthorized: false,
    minVersion: version,
    maxVersion: version,
    session,
  })
  let kept = session
  let text = ''
  socket.on('session', (ticket: Buffer) => (kept = ticket)).on('data', (data) => (text += String(data)))
  socket.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await once(socket, 'close')
  return { said: JSON.parse(/\{.*\}/.exec(text)?.[0] ?? '{}') as Said, session: kept }
}

/** In every one of `pids`, however the broker spreads clients. */
async function resumesIn(
  t: Test,
  port: number,
  version: tls.SecureVersion,
  session: Buffer | undefined,
  pids: readonly number[],
): Promise<void> {
  const missing = new Set(pids)
  // One that did not answer for a moment gets no clients for a moment.
  await eventually(
    async () => {
      const { said } = await visit(port, version, session)
      if (!said.resumed) t.fail(`${version}: full handshake in ${said.pid}`)
      missing.delete(said.pid)
      return missing.size === 0
    },
    () => `${version}: resumes in every process, but not yet in ${[...missing].join(', ')}`,
  )
}

async function start(
  t: Test,
  broker: Broker,
  service: string,
  release: string,
  env: NodeJS.ProcessEnv = {},
): Promise<Program> {
  const script = join(root, 'test/programs/session-backend.mjs')
  const program = new Program(t, process.execPath, [script, release], {
    env: {
      BATON_SOCKET: broker.control,
      BATON_SERVICE: service,
      SERVER: service,
      KEY,
      CERTIFICATE,
      ...env,
    },
  })
  await program.message('ready')
  return program
}

/** Of all files below it. */
function contents(path: string): string[] {
  return readdirSync(path, { withFileTypes: true }).flatMap((entry) => {
    const name = join(path, entry.name)
    if (entry.isDirectory()) return contents(name)
    return statSync(name).isFile() ? [readFileSync(name, 'latin1')] : []
  })
}

void t.test('one broker, and servers that end TLS', { timeout: LIMIT }, async (t) => {
  let broker = await startBroker(t, {
    config: {
      listeners: [...SERVERS, 'asks', 'often', 'off'].map((name) => ({
        name,
        listen: '127.0.0.1:0',
        protocol: 'tls',
        service: name,
      })),
      services: {
        ...Object.fromEntries(SERVERS.map((name) => [name, { ...PATIENT, balance: 'round-robin' }])),
        asks: PATIENT,
        often: { ticketRotation: '1s' },
        off: { ticketRotation: null },
      },
    },
  })

  /** Until the end of all of these tests. */
  const begin = (service: string, release: string, env?: NodeJS.ProcessEnv) =>
    start(t, broker, service, release, env)
  const port = (service: string) => broker.port(service)
  /** Of each service, two processes of the first release. */
  const running = new Map<string, Program[]>()
  for (const server of SERVERS)
    running.set(server, await Promise.all(['one', 'one'].map((release) => begin(server, release))))
  const pidsOf = (server: string) => (running.get(server) ?? []).map(({ pid }) => pid)
  const sessions = new Map<string, Buffer | undefined>()

  for (const server of SERVERS) {
    await t.test(
      `${server}: a session resumes in every process, and after a deploy into another folder`,
      { timeout: LIMIT },
      async (t) => {
        for (const version of VERSIONS) {
          const { said, session } = await visit(port(server), version)
          t.equal(said.resumed, false)
          sessions.set(`${server} ${version}`, session)
          await resumesIn(t, port(server), version, session, pidsOf(server))
        }
        const next = await Promise.all(['two', 'two'].map((release) => begin(server, release)))
        for (const old of running.get(server) ?? []) old.kill('SIGTERM')
        for (const old of running.get(server) ?? []) await old.exited
        running.set(server, next)
        for (const version of VERSIONS)
          await resumesIn(t, port(server), version, sessions.get(`${server} ${version}`), pidsOf(server))
      },
    )
  }

  await t.test("OpenSSL's client resumes too", { timeout: LIMIT }, async (t) => {
    const file = join(folder, 'session.pem')
    const run = async (...more: string[]): Promise<string> => {
      const client = spawn('openssl', ['s_client', '-connect', broker.address(SERVER), '-ign_eof', ...more])
      client.stderr.resume()
      client.stdin.end('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
      return text(client.stdout)
    }
    t.match(await run('-sess_out', file), /^New, TLSv1\.3/m)
    for (let times = 0; times < 4; times += 1) t.match(await run('-sess_in', file), /^Reused, TLSv1\.3/m)
    const again = await run('-tls1_2', '-reconnect')
    t.equal(again.match(/^New, /gm)?.length, 1)
    t.equal(again.match(/^Reused, TLSv1\.2/gm)?.length, 5)
  })

  await t.test('the keys outlive a reload and the death of a worker', { timeout: LIMIT }, async (t) => {
    t.match(await reload(t, broker), { success: true })
    const later = await begin(SERVER, 'three')
    signal(await onlyWorker(t, broker), 'SIGKILL')
    const last = await begin(SERVER, 'four')
    await broker.backends(4, SERVER)
    const pids = [...pidsOf(SERVER), later.pid, last.pid]
    for (const version of VERSIONS)
      await resumesIn(t, port(SERVER), version, sessions.get(`${SERVER} ${version}`), pids)
  })

  await t.test(
    'a server that asks for client certificates resumes no session of one that does not',
    { timeout: LIMIT },
    async (t) => {
      const before = await begin('asks', 'one', { SERVER: 'tls' })
      const { session } = await visit(port('asks'), 'TLSv1.3')
      const asks = await begin('asks', 'two', { SERVER: 'tls', ASKS: 'yes' })
      before.kill('SIGTERM')
      await before.exited
      const refused = await visit(port('asks'), 'TLSv1.3', session).catch((error: Error) => error)
      t.match(refused, { code: 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED' })
      asks.kill('SIGTERM')
      await asks.exited
    },
  )

  await t.test(
    'a new key, with the one before it, reaches backends that take keys, and nothing else',
    { timeout: LIMIT },
    async (t) => {
      const taker = await FalseBackend.register(
        t,
        broker.control,
        hello('often', { capabilities: [TICKETS_CAPABILITY] }),
      )
      const older = await FalseBackend.register(t, broker.control, hello('often'))
      const off = await FalseBackend.register(
        t,
        broker.control,
        hello('off', { capabilities: [TICKETS_CAPABILITY] }),
      )
      t.same(taker.welcome.capabilities, [TICKETS_CAPABILITY])
      t.same(older.welcome.capabilities, [])
      t.same(off.welcome.capabilities, [], '"ticketRotation": null')
      const one = await taker.wire.frame('ticket_keys')
      const newest = one.keys[0] ?? ''
      const two = await taker.wire.frame('ticket_keys', ({ keys }) => keys[1] === newest)
      t.not(two.keys[0], newest)
      t.equal(two.keys.length, 2)
      const gone = await taker.wire.frame(
        'ticket_keys',
        ({ keys }) => !keys.includes(newest) && keys[1] === two.keys[0],
      )
      t.equal(gone.keys.length, 2)
      for (const { wire } of [older, off])
        t.notOk(wire.frames.some(({ frame }) => frame.type === 'ticket_keys'))
      await logs(broker, 'new key for TLS session tickets')

      const secrets = [...one.keys, ...two.keys, ...gone.keys].flatMap((key) => [
        key,
        Buffer.from(key, 'base64').toString('hex'),
      ])
      const shown = [broker.program.lines.join('\n')]
      for (const path of ['/api/v1/status', '/metrics', '/', '/api/v1/services/often', '/api/v1/connections'])
        shown.push(await (await fetch(`${broker.admin}${path}`)).text())
      shown.push(...contents(broker.folder))
      for (const secret of secrets) t.notOk(shown.some((text) => text.includes(secret)))
      t.ok(shown.length > 6)
    },
  )

  // Last, since the scenes above read the lines of `broker.program`.
  await t.test('the keys outlive the death of the master, but not of the whole broker', async (outer) => {
    const pids = async () => {
      const { services } = await broker.status()
      return services.find(({ name }) => name === SERVER)?.backends.map(({ pid }) => pid) ?? []
    }
    const resumes = async (t: Test, kept: typeof sessions) => {
      for (const version of VERSIONS)
        await resumesIn(t, port(SERVER), version, kept.get(`${SERVER} ${version}`), await pids())
    }
    /** As a backend gets them that registers now. */
    const keys = async (t: Test) => {
      const frame = hello('asks', { capabilities: [TICKETS_CAPABILITY] })
      const backend = await FalseBackend.register(t, broker.control, frame)
      return (await backend.wire.frame('ticket_keys')).keys
    }
    /** As a service manager does after a master was killed. */
    const startMaster = async (message: string) => {
      const program = startAgain(outer, broker)
      await program.message(message)
      const ready = await program.message('accepting connections')
      return new Broker(program, broker.folder, broker.configFile, ready)
    }
    const before = await keys(outer)
    let count = (await pids()).length

    await outer.test('no master: the worker gives them to backends that register', async (t) => {
      broker.program.kill('SIGKILL')
      await broker.until((status) => status.broker.master === null, 'the worker has noticed')
      await begin(SERVER, 'five')
      await broker.backends((count += 1), SERVER)
      t.same(await keys(t), before)
      await resumes(t, sessions)
    })

    await outer.test('the next master has them, and so has each worker that it starts', async (t) => {
      const orphan = (await broker.status()).broker.pid
      broker = await startMaster('took over the worker of a master that was killed')
      const worker = await onlyWorker(t, broker)
      t.not(worker, orphan)
      await broker.backends(count, SERVER)
      t.same(await keys(t), before)
      await resumes(t, sessions)

      signal(worker, 'SIGKILL')
      await logs(broker, 'worker died')
      t.not(await onlyWorker(t, broker), worker)
      await begin(SERVER, 'six')
      await broker.backends((count += 1), SERVER)
      t.same(await keys(t), before)
      await resumes(t, sessions)
    })

    await outer.test(
      'master and worker are killed together: one full handshake for each client',
      async (t) => {
        const worker = await onlyWorker(t, broker)
        // The master first, or it would start another worker.
        broker.program.kill('SIGKILL')
        signal(worker, 'SIGKILL')
        await broker.program.exited
        broker = await startMaster('accepting connections')
        await broker.backends(count, SERVER)
        t.notOk((await keys(t)).some((key) => before.includes(key)))
        const renewed: typeof sessions = new Map()
        for (const version of VERSIONS) {
          const name = `${SERVER} ${version}`
          const { said, session } = await visit(port(SERVER), version, sessions.get(name))
          t.equal(said.resumed, false, `${version}: its key died with the broker`)
          renewed.set(name, session)
        }
        await resumes(t, renewed)
        const { program, folder: files } = broker
        const shown = [program.lines.join('\n'), ...contents(files)]
        for (const key of [...before, ...(await keys(t))]) t.notOk(shown.some((text) => text.includes(key)))
      },
    )
  })
})
