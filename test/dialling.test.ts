import { spawnSync } from 'node:child_process'
import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { eventually } from './support/eventually.ts'
import { FalseBackend, greet, hello, refusal } from './support/false-backend.ts'
import { FalseBroker, type Registered } from './support/false-broker.ts'
import { LIMIT } from './support/limits.ts'
import { reload } from './support/operator.ts'
import { PassedClient } from './support/passed-client.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { startServices } from './support/service.ts'
import { canBeNobody, NOBODY, onlyAsRoot } from './support/other-user.ts'

// How often backends register: the rules for backends, and the limits that a worker enforces against one that breaks them.

const asRoot = process.getuid?.() === 0
/** The other user must be able to read this repository. */
const notNobody = onlyAsRoot.skip
const withoutPython =
  process.env['CI'] === undefined &&
  spawnSync('python3', ['--version']).status !== 0 &&
  'python3 is not installed'

/**
 * Registrations of one backend per reload: the one that is due, plus those that a worker allows a backend that dials needlessly, one of them
 * for each minute.
 *
 * @param since when the reload began, in ms of `performance.now()`
 */
function mostRegistrations(since: number): number {
  return 1 + 4 + Math.floor((performance.now() - since) / 60_000)
}

/**
 * Dials that a process may have saved up while it was not running, and those that the test reads later than they were made. Then there are eight
 * a second that are answered, one that is refused, and one that is closed late.
 */
const SAVED = 64 + 8 + 100

/** Far above both limits, and far below the thousands seen before the fix. */
const STORM = 50
/** Messages that `literal-backend.py` prints after a dial. */
const DIALLED = new Set(['registered', 'refused', 'no answer'])

void t.test('one broker, and backends that dial it', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o711)
  const { broker, services } = await startServices(
    t,
    {
      literal: {},
      deaf: {},
      other: {},
      places: {},
      moving: {},
      paths: { config: { handoff: 'off' } },
      foreign: {},
      example: {},
    },
    { runtimeDir: join(folder, 'run'), ...(asRoot && { security: { allowUids: [0, NOBODY] } }) },
  )
  const { control } = broker
  let reloadedAt = 0
  const scene = (title: string, act: (t: Test) => Promise<void>, skip: string | false = false) =>
    t.test(title, { timeout: LIMIT, skip }, act)
  const logged = (msg: string, pid: number) =>
    broker.program.messages().filter((line) => line['msg'] === msg && line['peerPid'] === pid)
  const count = (program: Program, msg: string, code?: string) =>
    program.messages().filter((line) => line['msg'] === msg && (code === undefined || line['code'] === code))
      .length

  // All backends that a reload affects, so that one reload tests them all.
  const literal = (...args: string[]) =>
    new Program(t, 'python3', [join(root, 'test/programs/literal-backend.py'), control, ...args])
  const eager = withoutPython === false ? literal('literal') : undefined
  const deaf = withoutPython === false ? literal('deaf', '--deaf') : undefined
  const example =
    withoutPython === false
      ? new Program(t, 'python3', [join(root, 'examples/python/backend.py')], {
          env: { BATON_SOCKET: control, BATON_SERVICE: 'example', PYTHONDONTWRITEBYTECODE: '1' },
        })
      : undefined
  // It can write neither next to the control socket nor to its temporary folder.
  const foreign = canBeNobody
    ? new Program(t, process.execPath, [join(root, 'test/programs/listening-backend.mjs')], {
        env: { BATON_SOCKET: control, BATON_SERVICE: 'foreign', TMPDIR: '/proc/no-such-folder' },
        uid: NOBODY,
      })
    : undefined

  await scene(
    'a live registration can be replaced only a few times, one that has ended at once',
    async (t) => {
      const register = (backend: string | null) =>
        FalseBackend.responsive(t, control, hello('places', { backend }))
      let peer = await register(null)
      const { backend } = peer.welcome
      for (let replacement = 0; replacement < 4; replacement++) {
        const older = peer
        peer = await register(backend)
        t.equal(peer.welcome.backend, backend)
        await older.wire.end()
      }
      const { code, retry, retryAfter, message } = await refusal(control, hello('places', { backend }))
      t.same({ code, retry, retryAfter }, { code: 'AlreadyRegistered', retry: true, retryAfter: 1000 })
      t.match(message, new RegExp(`registered as ${peer.welcome.slot} \\(${backend}\\)`))
      await peer.probe()
      t.notOk(peer.wire.ended, 'the one that lives is not touched')

      peer.die()
      await services.places.backends(0)
      peer = await register(backend)
      t.equal(peer.welcome.backend, backend, 'a backend whose registration has ended returns at once')
      t.match((await services.places.backends(1)).backends, [{ id: backend }])
      peer.die()
    },
  )

  await scene('a relay endpoint that the broker could not dial counts as none', async (t) => {
    for (const path of ['relay.sock', '\0relay', '/relay\0', `/${'é'.repeat(53)}x`]) {
      const { answer, connection, lane } = await greet(control, hello('paths', { reconnect: { path } }))
      t.equal(answer.type, 'welcome', JSON.stringify(path))
      connection.close()
      lane?.close()
    }
    const said = () => logged('relay endpoint of a backend cannot be used', process.pid)
    await eventually(() => said().length > 0, 'a line in the log')
    t.match(said(), [{ reason: 'reconnect.path is not absolute' }])
    t.equal(said().length, 1, 'once for a process')

    await services.paths.backends(0)
    const peer = await FalseBackend.responsive(
      t,
      control,
      hello('paths', { reconnect: { path: 'relay.sock' } }),
    )
    const client = await services.paths.visit(t)
    await services.paths.until(({ held }) => held === 1, 'the client waits')
    await peer.probe()
    t.same(peer.wire.all('offer'), [], 'nothing is offered that could only fail')
    client.socket.destroy()
    peer.die()
  })

  await scene(
    'a backend that cannot create a relay endpoint registers without one',
    async (t) => {
      // It redialled forever and was never registered.
      await foreign?.message('ready')
      t.same(await services.foreign.answeredBy(t, 1), new Set([foreign?.pid]))
    },
    notNobody,
  )

  await scene('at a reload a backend is asked to register again, but not if it drains', async (t) => {
    await eager?.message('registered')
    await deaf?.message('registered')
    await example?.line((line) => line.includes('registered as'), 'its registration')
    const stays = await FalseBackend.responsive(t, control, hello('moving'))
    const beginsLate = await FalseBackend.responsive(t, control, hello('moving'))
    const drains = await FalseBackend.responsive(t, control, hello('moving'))
    drains.wire.write({ type: 'drain', deadline: null, reason: 'test' })
    await drains.probe()
    reloadedAt = performance.now()
    const reloaded = reload(t, broker)
    await stays.wire.frame('reconnect', () => true)
    const { backend } = stays.welcome
    const moved = await FalseBackend.responsive(t, control, hello('moving', { backend }))
    t.equal(moved.welcome.backend, backend)
    // The master was told of a drain with the next report, a second later: a reload waited 30 s for a backend that was not to move, and failed.
    // One that begins during the reload had the same result.
    await beginsLate.wire.frame('reconnect', () => true)
    beginsLate.wire.write({ type: 'drain', deadline: null, reason: 'test' })
    t.ok((await reloaded).success)
    await drains.wire.end()
    await beginsLate.wire.end()
    t.same(drains.wire.all('reconnect'), [])
    t.match((await services.moving.backends(1)).backends, [{ id: backend }])
    for (const peer of [stays, drains, beginsLate, moved]) peer.die()
  })

  await scene(
    'a backend that redials at every end registers a few times after a reload, and serves',
    async (t) => {
      // It redialled when its registration with the old worker ended. The new registration replaced the one with the new
      // worker, whose end made it redial, and so on: one reload caused thousands of dials within seconds.
      const backend = eager as Program
      const refusals = () => count(backend, 'refused', 'AlreadyRegistered')
      const registrations = () => count(backend, 'registered') - 1
      await eventually(() => refusals() >= 2 || registrations() > STORM, 'refusals, or a storm')
      t.ok(
        registrations() <= mostRegistrations(reloadedAt),
        `${registrations()} registrations after one reload`,
      )
      t.match(
        backend.messages().find(({ msg }) => msg === 'refused'),
        { code: 'AlreadyRegistered', retry: true, retryAfter: 1000 },
      )
      await eventually(() => logged('registration refused', backend.pid).length > 0, 'a line in the log')
      t.equal(logged('registration refused', backend.pid).length, 1, 'and no other')
      const listed = (await services.literal.backends(1)).backends
      t.match(listed, [{ slot: 'literal-1', pid: backend.pid }])
      const client = await services.literal.visit(t)
      t.equal((await client.answer()).body, String(backend.pid))
    },
    withoutPython,
  )

  await scene(
    'a backend that hammers costs the worker next to nothing, and others can register',
    async (t) => {
      const backend = deaf as Program
      const refusals = () => count(backend, 'refused', 'TooManyRegistrations')
      const late = () => count(backend, 'no answer')
      const storms = () => count(backend, 'registered') > STORM
      await eventually(() => refusals() > 0 || storms(), 'it is refused for dialling too often')
      // 8 dials are refused immediately, then one is closed late: late ones are at least a second apart. There were thousands.
      const seen = late()
      await eventually(() => late() > seen || storms(), 'its dials are closed late')
      const dials = () => backend.messages().filter(({ msg }) => DIALLED.has(String(msg))).length
      const from = { late: late(), dials: dials(), at: performance.now() }
      const other = await services.other.start(t)
      await eventually(() => late() >= from.late + 3 || storms(), 'it continues, more slowly')
      const made = dials() - from.dials
      const seconds = (performance.now() - from.at) / 1000
      t.ok(made <= SAVED + 10 * seconds, `${made} dials in ${seconds.toFixed(1)} s`)
      t.ok(count(backend, 'registered') <= 1 + mostRegistrations(reloadedAt))
      const waits = backend.messages().filter(({ code }) => code === 'TooManyRegistrations')
      t.ok(waits.every(({ retry, retryAfter }) => retry === true && Number(retryAfter) > 0))
      const codes = () => logged('registration refused', backend.pid).map(({ code }) => code)
      await eventually(() => codes().length >= 2, 'both reasons in the log')
      t.same(codes(), ['AlreadyRegistered', 'TooManyRegistrations'], 'each once')
      t.same(await services.other.answeredBy(t, 1), new Set([other.pid]))
      t.ok(backend.running)
    },
    withoutPython,
  )

  await scene(
    'a backend without a relay endpoint logs it once, however often it registers',
    async (t) => {
      const backend = foreign as Program
      await eventually(() => count(backend, 'connected') === 2, 'it is registered with the next worker')
      await services.foreign.backends(1)
      t.same(await services.foreign.answeredBy(t, 1), new Set([backend.pid]))
      const warnings = backend.lines.filter((line) => line.includes('cannot create a socket for relays'))
      t.equal(warnings.length, 1)
      t.match(warnings[0], '/proc/no-such-folder')
    },
    notNobody,
  )

  await scene(
    'the example in Python registers once after a reload, and an idle connection does not hold its drain',
    async (t) => {
      const backend = example as Program
      const lines = (text: string) => backend.lines.filter((line) => line.includes(text)).length
      await eventually(() => lines('connection ended') > 0, 'the old worker has let it go')
      const client = await services.example.open(t)
      t.match((await client.get()).body, `pid ${backend.pid} answers`)
      t.equal(lines('registered as'), 2)
      t.equal(lines('connection ended'), 1)
      backend.kill('SIGTERM')
      t.same(await backend.exited, { code: 0, signal: null })
      await services.example.until(({ parked, held }) => parked + held === 1, 'it waits in the broker')
      t.ok(client.open)
      client.socket.destroy()
    },
    withoutPython,
  )

  // Must be last: from here on this process is over its dial limit.
  await scene(
    'a process that registers hundreds of backends at once is refused for most of them',
    async (t) => {
      const from = performance.now()
      const dials = await Promise.allSettled(
        Array.from({ length: 300 }, async () => {
          const { answer, connection, lane } = await greet(control, hello('places'))
          t.teardown(() => {
            connection.close()
            lane?.close()
          })
          return answer
        }),
      )
      const answers = dials.flatMap((dial) => (dial.status === 'fulfilled' ? [dial.value] : []))
      const refused = answers.filter((answer) => answer.type === 'refused')
      const welcomed = answers.length - refused.length
      const most = 64 + ((performance.now() - from) / 1000) * 8
      t.ok(welcomed > 0 && welcomed <= most + 1, `${welcomed} registrations, ${refused.length} refusals`)
      t.ok(refused.length > 0)
      const reasons = refused.map(({ code, retry }) => `${code} ${retry}`)
      t.same(new Set(reasons), new Set(['TooManyRegistrations true']))
      t.ok(refused.every(({ retryAfter }) => Number(retryAfter) > 0))
      const other = await services.other.start(t)
      t.same(await services.other.answeredBy(t, 1), new Set([other.pid]), 'other processes register')
    },
  )
})

void t.test('a backend with the SDK, and a scripted broker', { timeout: LIMIT }, async (t) => {
  const broker = new FalseBroker(t)
  const backend = new Program(t, process.execPath, [join(root, 'test/programs/told-backend.mjs')], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', DRAIN_DEADLINE: '10m' },
  })
  /** Resolves once the backend has handled everything sent before. */
  const probe = async ({ wire }: Registered, id: number) => {
    wire.write({ type: 'heartbeat', id, reply: false })
    await wire.frame('heartbeat', (frame) => frame.reply && frame.id === id)
  }

  await t.test('it does not dial before the retry time of a refusal', { timeout: LIMIT }, async (t) => {
    const { wire } = await broker.dialled()
    const at = performance.now()
    const answer = { code: 'TooManyRegistrations', message: 'too often', retry: true, retryAfter: 400 }
    wire.write({ type: 'refused', ...answer })
    wire.close()
    const again = await broker.dialled()
    const waited = performance.now() - at
    // The backend adds 25 to 50 ms of its own.
    t.ok(waited >= 424, `after ${Math.round(waited)} ms`)
    again.wire.close()
  })

  let newest!: Registered
  await t.test(
    'each registration leads to one dial, at RECONNECT or at its end',
    { timeout: LIMIT },
    async (t) => {
      const older = await broker.registered()
      older.wire.write({ type: 'reconnect', reason: 'test' })
      older.wire.write({ type: 'reconnect', reason: 'test' })
      newest = await broker.registered()
      t.equal(newest.hello.backend, older.id)
      await probe(older, 1)
      t.equal(broker.pending, 0, 'a second RECONNECT asks for nothing more')
      older.die()
      await eventually(
        () => backend.messages().filter(({ msg }) => msg === 'disconnected').length === 1,
        'it notices the end',
      )
      await probe(newest, 2)
      t.equal(broker.pending, 0, 'the end of a registration that got RECONNECT causes no dial')
      newest.die()
      newest = await broker.registered()
      t.equal(newest.hello.backend, older.id)
      await probe(newest, 3)
      t.equal(broker.pending, 0)
    },
  )

  await t.test(
    'a draining backend does not answer RECONNECT or dial again',
    { timeout: LIMIT },
    async (t) => {
      const passed = new PassedClient(t, '/wait')
      const offer = newest.offer()
      newest.post(offer.token, passed.fd)
      newest.ring(offer)
      await newest.acked(offer)
      newest.wire.write({ type: 'drain', deadline: null, reason: 'test' })
      await newest.wire.frame('drain', () => true)
      newest.wire.write({ type: 'reconnect', reason: 'test' })
      await probe(newest, 4)
      t.equal(broker.pending, 0, 'no answer to RECONNECT')
      newest.die()
      await eventually(
        () => backend.messages().filter(({ msg }) => msg === 'disconnected').length === 3,
        'it notices the end',
      )
      passed.leave()
      backend.child.stdin?.end()
      t.same(await backend.exited, { code: 0, signal: null }, 'it finishes by itself')
      t.equal(broker.pending, 0)
    },
  )
})
