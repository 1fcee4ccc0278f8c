import {
  chmodSync,
  chownSync,
  lchownSync,
  mkdirSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type BackendOptions, createBackend } from '@baton/backend-sdk'
import t, { type Test } from 'tap'
import { type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { answerOn, FalseBackend, hello, refusal } from './support/false-backend.ts'
import { LIMIT } from './support/limits.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { signal } from './support/signal.ts'
import { visit } from './support/visit.ts'
import { NOBODY, onlyAsRoot } from './support/other-user.ts'

// Admission of backends, and the error that refused ones get.

const asRoot = process.getuid?.() === 0
const own = process.getuid?.() ?? -1
/** The other user must be able to read this repository. */

const SECRET = 'it opens the door'
const WRONG = 'it does not fit here'

interface BackendSettings {
  control: string
  service?: string
  secret?: string
  uid?: number
  timeout?: number
}

/** A backend in its own process, whose log is the operator's view. */
function program(t: Test, { control, service = 'web', secret, uid, timeout }: BackendSettings): Program {
  return new Program(t, process.execPath, [join(root, 'test/programs/listening-backend.mjs')], {
    env: {
      BATON_SOCKET: control,
      BATON_SERVICE: service,
      ...(secret !== undefined && { SECRET: secret }),
      ...(timeout !== undefined && { READY_TIMEOUT: String(timeout) }),
      // For relays it needs a folder that it can write to.
      ...(uid !== undefined && { TMPDIR: folderOf(t, uid) }),
    },
    ...(uid !== undefined && { uid }),
  })
}

/** A backend in this process. Its log is in `said`. */
function backendHere(t: Test, options: BackendOptions) {
  const said: string[] = []
  const log = (context: object, message: string) =>
    void said.push(`${message} ${Object.values(context).map(String).join(' ')}`)
  const server = http.createServer((_request, response) => response.end(String(process.pid)))
  const backend = createBackend({ logger: { info: log, warn: log, error: log }, ...options })
  backend.attach(server)
  t.teardown(() => backend.close())
  return { backend, server, said }
}

/** The backend's `ready()` rejects with the reason, and the broker logs it once. */
async function isRefused(t: Test, broker: Broker, settings: BackendSettings, reason: string): Promise<void> {
  const refused = program(t, settings)
  const { name, code, reason: given } = await refused.message('not ready')
  t.same(
    { name, code, given },
    { name: 'RegistrationRefused', code: 'BATON_ERR_REGISTRATION_REFUSED', given: reason },
  )
  const warning = `baton: the broker refused the registration socket=${settings.control}`
  t.ok(await refused.line((line) => line.includes(warning), 'the warning'), 'the log has the path')
  const port = Number((await refused.message('listening'))['port'])
  t.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 200, 'the app still serves by itself')
  await logsRefusal(broker, refused.pid, reason)
  t.match(refusals(broker, refused.pid), [{ code: reason }])
}

/** The same for a backend in this process. */
async function isRefusedHere(t: Test, broker: Broker, options: BackendOptions, reason: string) {
  const { backend, server, said } = backendHere(t, { socket: broker.control, service: 'web', ...options })
  await t.rejects(backend.ready(), {
    name: 'RegistrationRefused',
    code: 'BATON_ERR_REGISTRATION_REFUSED',
    reason,
  })
  t.match(
    said,
    [new RegExp(`the broker refused the registration.* ${broker.control} `)],
    'the log has the path',
  )
  server.listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  t.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 200, 'the app still serves by itself')
  await logsRefusal(broker, process.pid, reason)
}

/** The backend gets the reason before the broker's log line has come through its pipe. */
async function logsRefusal(broker: Broker, pid: number, reason: string): Promise<void> {
  const told = (line: string) =>
    line.includes('"registration refused"') &&
    line.includes(`"peerPid":${pid},`) &&
    line.includes(`"code":"${reason}"`)
  await broker.program.line(told, `a refusal of process ${pid}`)
}

function refusals(broker: Broker, pid: number): Record<string, unknown>[] {
  return broker.program
    .messages()
    .filter(({ msg, peerPid }) => msg === 'registration refused' && peerPid === pid)
}

/** The pid of the backend that serves a new client of the broker. */
async function servedBy(t: Test, broker: Broker): Promise<number> {
  const client = await visit(t, broker)
  const { headers } = await client.answer()
  client.socket.destroy()
  return Number(headers['x-pid'])
}

/** A folder whose files are readable by every user that knows their names. */
function openFolder(t: Test): string {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o711)
  return folder
}

function folderOf(t: Test, uid: number): string {
  const folder = temporaryFolder(t)
  chownSync(folder, uid, uid)
  return folder
}

void t.test('the broker’s own user is refused, if only others are allowed', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { config: { security: { allowUids: [own + 1] } } })
  await isRefused(t, broker, { control: broker.control }, 'UidNotAllowed')
  t.match(refusals(broker, process.pid), [], 'no other one was refused')
  t.equal((await broker.status()).services[0]?.backends.length, 0)
})

/** No deadline expires, however slow a busy backend is. */
const PATIENT = { ackDeadline: '10m', tokenTtl: '20m', holdTimeout: '20m' }

/** Services of the last broker that have their own scenes. */
const SCENES = ['door', 'ids', 'place']

void t.test('brokers that follow each other in one runtime folder', { timeout: LIMIT }, async (whole) => {
  const t = whole
  const folder = openFolder(t)
  const runtimeDir = join(folder, 'run')
  const control = join(runtimeDir, 'control.sock')
  const scene = (title: string, act: (t: Test) => Promise<void>, options: { skip?: string | false } = {}) =>
    t.test(title, { timeout: LIMIT, ...options }, act)

  let first!: Broker
  await scene(
    'without a broker, ready() waits and names the socket, and the app serves by itself',
    async (t) => {
      const early = program(t, { control, timeout: 500 })
      const { name } = await early.message('not ready')
      t.equal(name, 'TimeoutError', 'for as long as its signal lets it')
      await early.line((line) => line.includes('no broker yet'), 'the path it waits for')
      const log = early.lines.filter((line) => line.includes('no broker yet'))
      t.equal(log.length, 1, 'logged once, not on each dial')
      t.match(log[0], control)
      const port = Number((await early.message('listening'))['port'])
      t.match(await (await fetch(`http://127.0.0.1:${port}/`)).json(), { pid: early.pid, connection: null })

      first = await startBroker(whole, { config: { runtimeDir, services: { web: PATIENT } } })
      await early.message('connected')
      const { body } = await (await visit(t, first)).answer()
      t.match(JSON.parse(body), { pid: early.pid, connection: /^[0-9A-Z]{26}$/ }, 'found later')
    },
  )

  await scene(
    'another user cannot even connect if no other user is allowed',
    async (t) => {
      t.equal(statSync(control).mode & 0o777, 0o600)
      t.equal(statSync(runtimeDir).mode & 0o777, 0o700)
      const stranger = program(t, { control, uid: NOBODY, timeout: 300 })
      t.equal((await stranger.message('not ready'))['name'], 'TimeoutError')
      t.ok(
        await stranger.line((line) => line.includes('EACCES'), 'why'),
        'the kernel refuses, and the SDK reports it',
      )
    },
    onlyAsRoot,
  )

  const app = program(t, { control, secret: SECRET })
  const { id } = await app.message('ready')
  await first.backends(1)

  await scene(
    'a control socket that others could access is not trusted, until it is private again',
    async (t) => {
      // Otherwise the master would restore the mode immediately.
      signal(first.program.pid, 'SIGSTOP')
      chmodSync(control, 0o666)
      const { code, retry, message } = await refusal(control, hello('web'))
      t.same({ code, retry }, { code: 'SocketModeInsecure', retry: true })
      t.match(message, /0666.*0600/)
      const late = backendHere(t, { socket: control, service: 'web' })
      const ready = late.backend.ready()
      await eventually(
        () => late.said.some((line) => line.includes('SocketModeInsecure')),
        'why it was refused',
      )
      await logsRefusal(first, process.pid, 'SocketModeInsecure')
      t.equal(await servedBy(t, first), app.pid, 'earlier registrations stay')
      signal(first.program.pid, 'SIGCONT')
      await ready
      t.equal(statSync(control).mode & 0o777, 0o600)
      t.equal(refusals(first, process.pid).length, 1, 'it dialled until it was let in, and was logged once')
    },
  )
  await first.backends(1)

  const commands = new Program(t, process.execPath, [join(root, 'test/programs/commands.mjs')], {
    env: { RUN: join(root, 'packages/broker/dist/cli/program.js') },
  })
  let run = 0
  /** The single line of output of a `baton start` that fails. */
  const refusedStart = async (t: Test, config: string): Promise<string> => {
    commands.say(JSON.stringify(['start', '--config', config]))
    const { code, said } = await commands.message(`ran ${++run}`)
    t.equal(code, 1)
    const [line = '', ...rest] = String(said).split('\n')
    t.same(rest, [''], 'one line, no stack')
    t.equal(commands.lines.length, run, 'and nothing on standard output')
    return line
  }

  await scene('a control socket in use is not replaced', async (t) => {
    t.equal(
      await refusedStart(t, first.configFile),
      `baton: another broker serves this runtime folder; stop it, or set another runtimeDir: ${control} (pid ${first.program.pid}) (BATON_ERR_ALREADY_RUNNING)`,
    )
    t.equal(await servedBy(t, first), app.pid, 'the first one continues')
  })

  await scene('an unsafe runtime folder is refused at the start, by name', async (t) => {
    const refusedFolder = (t: Test, unsafe: string): Promise<string> => {
      const config = join(temporaryFolder(t), 'baton.json')
      const listeners = [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }]
      const admin = { listen: '127.0.0.1:0' }
      writeFileSync(config, JSON.stringify({ runtimeDir: unsafe, admin, listeners, services: { web: {} } }))
      return refusedStart(t, config)
    }

    await t.test("another user's", async (t) => {
      const unsafe = asRoot ? folderOf(t, NOBODY) : '/'
      const line = await refusedFolder(t, unsafe)
      t.match(line, `the runtime folder cannot be used: ${unsafe} belongs to uid ${asRoot ? NOBODY : 0}`)
    })
    for (const mode of [0o770, 0o1777]) {
      await t.test(`one of mode ${mode.toString(8)}`, async (t) => {
        const unsafe = join(temporaryFolder(t), 'run')
        mkdirSync(unsafe)
        chmodSync(unsafe, mode)
        const line = await refusedFolder(t, unsafe)
        t.match(line, `the runtime folder cannot be used: ${unsafe} is writable by others`)
        t.equal(statSync(unsafe).mode & 0o7777, mode, 'left as it was')
      })
    }
    for (const [mode, gid, where] of [
      [0o777, 0, 'run'],
      [0o775, NOBODY, 'run'],
      [0o757, 0, 'not/yet/there'],
    ] as const) {
      const skip = gid !== 0 && !asRoot && 'needs root'
      await t.test(`one below a folder of mode ${mode.toString(8)}, group ${gid}`, { skip }, async (t) => {
        const above = temporaryFolder(t)
        if (asRoot) chownSync(above, 0, gid)
        chmodSync(above, mode)
        const line = await refusedFolder(t, join(above, where))
        t.match(line, `${above} is writable by others (mode ${mode.toString(8)})`)
        t.same(readdirSync(above), [], 'in which nothing was made')
      })
    }
    await t.test(
      "another user's, or through another user's link, in a sticky folder",
      { skip: !asRoot },
      async (t) => {
        const above = temporaryFolder(t)
        chmodSync(above, 0o1777)
        mkdirSync(join(above, 'theirs'))
        chownSync(join(above, 'theirs'), NOBODY, NOBODY)
        symlinkSync(temporaryFolder(t), join(above, 'link'))
        lchownSync(join(above, 'link'), NOBODY, NOBODY)
        for (const name of ['theirs', 'link'])
          t.match(
            await refusedFolder(t, join(above, name, 'run')),
            `${join(above, name)} belongs to uid ${NOBODY}`,
          )
      },
    )
    await t.test("one below another user's folder, of mode 755", { skip: !asRoot }, async (t) => {
      const above = folderOf(t, NOBODY)
      const line = await refusedFolder(t, join(above, 'run'))
      t.match(line, `${above} belongs to uid ${NOBODY}, who can replace ${join(above, 'run')}`)
    })
    await t.test('one below a link that leads nowhere', async (t) => {
      const link = join(temporaryFolder(t), 'link')
      symlinkSync('../nowhere', link)
      t.match(await refusedFolder(t, join(link, 'run')), /link\/run: ENOENT/)
    })
    await t.test('a file', async (t) => {
      const unsafe = join(temporaryFolder(t), 'run')
      writeFileSync(unsafe, '')
      t.match(await refusedFolder(t, unsafe), unsafe)
    })
    await t.test('one with a file where the control socket is to be', async (t) => {
      const unsafe = join(temporaryFolder(t), 'run')
      mkdirSync(unsafe, { mode: 0o700 })
      writeFileSync(join(unsafe, 'control.sock'), 'precious')
      t.match(await refusedFolder(t, unsafe), join(unsafe, 'control.sock'))
      t.equal(statSync(join(unsafe, 'control.sock')).size, 8, 'which is not removed')
    })
  })

  const kept = await Client.open(t, { host: '127.0.0.1', port: first.port() })
  const servesKept = async (t: Test) => {
    t.match((await kept.get()).body, `"pid":${app.pid}`, 'its adopted connection is unaffected')
  }
  await servesKept(t)
  let disconnections = 0

  /** The broker ends and another follows: the backend keeps its id and its connections there. */
  const follows = async (t: Test, ends: Broker, how: 'SIGTERM' | 'SIGKILL', config: object) => {
    if (how === 'SIGKILL') await ends.die()
    else {
      ends.program.kill(how)
      await ends.program.exited
    }
    disconnections += 1
    const said = () => app.messages().filter(({ msg }) => msg === 'disconnected').length
    await eventually(() => said() === disconnections, 'the backend emits disconnected')
    if (how === 'SIGKILL')
      t.ok(statSync(control).isSocket(), 'the control socket of a dead one is still there')

    const next = await startBroker(whole, { config: { runtimeDir, services: { web: PATIENT }, ...config } })
    await next.until(
      ({ services }) => services[0]?.backends[0]?.load === 1,
      'its connections count as its load',
    )
    const [now] = (await next.backends(1)).services[0]?.backends ?? []
    t.equal(now?.id, id)
    const broker = (await ends.program.message('accepting connections'))['broker']
    t.not(broker, (await next.status()).broker.id)
    t.equal(await servedBy(t, next), app.pid)
    await servesKept(t)
    t.ok(kept.open)
    return next
  }

  let second!: Broker
  await scene(
    'a backend outlives the SIGKILL of its broker, and keeps its id with the next one, which replaces the control socket',
    async (t) => {
      second = await follows(t, first, 'SIGKILL', {})
    },
  )

  const secretFile = join(folder, 'secret')
  writeFileSync(secretFile, `${SECRET}\n`, { mode: 0o600 })
  let broker!: Broker
  await scene(
    'a backend outlives the SIGTERM of its broker, and keeps its id with the next one, which wants a secret',
    async (t) => {
      broker = await follows(t, second, 'SIGTERM', {
        listeners: ['web', ...SCENES].map((name) => ({ name, listen: '127.0.0.1:0', service: name })),
        services: Object.fromEntries(['web', ...SCENES].map((name) => [name, PATIENT])),
        security: { allowUids: [own, NOBODY - 1], registrationSecretFile: secretFile },
      })
      t.notOk(app.lines.join('\n').includes(SECRET))
    },
  )
  const service = async (name: string) => {
    const { services } = await broker.status()
    return services.find((each) => each.name === name)
  }

  await scene(
    'a user who is not allowed is refused, and an allowed one registers',
    async (t) => {
      await isRefused(t, broker, { control, uid: NOBODY, secret: SECRET }, 'UidNotAllowed')
      await backendHere(t, { socket: control, service: 'door', secret: SECRET }).backend.ready()
      const other = program(t, { control, service: 'door', uid: NOBODY - 1, secret: SECRET })
      await other.message('ready')
      t.equal((await service('door'))?.backends.length, 2)
      t.match(refusals(broker, process.pid), [])
      t.match(refusals(broker, other.pid), [])
    },
    onlyAsRoot,
  )

  await scene('a wrong secret', (t) => isRefused(t, broker, { control, secret: WRONG }, 'SecretMismatch'))
  await scene('no secret', (t) => isRefusedHere(t, broker, {}, 'SecretMismatch'))
  await scene('an unknown service', (t) =>
    isRefusedHere(t, broker, { secret: SECRET, service: 'wbe' }, 'UnknownService'),
  )
  await scene(
    'another protocol version, and each reason is logged once for a process that dials repeatedly',
    async (t) => {
      const many = 6
      for (let dial = 0; dial < many; dial++) {
        t.equal((await refusal(control, hello('web', { secret: WRONG }))).code, 'SecretMismatch')
        t.equal((await refusal(control, hello('nowhere', { secret: SECRET }))).code, 'UnknownService')
      }
      const { code, message, retry } = await refusal(control, hello('web', { secret: SECRET, protocol: 2 }))
      t.same({ code, retry }, { code: 'ProtocolVersion', retry: false })
      t.match(message, /2.*wanted 1/)
      // The last line: once it is there, the earlier ones are too.
      await logsRefusal(broker, process.pid, 'ProtocolVersion')
      t.match(
        refusals(broker, process.pid).map((refusal) => refusal['code']),
        ['SecretMismatch', 'UnknownService', 'ProtocolVersion'],
      )
      for (const pid of new Set(broker.program.messages().map(({ peerPid }) => peerPid))) {
        const codes = refusals(broker, Number(pid)).map(({ code }) => code)
        t.equal(new Set(codes).size, codes.length, 'no process has a line twice')
      }
    },
  )

  await scene('no log and no answer contains a secret', async (t) => {
    const { message } = await refusal(control, hello('web', { secret: WRONG }))
    const said = [
      ...broker.program.lines,
      message,
      await broker.metrics(),
      JSON.stringify(await broker.status()),
    ]
    for (const secret of [SECRET, WRONG]) {
      const forms = [secret, Buffer.from(secret).toString('base64'), Buffer.from(secret).toString('hex')]
      for (const form of forms) t.notOk(said.join('\n').includes(form), form)
    }
  })

  await scene('the right secret registers', async (t) => {
    const { backend, said } = backendHere(t, { socket: control, service: 'door', secret: SECRET })
    await backend.ready()
    t.notOk(said.join('\n').includes(SECRET))
    t.equal((await fetch(broker.url('/', 'door'))).status, 200)
  })

  await scene('a process with an assigned id is known by it, its first backend only', async (t) => {
    const given = '01JAZ3NDEKTSV4RRFFQ69G5FAV'
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
    const pair = new Program(t, process.execPath, ['--input-type=module', '-e', source], {
      env: {
        BATON_SOCKET: control,
        BATON_SERVICE: 'ids',
        BATON_SECRET: SECRET,
        BATON_BACKEND_ID: given,
      },
    })
    const { backends } = (await pair.message('ready')) as {
      backends: { before: string | null; id: string }[]
    }
    const [one, two] = backends
    t.same(one, { before: given, id: given })
    t.equal(two?.before, null)
    t.not(two?.id, given)
    const listed = (await service('ids'))?.backends.map((backend) => backend.id)
    t.same(new Set(listed), new Set([one?.id, two?.id]))

    t.teardown(() => delete process.env['BATON_BACKEND_ID'])
    const options = { socket: control, service: 'ids', secret: SECRET }
    for (const wrong of ['', 'web.1', given.toLowerCase(), `8${given.slice(1)}`]) {
      process.env['BATON_BACKEND_ID'] = wrong
      const { backend } = backendHere(t, options)
      t.equal(backend.id, null, JSON.stringify(wrong))
      await backend.ready()
    }
    process.env['BATON_BACKEND_ID'] = given
    const { backend } = backendHere(t, options)
    t.equal(backend.id, given)
    await backend.ready()
    t.not(backend.id, given, 'an id that is in use is not given twice')
  })

  await scene('a process that registers again under its id replaces its registration', async (t) => {
    const place = async (over = {}) => {
      const peer = await FalseBackend.register(t, control, hello('place', { secret: SECRET, ...over }))
      peer.wire.answersProbes = true
      return peer
    }
    const older = await place()
    const { backend, slot } = older.welcome

    await t.test('which is free if no offers are open', async (t) => {
      const newer = await place({ backend })
      t.match(newer.welcome, { backend, slot })
      await older.wire.end()
      t.match((await service('place'))?.backends, [{ id: backend, slot }])
      newer.die()
      await broker.backends(0, 'place')
    })

    await t.test('and it can still answer earlier offers', async (t) => {
      const asks = async () => {
        const client = await Client.open(t, { host: '127.0.0.1', port: broker.port('place') })
        client.request()
        return client
      }
      const former = await place({ backend })
      const client = await asks()
      const [offer] = await former.offers(1)
      const [message] = former.take(1)
      if (offer === undefined || message === undefined) throw new Error('nothing was offered')
      const newer = await place({ backend })
      t.equal(newer.welcome.backend, backend)
      t.not(newer.welcome.slot, former.welcome.slot, 'while that has an offer out')
      await asks()
      await newer.offers(1)
      t.equal(former.wire.all('offer').length, 1, 'new clients go only to the newer one')
      t.notOk(former.wire.ended)

      former.ack(offer)
      answerOn(message.fd, 'adopted')
      t.match(await client.answer(), { status: 200, body: 'adopted' })
      await former.wire.end()
      await broker.backends(1, 'place')
      t.match((await service('place'))?.outcomes, { handed_off: 1, relinquished: 0 })
    })
  })
})
