import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { batonCommand, type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { answerOn, FalseBackend, hello, refusal } from './support/false-backend.ts'
import { cleanEnvironment, Program, root, temporaryFolder } from './support/process.ts'
import { LIMIT } from './support/limits.ts'

// Who may be a backend, and what everybody is told when they may not.

const asRoot = process.getuid?.() === 0
const NOBODY = 65_534
/** Another user must be able to read this repository, too. */
const canBeNobody =
  asRoot &&
  spawnSync(process.execPath, ['--input-type=module', '-e', "import '@baton/backend-sdk'"], {
    cwd: root,
    uid: NOBODY,
    env: cleanEnvironment(),
  }).status === 0
const onlyAsRoot = { skip: !canBeNobody && 'needs root, and a repository that everybody can read' }

interface BackendSettings {
  control: string
  service?: string
  secret?: string
  uid?: number
  timeout?: number
}

function backend(t: Test, { control, service = 'web', secret, uid, timeout }: BackendSettings): Program {
  return new Program(t, process.execPath, [join(root, 'test/programs/listening-backend.mjs')], {
    env: {
      BATON_SOCKET: control,
      BATON_SERVICE: service,
      ...(secret !== undefined && { SECRET: secret }),
      ...(timeout !== undefined && { READY_TIMEOUT: String(timeout) }),
    },
    ...(uid !== undefined && { uid }),
  })
}

async function registers(t: Test, settings: BackendSettings): Promise<Program> {
  const program = backend(t, settings)
  await program.message('ready')
  return program
}

/** The backend's `ready()` says why, and the broker's log does, once. */
async function isRefused(t: Test, broker: Broker, settings: BackendSettings, reason: string): Promise<void> {
  const program = backend(t, settings)
  const { name, code, reason: given } = await program.message('not ready')
  t.same(
    { name, code, given },
    { name: 'RegistrationRefused', code: 'BATON_ERR_REGISTRATION_REFUSED', given: reason },
  )
  const warning = `baton: the broker refused the registration socket=${settings.control}`
  t.ok(await program.line((line) => line.includes(warning), 'the warning'), 'the log says where')
  const port = Number((await program.message('listening'))['port'])
  t.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 200, 'the app serves by itself all the same')
  await logsRefusal(broker, program.pid)
  t.match(refusals(broker, program.pid), [{ code: reason }])
}

/** The backend hears why before the broker's log line has come through its pipe. */
async function logsRefusal(broker: Broker, pid: number): Promise<void> {
  const told = (line: string) => line.includes('"registration refused"') && line.includes(`"peerPid":${pid},`)
  await broker.program.line(told, `a refusal of process ${pid}`)
}

function refusals(broker: Broker, pid: number): Record<string, unknown>[] {
  return broker.program
    .messages()
    .filter(({ msg, peerPid }) => msg === 'registration refused' && peerPid === pid)
}

/** The pid of the backend that a new client of the broker gets. */
async function servedBy(broker: Broker): Promise<number> {
  return Number((await fetch(broker.url())).headers.get('x-pid'))
}

/** A folder in which processes of every user can find what they are told the name of. */
function openFolder(t: Test): string {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o711)
  return folder
}

void t.test('a user who is not allowed is refused, and who is allowed beside it registers', async (t) => {
  const own = process.getuid?.() ?? -1
  const runtimeDir = join(openFolder(t), 'run')
  await t.test('the own user, when only others are allowed', async (t) => {
    const broker = await startBroker(t, { config: { runtimeDir, security: { allowUids: [own + 1] } } })
    await isRefused(t, broker, { control: broker.control }, 'UidNotAllowed')
    t.match(refusals(broker, process.pid), [], 'nobody else was refused')
    t.equal((await broker.status()).services[0]?.backends.length, 0)
    broker.program.kill('SIGTERM')
    await broker.program.exited
  })
  await t.test('another user', onlyAsRoot, async (t) => {
    const broker = await startBroker(t, {
      config: { runtimeDir, security: { allowUids: [own, NOBODY - 1] } },
    })
    await isRefused(t, broker, { control: broker.control, uid: NOBODY }, 'UidNotAllowed')
    await registers(t, { control: broker.control })
    await registers(t, { control: broker.control, uid: NOBODY - 1 })
    t.equal((await broker.status()).services[0]?.backends.length, 2)
    t.match(refusals(broker, process.pid), [])
  })
  await t.test('another user can not even knock when nobody else is allowed', onlyAsRoot, async (t) => {
    const broker = await startBroker(t, { config: { runtimeDir } })
    t.equal(statSync(broker.control).mode & 0o777, 0o600)
    t.equal(statSync(runtimeDir).mode & 0o777, 0o700)
    const program = backend(t, { control: broker.control, uid: NOBODY, timeout: 300 })
    t.equal((await program.message('not ready'))['name'], 'TimeoutError')
    t.ok(
      await program.line((line) => line.includes('EACCES'), 'why'),
      'the kernel refuses, and the SDK says so',
    )
  })
})

void t.test('secrets, services and versions', async (t) => {
  const folder = temporaryFolder(t)
  const right = 'it opens the door'
  const wrong = 'it does not fit here'
  writeFileSync(join(folder, 'secret'), `${right}\n`, { mode: 0o600 })
  const broker = await startBroker(t, {
    config: { security: { registrationSecretFile: join(folder, 'secret') } },
  })
  const { control } = broker

  await Promise.all([
    t.test('a wrong secret', (t) => isRefused(t, broker, { control, secret: wrong }, 'SecretMismatch')),
    t.test('no secret', (t) => isRefused(t, broker, { control }, 'SecretMismatch')),
    t.test('an unknown service', (t) =>
      isRefused(t, broker, { control, secret: right, service: 'wbe' }, 'UnknownService'),
    ),
  ])
  await t.test('another protocol version', async (t) => {
    const { code, message, retry } = await refusal(control, hello('web', { secret: right, protocol: 2 }))
    t.same({ code, retry }, { code: 'ProtocolVersion', retry: false })
    t.match(message, /2.*wanted 1/)
  })

  await t.test('the log has each reason once for a process that dials many times', async (t) => {
    const many = 6
    for (let dial = 0; dial < many; dial++) {
      t.equal((await refusal(control, hello('web', { secret: wrong }))).code, 'SecretMismatch')
      t.equal((await refusal(control, hello('nowhere', { secret: right }))).code, 'UnknownService')
    }
    const last = (line: string) =>
      line.includes(`"peerPid":${process.pid},`) && line.includes('"UnknownService"')
    await broker.program.line(last, 'the last of the refusals')
    t.match(
      refusals(broker, process.pid).map(({ code }) => code),
      ['ProtocolVersion', 'SecretMismatch', 'UnknownService'],
    )
    for (const pid of new Set(broker.program.messages().map(({ peerPid }) => peerPid))) {
      const codes = refusals(broker, Number(pid)).map(({ code }) => code)
      t.equal(new Set(codes).size, codes.length, 'no process has a line twice')
    }
  })

  await t.test('no secret is in a log or an answer', async (t) => {
    const { message } = await refusal(control, hello('web', { secret: wrong }))
    const said = [
      ...broker.program.lines,
      message,
      await broker.metrics(),
      JSON.stringify(await broker.status()),
    ]
    for (const secret of [right, wrong]) {
      const forms = [secret, Buffer.from(secret).toString('base64'), Buffer.from(secret).toString('hex')]
      for (const form of forms) t.notOk(said.join('\n').includes(form), form)
    }
  })

  await t.test('the right secret registers', async (t) => {
    const program = await registers(t, { control, secret: right })
    t.notOk(program.lines.join('\n').includes(right))
    t.equal((await fetch(broker.url())).status, 200)
  })
})

void t.test(
  'a control socket that others were let into is not believed, until it is private again',
  async (t) => {
    const broker = await startBroker(t)
    const early = await registers(t, { control: broker.control })
    chmodSync(broker.control, 0o666)
    const { code, retry, message } = await refusal(broker.control, hello('web'))
    t.same({ code, retry }, { code: 'SocketModeInsecure', retry: true })
    t.match(message, /0666.*0600/)
    const late = backend(t, { control: broker.control })
    await late.line((line) => line.includes('SocketModeInsecure'), 'why it was refused')
    await logsRefusal(broker, late.pid)
    t.equal(refusals(broker, late.pid)[0]?.['code'], 'SocketModeInsecure')
    t.equal(await servedBy(broker), early.pid, 'who was in before stays')
    chmodSync(broker.control, 0o600)
    await late.message('ready')
    t.equal(refusals(broker, late.pid).length, 1, 'it dialled until it was let in, and was logged once')
  },
)

void t.test('a runtime folder that is not safe is refused at the start, by its name', async (t) => {
  const refusedFolder = async (t: Test, runtimeDir: string): Promise<string> => {
    const config = join(temporaryFolder(t), 'baton.json')
    const listeners = [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }]
    const admin = { listen: '127.0.0.1:0' }
    writeFileSync(config, JSON.stringify({ runtimeDir, admin, listeners, services: { web: {} } }))
    const program = new Program(t, process.execPath, [batonCommand, 'start', '--config', config])
    t.equal((await program.exited).code, 1)
    t.equal(program.lines.length, 1, 'one line, no stack')
    return program.lines[0] ?? ''
  }

  await t.test("another user's", async (t) => {
    const runtimeDir = asRoot ? temporaryFolder(t) : '/'
    if (asRoot) chownSync(runtimeDir, NOBODY, NOBODY)
    const line = await refusedFolder(t, runtimeDir)
    t.match(line, `the runtime folder cannot be used: ${runtimeDir} belongs to uid ${asRoot ? NOBODY : 0}`)
  })
  for (const mode of [0o770, 0o1777]) {
    await t.test(`one of mode ${mode.toString(8)}`, async (t) => {
      const runtimeDir = join(temporaryFolder(t), 'run')
      mkdirSync(runtimeDir)
      chmodSync(runtimeDir, mode)
      const line = await refusedFolder(t, runtimeDir)
      t.match(line, `the runtime folder cannot be used: ${runtimeDir} can be written to by others`)
      t.equal(statSync(runtimeDir).mode & 0o7777, mode, 'left as it was')
    })
  }
  await t.test('a file', async (t) => {
    const runtimeDir = join(temporaryFolder(t), 'run')
    writeFileSync(runtimeDir, '')
    t.match(await refusedFolder(t, runtimeDir), runtimeDir)
  })
  await t.test('one with a file in the place of the control socket', async (t) => {
    const runtimeDir = join(temporaryFolder(t), 'run')
    mkdirSync(runtimeDir, { mode: 0o700 })
    writeFileSync(join(runtimeDir, 'control.sock'), 'precious')
    t.match(await refusedFolder(t, runtimeDir), join(runtimeDir, 'control.sock'))
    t.equal(statSync(join(runtimeDir, 'control.sock')).size, 8, 'which is not removed')
  })
  t.end()
})

void t.test('a control socket that a dead broker left is replaced, one that is served is not', async (t) => {
  const runtimeDir = join(temporaryFolder(t), 'run')
  const dead = await startBroker(t, { config: { runtimeDir } })
  dead.program.kill('SIGKILL')
  await dead.program.exited
  t.ok(statSync(dead.control).isSocket(), 'it is still there')

  const broker = await startBroker(t, { config: { runtimeDir } })
  const second = new Program(t, process.execPath, [batonCommand, 'start', '--config', broker.configFile])
  t.equal((await second.exited).code, 1)
  t.same(second.lines, [
    `baton: another broker serves this runtime folder; stop it, or set another runtimeDir: ${broker.control}`,
  ])
  const program = await registers(t, { control: broker.control })
  t.equal(await servedBy(broker), program.pid, 'the first one goes on')
})

void t.test(
  'without a broker ready() waits, says where it looks, and the app serves by itself',
  async (t) => {
    const runtimeDir = join(temporaryFolder(t), 'run')
    const control = join(runtimeDir, 'control.sock')
    const program = backend(t, { control, timeout: 500 })
    const { name } = await program.message('not ready')
    t.equal(name, 'TimeoutError', 'for as long as its signal lets it')
    const log = program.lines.filter((line) => line.includes('no broker yet'))
    t.equal(log.length, 1, 'said once, not at each dial')
    t.match(log[0], control)
    const port = Number((await program.message('listening'))['port'])
    t.match(await (await fetch(`http://127.0.0.1:${port}/`)).json(), { pid: program.pid, connection: null })

    const broker = await startBroker(t, { config: { runtimeDir } })
    await program.message('connected')
    t.match(
      await (await fetch(broker.url())).json(),
      { pid: program.pid, connection: /^[0-9A-Z]{26}$/ },
      'found later',
    )
  },
)

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  await t.test(
    `a backend outlives the ${signal} of its broker, and keeps its id with the next one`,
    async (t) => {
      const runtimeDir = join(temporaryFolder(t), 'run')
      const first = await startBroker(t, { config: { runtimeDir } })
      const program = await registers(t, { control: first.control })
      const kept = await Client.open(t, { host: '127.0.0.1', port: first.port() })
      kept.request()
      await eventually(() => kept.received.includes(`"pid":${program.pid}`), 'an answer')
      first.program.kill(signal)
      await first.program.exited
      await program.message('disconnected')

      const second = await startBroker(t, { config: { runtimeDir } })
      await second.until(
        ({ services }) => services[0]?.backends[0]?.load === 1,
        'what it holds counts as its load',
      )
      const [now] = (await second.backends(1)).services[0]?.backends ?? []
      t.equal(now?.id, (await program.message('ready'))['id'])
      t.not(
        (await first.program.message('accepting connections'))['broker'],
        (await second.status()).broker.id,
      )
      t.equal(await servedBy(second), program.pid)
      const before = kept.received.length
      kept.request()
      await eventually(() => kept.received.length >= 2 * before, 'a second answer')
      t.ok(kept.open, 'the connection that it had adopted did not notice')
    },
  )
}

void t.test('a process that was given an id is known by it, its first backend alone', async (t) => {
  const broker = await startBroker(t)
  const id = '01JAZ3NDEKTSV4RRFFQ69G5FAV'
  const source = `
    import http from 'node:http'
    import { createBackend } from '@baton/backend-sdk'
    const backends = []
    for (let number = 0; number < 2; number++) {
      const backend = createBackend({ logger: false }).attach(http.createServer())
      const before = backend.id
      await backend.ready()
      backends.push({ before, id: backend.id })
    }
    console.log(JSON.stringify({ msg: 'ready', backends }))`
  const start = async (given: string, service = 'web') => {
    const program = new Program(t, process.execPath, ['--input-type=module', '-e', source], {
      env: { BATON_SOCKET: broker.control, BATON_SERVICE: service, BATON_BACKEND_ID: given },
    })
    return (await program.message('ready'))['backends'] as { before: string | null; id: string }[]
  }
  const [first, second] = await start(id)
  t.same(first, { before: id, id })
  t.equal(second?.before, null)
  t.not(second?.id, id)
  const listed = (await broker.status()).services[0]?.backends.map((backend) => backend.id)
  t.same(new Set(listed), new Set([first?.id, second?.id]))

  const [taken] = await start(id)
  t.not(taken?.id, id, 'an id that is in use is not given twice')
  for (const wrong of ['', 'web.1', id.toLowerCase(), `8${id.slice(1)}`]) {
    const [other] = await start(wrong)
    t.equal(other?.before, null, JSON.stringify(wrong))
  }
})

void t.test(
  'a process that registers anew under its id takes its own place',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const older = await FalseBackend.register(t, broker.control, hello('web'))
    const { backend, slot } = older.welcome

    await t.test('which is free when nothing is out', async (t) => {
      const newer = await FalseBackend.register(t, broker.control, hello('web', { backend }))
      t.match(newer.welcome, { backend, slot })
      await older.wire.end()
      t.match((await broker.status()).services[0]?.backends, [{ id: backend, slot }])
      newer.die()
      await broker.backends(0)
    })

    await t.test('and what it was offered before is still its to answer', async (t) => {
      const former = await FalseBackend.register(t, broker.control, hello('web', { backend }))
      const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
      client.request()
      const [offer] = await former.offers(1)
      const [message] = former.take(1)
      if (offer === undefined || message === undefined) throw new Error('nothing was offered')
      const newer = await FalseBackend.register(t, broker.control, hello('web', { backend }))
      t.equal(newer.welcome.backend, backend)
      t.not(newer.welcome.slot, former.welcome.slot, 'while that has an offer out')
      const another = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
      another.request()
      await newer.offers(1)
      t.equal(former.wire.all('offer').length, 1, 'new clients go to the newer one alone')
      t.notOk(former.wire.ended)

      former.ack(offer)
      answerOn(message.fd, 'adopted')
      t.match(await client.answer(), { status: 200, body: 'adopted' })
      await former.wire.end()
      const after = await broker.backends(1)
      t.match(after.services[0]?.outcomes, { handed_off: 1, relinquished: 0 })
    })
  },
)
