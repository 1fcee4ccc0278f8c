import { randomBytes } from 'node:crypto'
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { encodeFrame, FrameType, PRE_WELCOME_LIMIT } from '@baton/backend-sdk/protocol'
import { connectUnix, NativeError, type OwnedFd, poll, POLLHUP, send } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, greet, hello } from './support/false-backend.ts'
import { residentBytes } from './support/proc.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { servedBy, visit, visitors } from './support/visit.ts'
import { LIMIT } from './support/limits.ts'

// What once went wrong in a broker, each under the story of how it was found out.

const onlyAsRoot = process.getuid?.() !== 0 && 'needs root'
const NOBODY = 65_534
const MIB = 1024 * 1024

/** Soon filled, and enough to start with: Node opens many modules at a time. */
const FEW_DESCRIPTORS = 128

function story(title: string, act: (t: Test) => Promise<void>, skip: string | false = false): void {
  void t.test(title, { timeout: LIMIT, skip }, act)
}

/** Descriptors that RLIMIT_NOFILE counts: one that was inherited may lie above it. */
function taken(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => Number(fd) < FEW_DESCRIPTORS).length
}

/** Those who knocked at a control socket until there was no room for one more. */
interface Crowd {
  readonly strangers: readonly OwnedFd[]
  readonly leave: () => void
}

/** Leaves one descriptor to the broker, which keeps two for each who knocks, and knocks once more. */
async function exhaust(t: Test, broker: Broker): Promise<Crowd> {
  const { pid } = broker
  const address = { host: '127.0.0.1', port: broker.port() }
  const before = taken(pid)
  const odd = (FEW_DESCRIPTORS - before) % 2 === 0 ? await Client.open(t, address) : undefined
  const strangers: OwnedFd[] = []
  for (let open = before + (odd ? 1 : 0); open < FEW_DESCRIPTORS; open += 2) {
    await eventually(
      () => taken(pid) === open,
      () => `${open} descriptors; there are ${taken(pid)}`,
    )
    strangers.push(connectUnix(broker.control))
  }
  t.match(await broker.program.message('cannot accept on the control socket'), { code: 'EMFILE' })
  const leave = () => {
    odd?.socket.destroy()
    for (const stranger of strangers) stranger.close()
  }
  t.teardown(leave)
  return { strangers, leave }
}

function hungUp({ fd }: OwnedFd): boolean {
  return (poll(fd, 0) & POLLHUP) !== 0
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

/** An honest backend, whatever the others do: before anybody else's time is up. */
async function registersSoon(t: Test, broker: Broker): Promise<Program> {
  const program = new Program(t, process.execPath, [join(root, 'test/programs/http-backend.mjs')], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
  })
  const registered = () => program.messages().some(({ msg }) => msg === 'ready')
  await eventually(registered, 'the backend is registered', 6000)
  return program
}

story('a broker that stops gives an answer to clients that a backend sits on', async (t) => {
  // SIGTERM while a stopped backend had offers on its lane: the broker closed its poller first, the links gave their
  // clients back afterwards, and to say 503 to those needed the poller. It died of that, exit code 1, and reset them.
  const slow = { ackDeadline: '5s', tokenTtl: '10s' }
  const broker = await startBroker(t, { config: { drainDeadline: '100ms', services: { web: slow } } })
  const backend = await startBackend(t, broker)
  await broker.backends(1)
  backend.kill('SIGSTOP')
  const waiting = await visitors(t, broker, 3)
  await broker.until(({ services }) => services[0]?.inFlight === 3, 'three offers in flight')
  broker.program.kill('SIGTERM')
  const status = await broker.until(({ services }) => services[0]?.outcomes.rejected === 3, 'all rejected')
  t.equal(unaccounted(status), 0)
  const answers = await Promise.all(waiting.map((each) => each.answer()))
  t.same(new Set(answers.map(({ status }) => status)), new Set([503]))
  for (const each of waiting) each.socket.end()
  t.same(await broker.program.exited, { code: 0, signal: null })
})

story('a broker that stops at once says so to all whom it has offered', async (t) => {
  // The same death in daily life. With no time to drain at all, any backend that was busy for a moment was enough: behind
  // it there was always an offer in flight.
  const slow = { ackDeadline: '5s', tokenTtl: '10s' }
  const broker = await startBroker(t, { config: { drainDeadline: 0, services: { web: slow } } })
  const backend = await startBackend(t, broker, 'told-backend.mjs')
  const served = await visit(t, broker, '/wait')
  await backend.message('adopt')
  backend.child.stdin?.write('block\n')
  await backend.message('blocking')
  const waiting = await visitors(t, broker, 16)
  await broker.until(({ services }) => services[0]?.inFlight === 16, 'sixteen offers in flight')
  broker.program.kill('SIGTERM')
  const answers = await Promise.all(waiting.map((each) => each.answer()))
  t.same(new Set(answers.map(({ status }) => status)), new Set([503]))
  for (const each of waiting) each.socket.end()
  t.same(await broker.program.exited, { code: 0, signal: null })
  backend.child.stdin?.write('answer\n')
  t.equal((await served.answer()).body, 'waited', 'who has a backend does not notice')
})

story('a HELLO that no lane can be made for costs that backend alone', async (t) => {
  // Out of descriptors, the pair for a new backend's lane could not be created: the exception went up through the read
  // of its HELLO and ended the broker, and with it every client that waited.
  const broker = await startBroker(t, { descriptors: FEW_DESCRIPTORS })
  const { strangers, leave } = await exhaust(t, broker)
  const [greeter] = strangers as [OwnedFd]
  send(greeter.fd, encodeFrame(hello('web')))
  await eventually(() => hungUp(greeter), 'the broker lets go of it')
  t.match(await broker.program.message('WELCOME could not be sent'), { code: 'EMFILE' })
  leave()
  const backend = await startBackend(t, broker)
  t.equal(await servedBy(t, broker), backend.pid)
})

story('a HELLO as long as it may be is refused with an answer that fits', async (t) => {
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

story('control connections that cannot be kept are closed', async (t) => {
  // With one descriptor left the broker accepted a backend and could not duplicate it. The accepted one was forgotten
  // open: ten times a second, whenever somebody else left, until nothing was left but a restart.
  const broker = await startBroker(t, { descriptors: FEW_DESCRIPTORS })
  const { pid } = broker
  const before = taken(pid)
  const { strangers, leave } = await exhaust(t, broker)
  await eventually(() => hungUp(strangers.at(-1) as OwnedFd), 'the one too many is closed')
  leave()
  await eventually(
    () => taken(pid) === before,
    () => `${taken(pid)} descriptors, not ${before}`,
  )
  t.pass('as many as before')
})

story('clients leave room for the backend that they wait for', async (t) => {
  // No backend was there, and clients took every descriptor. The backend that came back could not register, so nobody
  // was served, so nobody left: for the whole hold timeout, with everything there to serve them.
  const services = { web: { holdTimeout: '60s' } }
  const broker = await startBroker(t, { descriptors: FEW_DESCRIPTORS, config: { services } })
  const waiting = await visitors(t, broker, 2 * FEW_DESCRIPTORS)
  const { code } = await broker.program.message('cannot accept; clients wait in the kernel')
  const backend = await registersSoon(t, broker)
  const answers = await Promise.all(waiting.map((each) => each.answer()))
  t.same(
    answers.filter(({ headers }) => Number(headers['x-pid']) !== backend.pid),
    [],
    'everybody is served',
  )
  t.equal(code, 'descriptor reserve reached')
})

story(
  'a crowd of users who may not register keeps nobody out',
  async (t) => {
    // Each process that connected had five seconds to say HELLO, and only 128 might be in that state. Any local user could
    // take all 128 places for ever, and no backend registered again after a restart.
    const broker = await startShared(t)
    await unwelcome(t, broker, 'crowd').message('crowded')
    const backend = await registersSoon(t, broker)
    t.equal(await servedBy(t, broker), backend.pid)
  },
  onlyAsRoot,
)

story(
  'refusals of one user are one line in the log',
  async (t) => {
    // A refusal was logged once for each pid and name of a service, and both are the stranger's to choose: 60 kB a line,
    // thousands of lines a second, from a user who may not even register.
    const broker = await startShared(t)
    await unwelcome(t, broker, 'ask').message('asked')
    await unwelcome(t, broker, 'ask').message('asked')
    await broker.program.message('registration refused')
    const refused = broker.program.messages().filter(({ msg }) => msg === 'registration refused')
    t.match(refused, [{ code: 'UidNotAllowed', uid: NOBODY }])
    t.equal(refused.length, 1)
    t.ok(broker.program.lines.join('\n').length < 10_000, 'and a short one')
  },
  onlyAsRoot,
)

story('a backend that probes and never reads costs the broker no memory', async (t) => {
  // The broker answered each HEARTBEAT. The answers to a peer that does not read them piled up in its memory, hundreds
  // of megabytes within seconds.
  const broker = await startBroker(t)
  const peer = await FalseBackend.register(t, broker.control, hello('web'))
  await peer.probe()
  peer.wire.pause()
  const probe = encodeFrame({ type: 'heartbeat', id: 1, reply: false })
  const probes = Buffer.concat(Array.from({ length: 2000 }, () => probe))
  const before = residentBytes(broker.pid)
  for (let batch = 0; batch < 200; batch++) await sendAll(peer.wire.fd, probes)
  const grown = residentBytes(broker.pid) - before
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

story('a backend that refuses what nobody offered is cut off, and its client served', async (t) => {
  // A NACK without a sequence is looked for by its token among all open offers. One frame holds 40,000 of them, and with
  // a thousand offers open that was a minute in which the broker did nothing else.
  const patient = { ackDeadline: '20s', tokenTtl: '40s' }
  const broker = await startBroker(t, { config: { services: { web: patient } } })
  const peer = await FalseBackend.register(t, broker.control, hello('web'))
  const honest = await startBackend(t, broker)
  const offered = await visit(t, broker)
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

story('nothing is offered to a backend that drains', async (t) => {
  const broker = await startBroker(t)
  const peer = await FalseBackend.register(t, broker.control, hello('web'))
  const first = await visit(t, broker)
  peer.ack(...(await peer.offers(1)))
  peer.take(1)
  await broker.until(({ services }) => services[0]?.outcomes.handed_off === 1, 'the first is handed off')
  peer.wire.write({ type: 'drain', deadline: null, reason: 'test' })
  await peer.probe()
  const waiting = await visitors(t, broker, 3)
  await broker.until(({ services }) => services[0]?.held === 3, 'with nobody else, they wait')
  const honest = await startBackend(t, broker)
  for (const each of waiting) t.equal(Number((await each.answer()).headers['x-pid']), honest.pid)
  t.equal(await servedBy(t, broker), honest.pid)
  await peer.probe()
  t.equal((await peer.offers(1)).length, peer.wire.all('offer').flatMap(({ offers }) => offers).length)
  t.same(peer.restOfLane(), { count: 0, ended: false }, 'nor was anything put on its lane')
  t.ok(first.open, 'what it has, it keeps')
})

story('a backend that names nonsense as its relay endpoint costs the worker nothing', async (t) => {
  // When it left, the broker removed the path: a folder, or a name with a NUL, was an error that ended the worker, and with it
  // every client that waited. A folder that stayed kept each worker after it from starting.
  const broker = await startBroker(t)
  const folder = dirname(broker.control)
  mkdirSync(join(folder, 'relay-folder'))
  writeFileSync(join(folder, 'relay-file'), 'somebody’s')
  const waiting = await visit(t, broker)
  await broker.until(({ services }) => services[0]?.held === 1, 'the client waits')
  for (const name of ['relay-folder', 'relay-file', 'relay-\0']) {
    const reconnect = { path: join(folder, name) }
    const peer = await FalseBackend.register(t, broker.control, hello('web', { reconnect }))
    await peer.offers(1)
    peer.die()
    await broker.backends(0)
  }
  t.equal((await broker.status()).broker.pid, broker.pid, 'the same worker')
  t.same(
    readdirSync(folder)
      .filter((name) => name.startsWith('relay-'))
      .toSorted(),
    ['relay-file', 'relay-folder'],
  )
  const honest = await startBackend(t, broker)
  t.equal(Number((await waiting.answer()).headers['x-pid']), honest.pid)
})
