import { randomBytes } from 'node:crypto'
import { chmodSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { encodeFrame, FrameType, PRE_WELCOME_LIMIT } from '@baton/backend-sdk/protocol'
import { connectUnix, NativeError, type OwnedFd, poll, POLLHUP, send } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, greet, hello } from './support/false-backend.ts'
import { startLoad } from './support/load.ts'
import { openDescriptors, residentBytes } from './support/proc.ts'
import { Program, root, temporaryFolder } from './support/process.ts'

// What once went wrong in a broker, each under the story of how it was found out.

const asRoot = process.getuid?.() === 0
const NOBODY = 65_534
const MIB = 1024 * 1024

/** Soon filled, and enough to start with: Node opens many modules at a time. */
const FEW_DESCRIPTORS = 128

async function client(t: Test, broker: Broker): Promise<Client> {
  const opened = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  opened.request()
  return opened
}

async function clients(t: Test, broker: Broker, count: number): Promise<Client[]> {
  return Promise.all(Array.from({ length: count }, () => client(t, broker)))
}

/** The pid of the backend that a new client of the broker gets. */
async function servedBy(t: Test, broker: Broker): Promise<number> {
  return Number((await (await client(t, broker)).answer()).headers['x-pid'])
}

/** Knocks at the control socket until the broker has one descriptor left, and once more. It keeps two for each who knocks. */
async function exhaust(t: Test, broker: Broker): Promise<OwnedFd[]> {
  const { pid } = broker.program
  const strangers: OwnedFd[] = []
  t.teardown(() => strangers.forEach((stranger) => stranger.close()))
  let open = openDescriptors(pid)
  if ((FEW_DESCRIPTORS - open) % 2 === 0) {
    await client(t, broker)
    open += 1
    await eventually(() => openDescriptors(pid) === open, 'a client is held')
  }
  for (; open + 2 <= FEW_DESCRIPTORS; open += 2) {
    strangers.push(connectUnix(broker.control))
    await eventually(() => openDescriptors(pid) >= open + 2, 'a stranger is let in')
  }
  strangers.push(connectUnix(broker.control))
  const { code } = await broker.program.message('cannot accept on the control socket')
  t.equal(code, 'EMFILE')
  return strangers
}

/** Runs as a user who may knock and may not register. */
function unwelcome(t: Test, broker: Broker, mode: 'crowd' | 'ask'): Program {
  const text = readFileSync(join(root, 'test/programs/unwelcome.mjs'), 'utf8')
  const args = ['--input-type=module', '--eval', text, mode, broker.control]
  return new Program(t, process.execPath, args, { uid: NOBODY, cwd: '/' })
}

/** A broker that others than its own user may register with, but not that one. */
async function startShared(t: Test): Promise<Broker> {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o711)
  const security = { allowUids: [0, NOBODY - 1] }
  return startBroker(t, { config: { runtimeDir: join(folder, 'run'), security } })
}

void t.test('a broker that stops gives an answer to clients that a backend sits on', async (t) => {
  // SIGTERM while a stopped backend had offers on its lane: the broker closed its poller first, the links gave their
  // clients back afterwards, and to say 503 to those needed the poller. It died of that, exit code 1, and reset them.
  const slow = { ackDeadline: '5s', tokenTtl: '10s' }
  const broker = await startBroker(t, { config: { drainDeadline: '100ms', services: { web: slow } } })
  const backend = await startBackend(t, broker)
  await broker.backends(1)
  backend.kill('SIGSTOP')
  const waiting = await clients(t, broker, 3)
  await broker.until(({ services }) => services[0]?.inFlight === 3, 'three offers in flight')
  broker.program.kill('SIGTERM')
  const status = await broker.until(({ services }) => services[0]?.outcomes.rejected === 3, 'all rejected')
  t.equal(unaccounted(status), 0)
  for (const each of waiting) t.equal((await each.answer()).status, 503)
  for (const each of waiting) each.socket.end()
  t.same(await broker.program.exited, { code: 0, signal: null })
})

void t.test('a broker that stops at once under load ends with 0', async (t) => {
  // The same death in daily life: with sixteen clients coming and going, there was always an offer in flight.
  const broker = await startBroker(t, { config: { drainDeadline: 0 } })
  await startBackend(t, broker)
  const load = startLoad(t, broker, { total: 20_000, concurrency: 16 })
  await broker.until(({ services }) => (services[0]?.outcomes.handed_off ?? 0) > 100, 'it is busy')
  broker.program.kill('SIGTERM')
  t.same(await broker.program.exited, { code: 0, signal: null })
  const { failures } = await load
  const others = Object.keys(failures).filter((kind) => !/^(status 503|ECONNREFUSED|ECONNRESET)/.test(kind))
  t.same(others, [], 'nobody was left without an end')
})

void t.test('a HELLO that no lane can be made for costs that backend alone', async (t) => {
  // Out of descriptors, the pair for a new backend's lane could not be created: the exception went up through the read
  // of its HELLO and ended the broker, and with it every client that waited.
  const broker = await startBroker(t, { descriptors: FEW_DESCRIPTORS })
  const strangers = await exhaust(t, broker)
  const [greeter] = strangers as [OwnedFd]
  send(greeter.fd, encodeFrame(hello('web')))
  await eventually(() => (poll(greeter.fd, 0) & POLLHUP) !== 0, 'the broker lets go of it')
  t.match(await broker.program.message('WELCOME could not be sent'), { code: 'EMFILE' })
  for (const stranger of strangers) stranger.close()
  const backend = await startBackend(t, broker)
  t.equal(await servedBy(t, broker), backend.pid)
})

void t.test('a HELLO as long as it may be is refused with an answer that fits', async (t) => {
  // REFUSED repeated the name of the service. That of a name of nearly 64 KiB was longer than a frame may be, and the
  // encoder's exception ended the broker: one HELLO from anybody who may connect.
  const broker = await startBroker(t)
  const named = (name: string) =>
    Buffer.from(`\u0000{"protocol":1,"capabilities":[],"service":"${name}","weight":1,"pid":1,"sdk":""}`)
  const body = named('x'.repeat(PRE_WELCOME_LIMIT - named('').length))
  body[0] = FrameType.HELLO
  const prefix = Buffer.alloc(4)
  prefix.writeUInt32LE(body.length)
  const { answer, connection } = await greet(broker.control, Buffer.concat([prefix, body]))
  connection.close()
  t.match(answer, { type: 'refused', code: 'UnknownService' })
  t.match(await broker.program.message('registration refused'), { code: 'UnknownService' })
  const backend = await startBackend(t, broker)
  t.equal(await servedBy(t, broker), backend.pid)
})

void t.test('control connections that cannot be kept are closed', async (t) => {
  // With one descriptor left the broker accepted a backend and could not duplicate it. The accepted one was forgotten
  // open: ten times a second, whenever somebody else left, until nothing was left but a restart.
  const broker = await startBroker(t, { descriptors: FEW_DESCRIPTORS })
  const { pid } = broker.program
  const before = openDescriptors(pid)
  const strangers = await exhaust(t, broker)
  const last = strangers.at(-1) as OwnedFd
  await eventually(() => (poll(last.fd, 0) & POLLHUP) !== 0, 'the one too many is closed')
  for (const stranger of strangers) stranger.close()
  const held = openDescriptors(pid, broker.port()) === openDescriptors(pid) ? 0 : 1
  await eventually(
    () => openDescriptors(pid) - held === before,
    () => `${openDescriptors(pid) - held} descriptors, not ${before}`,
  )
  t.pass('as many as before')
})

void t.test('clients leave room for the backend that they wait for', async (t) => {
  // No backend was there, and clients took every descriptor. The backend that came back could not register, so nobody
  // was served, so nobody left: for the whole hold timeout, with everything there to serve them.
  const services = { web: { holdTimeout: '60s' } }
  const broker = await startBroker(t, { descriptors: FEW_DESCRIPTORS, config: { services } })
  const waiting = await clients(t, broker, 2 * FEW_DESCRIPTORS)
  const { code } = await broker.program.message('cannot accept; clients wait in the kernel')
  const program = join(root, 'test/programs/http-backend.mjs')
  const backend = new Program(t, process.execPath, [program], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
  })
  const registered = () => backend.messages().some(({ msg }) => msg === 'ready')
  await eventually(registered, 'the backend is registered', 5000)
  const answers = await Promise.all(waiting.map((each) => each.answer()))
  t.same(
    answers.filter(({ headers }) => Number(headers['x-pid']) !== backend.pid),
    [],
    'everybody is served',
  )
  t.equal(code, 'descriptor reserve reached')
})

void t.test(
  'a crowd of users who may not register keeps nobody out',
  { skip: !asRoot && 'needs root' },
  async (t) => {
    // Each process that connected had five seconds to say HELLO, and only 128 might be in that state. Any local user could
    // take all 128 places for ever, and no backend registered again after a restart.
    const broker = await startShared(t)
    await unwelcome(t, broker, 'crowd').message('crowded')
    const program = join(root, 'test/programs/http-backend.mjs')
    const backend = new Program(t, process.execPath, [program], {
      env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
    })
    const registered = () => backend.messages().some(({ msg }) => msg === 'ready')
    await eventually(registered, 'the backend is registered', 4000)
    t.equal(await servedBy(t, broker), backend.pid)
  },
)

void t.test('refusals of one user are one line in the log', { skip: !asRoot && 'needs root' }, async (t) => {
  // A refusal was logged once for each pid and name of a service, and both are the stranger's to choose: 60 kB a line,
  // thousands of lines a second, from a user who may not even register.
  const broker = await startShared(t)
  await unwelcome(t, broker, 'ask').message('asked')
  await unwelcome(t, broker, 'ask').message('asked')
  const refused = broker.program.messages().filter(({ msg }) => msg === 'registration refused')
  t.match(refused, [{ code: 'UidNotAllowed', uid: NOBODY }])
  t.equal(refused.length, 1)
  t.ok(broker.program.lines.join('\n').length < 10_000, 'and a short one')
})

void t.test('a backend that probes and never reads costs the broker no memory', async (t) => {
  // The broker answered each HEARTBEAT. The answers to a peer that does not read them piled up in its memory, hundreds
  // of megabytes within seconds.
  const broker = await startBroker(t)
  const peer = await FalseBackend.register(t, broker.control, hello('web'))
  await peer.probe()
  peer.wire.pause()
  const probe = encodeFrame({ type: 'heartbeat', id: 1, reply: false })
  const probes = Buffer.concat(Array.from({ length: 2000 }, () => probe))
  const before = residentBytes(broker.program.pid)
  for (let batch = 0; batch < 200; batch++) await sendAll(peer.wire.fd, probes)
  const grown = residentBytes(broker.program.pid) - before
  t.ok(grown < 64 * MIB, `${Math.round(grown / MIB)} MiB more for 400,000 probes`)
  t.equal((await broker.status()).services[0]?.backends.length, 1, 'and it may stay')
})

/** The kernel takes it in parts, as the broker reads. */
async function sendAll(fd: OwnedFd, bytes: Buffer): Promise<void> {
  let sent = 0
  await eventually(() => {
    try {
      while (sent < bytes.length) sent += send(fd.fd, bytes.subarray(sent))
    } catch (error) {
      if (!(error instanceof NativeError) || error.code !== 'EAGAIN') throw error
    }
    return sent === bytes.length
  }, 'the broker reads')
}

void t.test('a backend that refuses what nobody offered is cut off, and its client served', async (t) => {
  // A NACK without a sequence is looked for by its token among all open offers. One frame holds 40,000 of them, and with
  // a thousand offers open that was a minute in which the broker did nothing else.
  const patient = { ackDeadline: '20s', tokenTtl: '40s' }
  const broker = await startBroker(t, { config: { services: { web: patient } } })
  const peer = await FalseBackend.register(t, broker.control, hello('web'))
  const honest = await startBackend(t, broker)
  const offered = await client(t, broker)
  await peer.offers(1)
  const strange = (count: number) =>
    peer.wire.write({
      type: 'nack',
      nacks: Array.from({ length: count }, () => ({
        sequence: 0,
        reason: 'TokenNotPending' as const,
        token: randomBytes(16),
      })),
    })
  strange(200)
  await peer.probe()
  t.notOk(peer.wire.ended, 'a few can be explained')
  t.equal(await servedBy(t, broker), honest.pid)
  strange(200)
  await peer.wire.end()
  t.equal(Number((await offered.answer()).headers['x-pid']), honest.pid, 'what was on its lane goes on')
  t.equal(await broker.metric('baton_handoff_failures_total{service="web",reason="ProtocolViolation"}'), 1)
  t.equal(await servedBy(t, broker), honest.pid)
})

void t.test('nothing is offered to a backend that drains', async (t) => {
  const broker = await startBroker(t)
  const peer = await FalseBackend.register(t, broker.control, hello('web'))
  const first = await client(t, broker)
  peer.ack(...(await peer.offers(1)))
  peer.take(1)
  await broker.until(({ services }) => services[0]?.outcomes.handed_off === 1, 'the first is handed off')
  peer.wire.write({ type: 'drain', deadline: null, reason: 'test' })
  await peer.probe()
  const waiting = await clients(t, broker, 3)
  await broker.until(({ services }) => services[0]?.held === 3, 'with nobody else, they wait')
  const honest = await startBackend(t, broker)
  for (const each of waiting) t.equal(Number((await each.answer()).headers['x-pid']), honest.pid)
  t.equal(await servedBy(t, broker), honest.pid)
  await peer.probe()
  t.equal((await peer.offers(1)).length, peer.wire.all('offer').flatMap(({ offers }) => offers).length)
  t.same(peer.restOfLane(), { count: 0, ended: false }, 'nor was anything put on its lane')
  t.ok(first.open, 'what it has, it keeps')
})
