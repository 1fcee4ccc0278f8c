import { randomBytes } from 'node:crypto'
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { encodeFrame, FrameType, PRE_WELCOME_LIMIT } from '@baton/backend-sdk/protocol'
import { connectUnix, NativeError, type OwnedFd, poll, POLLHUP, send } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { type Broker, type Status, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { EventStream } from './support/event-stream.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, greet, hello } from './support/false-backend.ts'
import { LIMIT } from './support/limits.ts'
import { askAdmin, masterStatus } from './support/operator.ts'
import { openSockets, residentBytes } from './support/proc.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { servedBy, visit, visitors } from './support/visit.ts'
import { NOBODY, onlyWithNode } from './support/other-user.ts'

// Past bugs of the broker, each with its story. There are two brokers: one with few descriptors and one with
// enough. The last story of each is about its shutdown.

const MIB = 1024 * 1024

/** Quickly used up, but enough to start: Node opens many modules at a time. */
const FEW_DESCRIPTORS = 128

/** No deadline expires during a story. */
const PATIENT = { ackDeadline: '10m', tokenTtl: '20m', holdTimeout: '20m' }

/** Batches of 2000 probes. `npm run test:long` sends 200. */
const PROBE_BATCHES = Number(process.env['PROBE_BATCHES'] ?? 60)
/** Bytes: half of the memory that a queued reply to a probe took. */
const HALF_AN_ANSWER = 140

/** Descriptors below RLIMIT_NOFILE; an inherited one may be above it. */
function taken(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => Number(fd) < FEW_DESCRIPTORS).length
}

/** Resolves with the newest line once the broker has logged this `msg` more than `times` times. */
async function logsAgain(broker: Broker, msg: string, times: number): Promise<Record<string, unknown>> {
  const all = () => broker.program.messages().filter((message) => message['msg'] === msg)
  await eventually(
    () => all().length > times,
    () => `"${msg}" for the ${times + 1}. time; it came ${all().length} times`,
  )
  return all().at(-1) as Record<string, unknown>
}

function logged(broker: Broker, msg: string): number {
  return broker.program.messages().filter((message) => message['msg'] === msg).length
}

/** Connections to the control socket that use up the broker's descriptors. */
interface Crowd {
  readonly strangers: readonly OwnedFd[]
  readonly leave: () => void
}

/** Leaves one descriptor to the broker, which keeps two per pending connection, and connects once more. */
async function exhaust(t: Test, broker: Broker): Promise<Crowd> {
  const { pid } = broker
  const before = await settled(() => taken(pid))
  const odd =
    (FEW_DESCRIPTORS - before) % 2 === 0
      ? await Client.open(t, { host: '127.0.0.1', port: broker.port() })
      : undefined
  const open = before + (odd ? 1 : 0)
  await eventually(
    () => taken(pid) === open,
    () => `${open} descriptors; there are ${taken(pid)}`,
  )
  const times = logged(broker, 'cannot accept on the control socket')
  const strangers: OwnedFd[] = []
  for (let free = FEW_DESCRIPTORS - open; free > 0; free -= 2) strangers.push(connectUnix(broker.control))
  t.match(await logsAgain(broker, 'cannot accept on the control socket', times), { code: 'EMFILE' })
  const leave = () => {
    odd?.socket.destroy()
    for (const stranger of strangers) stranger.close()
  }
  t.teardown(leave)
  return { strangers, leave }
}

/** Descriptors of a worker that has got everything, and has loaded everything: it and its master answer. */
async function atRest(t: Test, broker: Broker): Promise<number> {
  await masterStatus(t, broker)
  await askAdmin(broker, '/api/v1/status')
  return settled(() => taken(broker.pid))
}

/** A number once it stays: connections that have just ended are still being closed. */
async function settled(number: () => number): Promise<number> {
  let [last, times] = [number(), 0]
  await eventually(() => {
    const now = number()
    times = now === last ? times + 1 : 0
    last = now
    return times === 50
  }, 'a number that stays')
  return last
}

function hungUp({ fd }: OwnedFd): boolean {
  return (poll(fd, 0) & POLLHUP) !== 0
}

void t.test('a broker with few descriptors', { timeout: LIMIT }, async (whole) => {
  const broker = await startBroker(whole, {
    descriptors: FEW_DESCRIPTORS,
    config: { drainDeadline: '100ms', services: { web: PATIENT } },
  })
  const { pid } = broker
  const before = await atRest(whole, broker)
  const asBefore = () =>
    eventually(
      () => taken(pid) === before,
      () => `${taken(pid)} descriptors, not ${before}`,
    )
  // No request to the admin server during a story: its connections would be counted.
  const story = (title: string, act: (t: Test) => Promise<void>) => whole.test(title, { timeout: LIMIT }, act)

  await story('control connections that cannot be kept are closed', async (t) => {
    // With one descriptor left, the broker accepted a backend and could not duplicate the descriptor. The accepted one leaked:
    // ten times a second, whenever another became free, until only a restart helped.
    const { strangers, leave } = await exhaust(t, broker)
    await eventually(() => hungUp(strangers.at(-1) as OwnedFd), 'the one too many is closed')
    leave()
    await asBefore()
    t.pass('as many as before')
  })

  await story('a HELLO for which no lane can be created affects only that backend', async (t) => {
    // Out of descriptors, the socketpair for a new backend's lane could not be created: the exception propagated through the
    // read of its HELLO and ended the broker, with every held client.
    const { strangers, leave } = await exhaust(t, broker)
    const [greeter] = strangers as [OwnedFd]
    send(greeter.fd, encodeFrame(hello('web')))
    await eventually(() => hungUp(greeter), 'the broker lets go of it')
    t.match(await broker.program.message('cannot send WELCOME'), { code: 'EMFILE' })
    leave()
    const backend = await startBackend(t, broker)
    t.equal(await servedBy(t, broker), backend.pid)
  })
  await asBefore()

  const backends: Program[] = []
  await story('clients leave descriptors for the backend that they wait for', async (t) => {
    // No backend was there, and clients took every descriptor. The backend that came back could not register, so no client
    // was served and none left: for the whole hold timeout, although everything needed to serve them was there.
    const waiting = await visitors(t, broker, 2 * FEW_DESCRIPTORS)
    const { code } = await broker.program.message('cannot accept; clients wait in the kernel')
    const backend = await startBackend(whole, broker)
    backends.push(backend)
    const answers = await Promise.all(waiting.map((each) => each.answer()))
    t.same(
      answers.filter(({ headers }) => Number(headers['x-pid']) !== backend.pid),
      [],
      'all are served',
    )
    t.equal(code, 'descriptor reserve reached')
  })

  await story('a broker that stops answers clients that a stopped backend has not taken', async (t) => {
    // SIGTERM while a stopped backend had offers on its lane: the broker closed its poller first, then the links returned their
    // clients, and sending them a 503 needed the poller. The broker died with exit code 1 and reset them.
    backends[0]?.kill('SIGSTOP')
    const waiting = await visitors(t, broker, 3)
    await broker.until(({ services }) => services[0]?.inFlight === 3, 'three offers in flight')
    await stops(t, broker, waiting)
  })
})

/** The broker sends 503 to all held clients, counts each of them, and exits with 0. */
async function stops(t: Test, broker: Broker, waiting: readonly Client[]): Promise<void> {
  // It waits a second for clients to close: too short to be asked for its status.
  const events = await EventStream.open(t, broker)
  broker.program.kill('SIGTERM')
  const answers = await Promise.all(waiting.map((each) => each.answer()))
  t.same(new Set(answers.map(({ status }) => status)), new Set([503]))
  for (const each of waiting) each.socket.end()
  t.same(await broker.program.exited, { code: 0, signal: null })
  await events.ended
  const last = events.events.findLast(({ event }) => event === 'status')
  const status = last?.data['status'] as Status
  t.equal(status.services[0]?.outcomes.rejected, waiting.length, 'all rejected')
  t.equal(unaccounted(status), 0)
}

/** Runs as a user who may connect to the control socket but not register. */
function unwelcome(t: Test, broker: Broker, mode: 'crowd' | 'ask'): Program {
  const text = readFileSync(join(root, 'test/programs/unwelcome.mjs'), 'utf8')
  const args = ['--input-type=module', '--eval', text, mode, broker.control]
  return new Program(t, process.execPath, args, { uid: NOBODY, cwd: '/' })
}

void t.test('a broker that other users may register with', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o711)
  const broker = await startBroker(t, {
    config: {
      runtimeDir: join(folder, 'run'),
      drainDeadline: 0,
      services: { web: PATIENT },
      security: { allowUids: [process.getuid?.() ?? -1, NOBODY - 1] },
    },
  })
  const { control } = broker

  // An honest backend that joins when a story needs it.
  const honest = new Program(t, process.execPath, [join(root, 'test/programs/service-backends.mjs')], {
    env: { BATON_SOCKET: control },
  })
  let turns = 0
  /** Each turn is one join and one leave. */
  const tell = async (command: 'join' | 'leave', done: 'joined' | 'left') => {
    honest.say(`${command} web`)
    const said = () => honest.messages().filter(({ msg }) => msg === done).length
    await eventually(() => said() === turns, `it has ${done}`)
  }
  const joins = () => {
    turns += 1
    return tell('join', 'joined')
  }
  const servedHonestly = async (...clients: Client[]) => {
    for (const each of clients) t.equal((await each.answer()).body, String(honest.pid))
  }
  const servesHonestly = async (t: Test) => servedHonestly(await visit(t, broker))
  const web = async (): Promise<Status['services'][number]> => {
    const [found] = (await broker.status()).services
    if (found === undefined) throw new Error('no service')
    return found
  }

  /** Each ends as it began: without a backend or a client. */
  const story = async (title: string, act: (t: Test) => Promise<void>, skip: string | false = false) => {
    const before = turns
    await t.test(title, { timeout: LIMIT, skip }, act)
    if (turns > before) await tell('leave', 'left')
    await broker.until(
      ({ services: [service] }) =>
        service !== undefined && service.held + service.inFlight + service.backends.length === 0,
      'all have left',
    )
  }

  await story('a HELLO of maximum length ends only its own connection', async (t) => {
    // REFUSED repeated the service's name. For a name of nearly 64 KiB it exceeded the frame limit, and the
    // encoder's exception ended the broker: one HELLO from any process that may connect was enough.
    const named = (name: string) =>
      Buffer.from(`\u0000{"protocol":1,"capabilities":[],"service":"${name}","weight":1,"pid":1,"sdk":""}`)
    const body = named('x'.repeat(PRE_WELCOME_LIMIT - named('').length))
    body[0] = FrameType.HELLO
    const prefix = Buffer.alloc(4)
    prefix.writeUInt32LE(body.length)
    await t.rejects(greet(control, Buffer.concat([prefix, body])))
    t.match(await broker.program.message('a process connected and broke the protocol'), {
      code: 'BATON_ERR_FRAME_MALFORMED',
      reason: /^HELLO: member "service" /,
    })
    // The longest allowed service name, in characters of three bytes.
    const { answer, connection } = await greet(control, hello('\uffee'.repeat(255)))
    connection.close()
    t.match(answer, { type: 'refused', code: 'UnknownService' })
    t.match(await broker.program.message('registration refused'), { code: 'UnknownService' })
    await joins()
    await servesHonestly(t)
  })

  await story('a backend that probes and never reads costs the broker no memory', async (t) => {
    // The broker answered each HEARTBEAT. Replies to a peer that did not read them piled up in its memory, hundreds
    // of megabytes within seconds.
    const peer = await FalseBackend.register(t, control, hello('web'))
    await peer.probe()
    peer.wire.pause()
    const probe = encodeFrame({ type: 'heartbeat', id: 1, reply: false })
    const probes = Buffer.concat(Array.from({ length: 2000 }, () => probe))
    const before = residentBytes(broker.pid)
    for (let batch = 0; batch < PROBE_BATCHES; batch++) await sendAll(peer.wire.fd, probes)
    const grown = residentBytes(broker.pid) - before
    const sent = 2000 * PROBE_BATCHES
    t.ok(grown < HALF_AN_ANSWER * sent, `${Math.round(grown / MIB)} MiB more for ${sent} probes`)
    t.equal((await web()).backends.length, 1, 'and it may stay')
  })

  await story('a backend that refuses offers never made is cut off, and its client served', async (t) => {
    // A NACK without a sequence is looked up by its token among all open offers. One frame holds 40,000 of them; with
    // a thousand open offers the broker did nothing else for a minute.
    const peer = await FalseBackend.register(t, control, hello('web'))
    peer.wire.answersProbes = true
    const offered = await visit(t, broker)
    await peer.offers(1)
    await joins()
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
    await servesHonestly(t)
    strange(200)
    await peer.wire.end()
    await servedHonestly(offered)
    t.equal(await broker.metric('baton_handoff_failures_total{service="web",reason="ProtocolViolation"}'), 1)
    await servesHonestly(t)
  })

  await story('a draining backend is offered nothing', async (t) => {
    const { handed_off } = (await web()).outcomes
    const peer = await FalseBackend.register(t, control, hello('web'))
    peer.wire.answersProbes = true
    const first = await visit(t, broker)
    peer.ack(...(await peer.offers(1)))
    peer.take(1)
    await broker.until(
      ({ services }) => services[0]?.outcomes.handed_off === handed_off + 1,
      'the first is handed off',
    )
    peer.wire.write({ type: 'drain', deadline: null, reason: 'test' })
    await peer.probe()
    const waiting = await visitors(t, broker, 3)
    await broker.until(({ services }) => services[0]?.held === 3, 'with no other one, they wait')
    await joins()
    await servedHonestly(...waiting)
    await servesHonestly(t)
    await peer.probe()
    t.equal((await peer.offers(1)).length, peer.wire.all('offer').flatMap(({ offers }) => offers).length)
    t.same(peer.restOfLane(), { count: 0, ended: false }, 'nor was anything put on its lane')
    t.ok(first.open, 'it keeps its connections')
  })

  await story('a backend with a nonsensical relay endpoint does not harm the worker', async (t) => {
    // When the backend left, the broker removed its path: a folder, or a name with a NUL, was an error that ended the worker
    // and every held client. A folder that stayed prevented every later worker from starting.
    const folder = dirname(control)
    mkdirSync(join(folder, 'relay-folder'))
    writeFileSync(join(folder, 'relay-file'), 'precious')
    const waiting = await visit(t, broker)
    await broker.until(({ services }) => services[0]?.held === 1, 'the client waits')
    for (const name of ['relay-folder', 'relay-file', 'relay-\0']) {
      const reconnect = { path: join(folder, name) }
      const peer = await FalseBackend.register(t, control, hello('web', { reconnect }))
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
    await joins()
    await servedHonestly(waiting)
  })

  await story(
    'a crowd that may not register does not keep backends out',
    async (t) => {
      // Each process that connected had five seconds to send HELLO, and only 128 could be in that state. Any local user could
      // occupy all 128 places indefinitely, and no backend registered again after a restart.
      const before = openSockets(broker.pid)
      await unwelcome(t, broker, 'crowd').message('crowded')
      await joins()
      await servesHonestly(t)
      const more = openSockets(broker.pid) - before
      t.ok(more < 128, `no one of them waits for the end of its time: there are ${more} more sockets`)
    },
    onlyWithNode.skip,
  )

  await story(
    'refusals of one user are logged once',
    async (t) => {
      // A refusal was logged once per pid and service name, and the stranger chooses both: lines of 60 kB,
      // thousands of them a second, from a user who may not even register.
      const from = broker.program.lines.length
      await unwelcome(t, broker, 'ask').message('asked')
      await unwelcome(t, broker, 'ask').message('asked')
      // The line of a later refusal: once it is there, theirs are complete.
      const { connection } = await greet(control, hello('web', { protocol: 2 }))
      connection.close()
      await broker.program.line((line) => line.includes('"ProtocolVersion"'), 'the last refusal')
      const refused = broker.program
        .messages()
        .filter(({ msg, uid }) => msg === 'registration refused' && uid === NOBODY)
      t.match(refused, [{ code: 'UidNotAllowed' }])
      t.equal(refused.length, 1)
      t.ok(broker.program.lines.slice(from).join('\n').length < 10_000, 'and a short one')
    },
    onlyWithNode.skip,
  )

  await t.test('a broker that stops at once answers every offered client', async (t) => {
    // The bug of the other broker's last story, in everyday conditions. Without time to drain, any backend that was busy for
    // a moment was enough: it always had an offer in flight.
    const backend = await startBackend(t, broker)
    const { handed_off } = (await web()).outcomes
    const served = await visit(t, broker, '/wait')
    await broker.until(({ services }) => services[0]?.outcomes.handed_off === handed_off + 1, 'it is served')
    // If it were stopped before it has read the request, it would read the `answer` command first.
    await backend.message('waiting')
    backend.kill('SIGSTOP')
    const waiting = await visitors(t, broker, 16)
    await broker.until(({ services }) => services[0]?.inFlight === 16, 'sixteen offers in flight')
    await stops(t, broker, waiting)
    backend.kill('SIGCONT')
    backend.say('answer')
    t.equal((await served.answer()).body, `waited ${backend.pid}`, 'adopted clients do not notice')
  })
})

/** The kernel accepts it in parts, as the broker reads. */
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
