import { mkdirSync, readFileSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { batonCommand, Broker, startBroker, unaccounted } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import {
  askAdmin,
  configure,
  logged,
  logs,
  type MasterStatus,
  masterStatus,
  onlyWorker,
  openSession,
  reload,
  samples,
} from '../support/operator.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { Sabotaged } from '../support/sabotage.ts'
import { servedBy, visit } from '../support/visit.ts'
import { allServed, type ServiceStatus, serviceNow, statusNow, visitorsOf } from '../support/waiting-room.ts'
import { LIMIT } from '../support/limits.ts'
import { signal } from '../support/signal.ts'

/** No deadline of the product may expire before a busy machine has done its work. */
const PATIENT = { ackDeadline: '5m', tokenTtl: '10m', holdTimeout: '10m' }
const listener = (name: string) => ({ name, listen: '127.0.0.1:0', protocol: 'http', service: name })

/** The worker with this role, once there is one. */
async function workerThatIs(
  t: Test,
  broker: Broker,
  role: MasterStatus['workers'][number]['role'],
): Promise<number> {
  let pid: number | undefined
  await eventually(async () => {
    pid = (await masterStatus(t, broker)).workers.find((worker) => worker.role === role)?.pid
    return pid !== undefined
  }, `a worker that is ${role}`)
  return Number(pid)
}

function namesOf({ backends }: ServiceStatus): unknown[] {
  return backends
    .toSorted((one, other) => one.pid - other.pid)
    .map(({ id, slot, pid }) => ({ id, slot, pid }))
}

/** One backend's path to its broker: while it is shut, the backend stays where it is registered, and cannot move. */
class Door {
  readonly #control: string
  readonly path: string

  constructor(broker: Broker) {
    this.#control = broker.control
    this.path = join(broker.folder, 'door.sock')
    this.open()
  }

  open(): void {
    symlinkSync(this.#control, this.path)
  }

  shut(): void {
    unlinkSync(this.path)
  }
}

void t.test('one broker, and past bugs of reloads', { timeout: LIMIT }, async (t) => {
  const scene = await Sabotaged.start(t, {
    listeners: [listener('web')],
    services: {
      web: { ...PATIENT, balance: 'round-robin' },
      // Its checks are never answered, except one.
      checked: { ...PATIENT, healthCheck: { path: '/wait', interval: '50ms', timeout: '10m' } },
    },
  })
  const { broker } = scene
  const door = new Door(broker)
  const start = (env: NodeJS.ProcessEnv, service = 'web') =>
    startBackend(t, broker, 'http-backend.mjs', { service, env })
  const moving = await start({})
  const staying = await start({ BATON_SOCKET: door.path })
  const checked = await start({}, 'checked')
  await eventually(async () => {
    checked.say('answer')
    return (await serviceNow(broker, 'checked')).backends[0]?.state === 'ready'
  }, 'its health check is answered, this once')
  const registrations = (backend: Program, at?: number) =>
    broker.program
      .messages()
      .filter(
        ({ msg, pid, peerPid }) =>
          msg === 'backend registered' && peerPid === backend.pid && (at ?? pid) === pid,
      ).length
  /** Requests a reload that cannot finish, because the backend behind the door cannot move. Resolves once the successor has the others. */
  const beginReload = async (t: Test, others: readonly Program[]) => {
    // A master does not wait long for backends to move: after two seconds the successor serves, and is no longer `starting`.
    // It also stops waiting for a stopped backend after three missed heartbeats.
    scene.begin('patient-master')
    door.shut()
    const session = await openSession(t, broker)
    const replaced = logged(broker, 'program replaced, reload continues') + 1
    session.send('reload\n')
    // A session that requests the status while the program is being replaced would be cut.
    await logs(broker, 'program replaced, reload continues', replaced)
    const successor = await workerThatIs(t, broker, 'starting')
    await eventually(
      () => others.every((backend) => registrations(backend, successor) === 1),
      'the successor has all that can move',
    )
    return { session, successor }
  }
  const endReload = () => {
    door.open()
    scene.end('patient-master')
  }
  await broker.backends(2)
  const known = namesOf(await serviceNow(broker, 'web'))

  // Each line that could be answered immediately was handled inside the answer to the line before: a few thousand lines in one
  // write overflowed the stack.
  await t.test('many lines in one write do not end the master', async (t) => {
    const session = await openSession(t, broker)
    session.send(`prompt\n${'x\n'.repeat(2000)}quit\n`)
    await session.ended
    t.match(session.received, /unknown command "x"/)
    t.match(await masterStatus(t, broker), { master: { busy: null } })
  })

  // Backends that were asked to move still had their link to the old worker, and got a second one there when the successor
  // died: with another id and slot, and with all of their connections counted as its load.
  await t.test(
    'backends that moved to a worker that dies return once each, under their old names',
    async (t) => {
      const kept = await visit(t, broker)
      await kept.answer()
      const { session, successor } = await beginReload(t, [moving])
      signal(successor, 'SIGKILL')
      await session.ended
      endReload()
      t.match(session.received, /^Success=0\n/)
      await eventually(() => registrations(moving) === 3 && registrations(staying) === 2, 'both are back')

      await broker.backends(2)
      t.equal((await statusNow(broker)).broker.pid, broker.pid, 'at the same worker')
      t.same(namesOf(await serviceNow(broker, 'web')), known)
      t.match(await kept.get(), { status: 200 })
      const pids = []
      for (let count = 0; count < 4; count++) pids.push(await servedBy(t, broker))
      t.same(new Set(pids), new Set([moving.pid, staying.pid]))
      t.equal(unaccounted(await broker.status()), 0)
    },
  )

  // While a reload waited for a backend that did not move, the old worker was killed: from then on both its replacement and the
  // reload's own worker served, the backends were registered with one of them, and every second client was never served.
  await t.test('a worker that is killed during a reload is replaced once', async (t) => {
    const before = await onlyWorker(t, broker)
    const { session, successor } = await beginReload(t, [moving, checked])
    signal(before, 'SIGKILL')
    await broker.program.line(
      (line) => line.includes('"accepting connections"') && line.includes(`"pid":${successor},`),
      'that the successor serves',
    )
    // After each reload, a slow health check left a moment in which no backend was ready.
    await t.test('a healthy backend stays healthy over a reload', async (t) => {
      const [, text] = await askAdmin(broker, '/api/v1/services/checked')
      t.match(JSON.parse(text), { backends: [{ state: 'ready' }] }, 'at the very moment')
      t.equal((await statusNow(broker)).broker.pid, successor)
    })
    t.equal(session.received, '', 'it is not finished before the last backend has moved')
    endReload()
    await session.ended
    t.match(session.received, /^Success=1\n/)
    t.equal(await onlyWorker(t, broker), successor, 'one worker is left')
    await eventually(async () => namesOf(await serviceNow(broker, 'web')).length === 2, 'with both backends')
    const pids = []
    for (let count = 0; count < 8; count++) pids.push(await servedBy(t, broker))
    t.same(new Set(pids), new Set([moving.pid, staying.pid]))
    t.match(await masterStatus(t, broker), { workers: [{ pid: successor, role: 'serving' }] })
  })

  // A client was with a stuck backend and returned to its worker after the successor, which owned it by then, had died: it was
  // reset although another backend was ready.
  await t.test('a client that comes back to a worker whose successor is dead is served', async (t) => {
    const [stuck, other] = [moving, staying]
    stuck.kill('SIGSTOP')
    const clients = [await visit(t, broker), await visit(t, broker)]
    await eventually(
      async () => (await serviceNow(broker, 'web')).inFlight === 1,
      'one of the two is with the stuck backend',
    )
    const session = await openSession(t, broker)
    session.send('reload\n')
    // A reload reported success although a backend had not moved.
    await session.ended
    t.match(session.received, /^Success=0\n/)
    t.match(
      session.received,
      new RegExp(`"code":"BATON_ERR_BACKENDS_NOT_MOVED".*web/\\S+ \\(pid ${stuck.pid}, unresponsive\\)`),
    )
    t.notMatch(session.received, `(pid ${other.pid},`)
    t.equal((await samples(broker)).get('baton_reloads_total{result="incomplete"}'), 1)
    const successor = await workerThatIs(t, broker, 'serving')
    await workerThatIs(t, broker, 'leaving')
    signal(successor, 'SIGKILL')
    await broker.program.line(
      (line) => line.includes('"worker died"') && line.includes(`"workerPid":${successor},`),
      'that the successor is dead',
    )
    // The lane of a dead backend is read back.
    stuck.kill('SIGKILL')
    for (const client of clients) {
      t.match(await client.answer(), { status: 200, headers: { 'x-pid': String(other.pid) } })
    }
    await onlyWorker(t, broker)
  })

  // These commands only need the runtime folder, and a broken configuration file is exactly when they are needed.
  await t.test('a broker can be stopped although its configuration file is broken', async (t) => {
    configure(broker, { listeners: [] })
    const command = new Program(t, process.execPath, [batonCommand, 'reload', '--config', broker.configFile])
    t.equal((await command.exited).code, 1)
    t.match(command.lines.join('\\n'), 'listeners: needs at least one listener')
    const stop = new Program(t, process.execPath, [batonCommand, 'stop', '--config', broker.configFile])
    t.equal((await stop.exited).code, 0)
    t.same(await broker.program.exited, { code: 0, signal: null })
  })
})

// The start used to remove whatever was at the path of its sockets, including a user's file.
void t.test('a file at the path of a socket is left alone', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const run = join(folder, 'run')
  mkdirSync(run, { mode: 0o700 })
  writeFileSync(join(run, 'master.sock'), 'precious')
  writeFileSync(
    join(folder, 'baton.json'),
    JSON.stringify({
      runtimeDir: run,
      admin: { listen: '127.0.0.1:0' },
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: {} },
    }),
  )
  const program = new Program(t, process.execPath, [
    batonCommand,
    'start',
    '--config',
    join(folder, 'baton.json'),
  ])
  t.equal((await program.exited).code, 1)
  t.match(program.lines, [/^baton: the runtime folder cannot be used: .*master\.sock/])
  t.equal(readFileSync(join(run, 'master.sock'), 'utf8'), 'precious')
})

void t.test('managed backends, and a full descriptor table', { timeout: LIMIT }, async (t) => {
  const streams = {
    ...PATIENT,
    command: [process.execPath, join(root, 'test/programs/stream-backend.mjs')],
    balance: 'round-robin',
  }
  const broker = await startBroker(t, {
    descriptors: 640,
    config: {
      drainDeadline: '10m',
      listeners: ['web', 'crowd', 'gone'].map(listener),
      services: { web: { ...streams, instances: 3 }, crowd: PATIENT, gone: { ...streams, instances: 1 } },
    },
  })
  const reloadWith = async (instances: number) => {
    configure(broker, {
      listeners: ['web', 'crowd'].map(listener),
      services: { web: { ...streams, instances }, crowd: PATIENT },
    })
    t.match(await reload(t, broker), { success: true })
  }
  await broker.backends(3)
  await broker.backends(1, 'gone')
  const { managed } = await masterStatus(t, broker)
  const clients = await Promise.all(
    ['web', 'web', 'web', 'gone'].map(async (name) => {
      const client = await Client.open(t, { host: '127.0.0.1', port: broker.port(name) })
      client.request('/events')
      await eventually(() => client.received.includes(': open'), 'it is served')
      return client
    }),
  )
  /** An instance, and a client that it still has to answer. */
  const served = (instance: string) => {
    const pid = managed.find((each) => each.instance === instance)?.pid
    const client = clients.find(({ received }) => received.includes(`x-pid: ${pid}\r\n`))
    if (client === undefined) throw new Error(`no client is served by ${instance}`)
    return { pid, client }
  }
  const [second, third, gone] = [served('web.2'), served('web.3'), served('gone.1')]
  const end = (pid: unknown) =>
    broker.program.messages().find(({ msg, peerPid }) => msg === 'backend process ended' && peerPid === pid)
  const drains = async (t: Test, { pid, client }: ReturnType<typeof served>) => {
    t.equal(client.open, true, 'its response continues')
    t.equal(end(pid), undefined)
    client.socket.destroy()
    await eventually(() => end(pid) !== undefined, 'it ends with its last answer')
    // SIGTERM follows once the worker reports that it has drained, and may be faster than its own exit.
    t.ok(
      broker.program
        .messages()
        .some(({ msg, peerPid }) => String(msg).includes('events closed') && peerPid === pid),
      'and not before',
    )
    const { code, signal: by } = end(pid) ?? {}
    t.ok(code === 0 || by === 'SIGTERM', `exit code ${String(code)}, signal ${String(by)}`)
  }

  // A leaving worker duplicated 200 descriptors at a time to pass them on, more than the reserve had: EMFILE ended it, with every
  // client held there. By then the successor had filled its own table from the accept queue, so descriptors were lost in
  // transit.
  await t.test('a reload loses no client when descriptors are short', async (t) => {
    const waiting = await visitorsOf(t, broker.port('crowd'), 700)
    await broker.program.message('cannot accept; clients wait in the kernel')
    const { held } = await serviceNow(broker, 'crowd')
    t.ok(held > 400, `${held} are held, the others wait in the kernel`)
    await reloadWith(2)
    await startBackend(t, broker, 'http-backend.mjs', { service: 'crowd' })
    await allServed(t, broker, 'crowd', waiting)
  })

  // A draining backend does not register again. When the worker that had seen the drain begin was gone, the master assumed that
  // the drain was complete, and an app without a SIGTERM handler was killed in the middle of its responses.
  await t.test(
    'a managed backend drains to its end under a worker whose successor does not know the service',
    (t) => drains(t, gone),
  )
  await reloadWith(1)
  await onlyWorker(t, broker)
  await t.test('a managed backend drains to its end under a worker that is replaced', (t) => drains(t, third))
  const started = logged(broker, 'accepting connections')
  signal(await onlyWorker(t, broker), 'SIGKILL')
  await logs(broker, 'accepting connections', started + 1)
  await eventually(
    async () => (await serviceNow(broker, 'web')).backends.some(({ state }) => state === 'ready'),
    'the backend that is left is back',
  )
  await onlyWorker(t, broker)
  await t.test('a managed backend drains to its end under a worker that dies', (t) => drains(t, second))
})

void t.test(
  'a shift that was ordered while the worker was being replaced outlives the master',
  { timeout: LIMIT },
  async (t) => {
    // The worker got the estate of its master before and after a replacement, and not during one.
    const sabotaged = await Sabotaged.start(t, {
      services: { web: PATIENT },
      drainDeadline: '10m',
      workerTimeout: '1h',
    })
    const { broker } = sabotaged
    await startBackend(t, broker)
    const worker = await onlyWorker(t, broker)
    sabotaged.begin('signalled-worker', 'SIGSTOP')
    const asked = await openSession(t, broker)
    asked.send('reload\n')
    const starting = await workerThatIs(t, broker, 'starting')
    const session = await openSession(t, broker)
    session.send('shift web to=2.0 share=20%\n')
    t.equal(await session.line(), 'Success=1')
    broker.program.kill('SIGKILL')
    await broker.until((status) => status.broker.master === null, 'the worker has noticed')
    t.equal((await broker.status()).broker.pid, worker)
    signal(starting, 'SIGKILL')
    const next = new Program(t, process.execPath, [batonCommand, 'start', '--config', broker.configFile], {
      group: true,
    })
    await next.message('took over the worker of a master that was killed')
    const taken = new Broker(
      next,
      broker.folder,
      broker.configFile,
      await next.message('accepting connections'),
    )
    t.match((await taken.status()).services[0], { shift: { to: '2.0', share: 20 } })
  },
)
