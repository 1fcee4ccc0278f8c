import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  encodeFrame,
  type Frame,
  FrameType,
  HANDBACK_CAPABILITY,
  type Offer,
} from '@baton/backend-sdk/protocol'
import { connectUnix, listenUnix, send, sendMessage } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { answerOn, FalseBackend, greet, hello } from './support/false-backend.ts'
import { LIMIT, starts } from './support/limits.ts'
import { openDescriptors } from './support/proc.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { signal } from './support/signal.ts'
import { Wire } from './support/wire.ts'

// A real broker, an honest backend, and one that breaks the rules: which of them gets the clients.

const CUT_OFF = 'backend broke the protocol and is cut off'
const SECRET = randomBytes(12).toString('hex')
/** Long enough that no deadline expires while a test does something else. */
const PATIENT = { ackDeadline: '10m', tokenTtl: '20m', holdTimeout: '20m' }
/** Half a broker start: far longer than the honest backend needs. */
const PROMPT = { ...PATIENT, ackDeadline: starts(0.05) }
const SERVICES = {
  patient: PATIENT,
  prompt: PROMPT,
  bounded: { ...PROMPT, maxStuck: 1 },
  robin: { ...PATIENT, balance: 'round-robin' },
}
type Service = keyof typeof SERVICES

class World {
  readonly broker: Broker
  readonly honest: Program
  readonly tokens: Buffer[] = []
  readonly #peers: FalseBackend[] = []
  readonly #joined: Service[] = []

  constructor(broker: Broker, honest: Program) {
    this.broker = broker
    this.honest = honest
  }

  /** The backend that breaks the rules. It registers first, so the first clients are offered to it. */
  async hostile(t: Test, service: Service, capabilities: string[] = []): Promise<FalseBackend> {
    const frame = hello(service, { secret: SECRET, capabilities })
    const peer = await FalseBackend.register(t, this.broker.control, frame)
    // The other services are for one that does not answer.
    peer.wire.answersProbes = SERVICES[service] === PATIENT || service === 'robin'
    this.#peers.push(peer)
    return peer
  }

  async joinHonest(service: Service): Promise<void> {
    this.#joined.push(service)
    await this.#tell('join', 'joined', service)
  }

  async client(t: Test, service: Service): Promise<Client> {
    const client = await Client.open(t, { host: '127.0.0.1', port: this.broker.port(service) })
    client.request()
    return client
  }

  async clients(t: Test, service: Service, count: number): Promise<Client[]> {
    const clients: Client[] = []
    for (let index = 0; index < count; index++) clients.push(await this.client(t, service))
    return clients
  }

  /** Proves that the honest backend has the client. */
  async servedHonestly(t: Test, ...clients: Client[]): Promise<void> {
    for (const client of clients) t.equal((await client.answer()).body, String(this.honest.pid))
  }

  async service(name: Service) {
    const { services } = await this.broker.status()
    const found = services.find((each) => each.name === name)
    if (found === undefined) throw new Error(`no service ${name}`)
    return found
  }

  /** Resolves once the broker has read `more` ACKs beyond `before`: a client may get its response earlier. */
  async handedOff(name: Service, before: number, more: number): Promise<void> {
    await this.broker.until(
      ({ services }) =>
        services.some((each) => each.name === name && each.outcomes.handed_off >= before + more),
      `${more} more of ${name} are handed off`,
    )
  }

  async failures(service: Service, reason: string): Promise<number> {
    return this.broker.metric(`baton_handoff_failures_total{service="${service}",reason="${reason}"}`)
  }

  /** Closes all clients and backends; records the tokens that were on the wire. */
  async clear(): Promise<void> {
    for (const peer of this.#peers.splice(0)) {
      for (const { offers } of peer.wire.all('offer')) this.tokens.push(...offers.map(({ token }) => token))
      peer.die()
    }
    for (const service of this.#joined.splice(0)) await this.#tell('leave', 'left', service)
  }

  async #tell(command: string, done: string, service: Service): Promise<void> {
    const seen = this.honest.lines.length
    this.honest.child.stdin?.write(`${command} ${service}\n`)
    await eventually(
      () => this.honest.lines.slice(seen).some((line) => line.includes(`"${done}","service":"${service}"`)),
      `${done} ${service}`,
    )
  }
}

async function startWorld(t: Test): Promise<World> {
  const secretFile = join(temporaryFolder(t), 'secret')
  writeFileSync(secretFile, SECRET, { mode: 0o600 })
  const broker = await startBroker(t, {
    config: {
      listeners: Object.keys(SERVICES).map((name) => ({
        name,
        listen: '127.0.0.1:0',
        protocol: 'http',
        service: name,
      })),
      services: SERVICES,
      // It is stopped for a moment, which may take long on a busy machine.
      workerTimeout: '1h',
      security: { registrationSecretFile: secretFile },
    },
  })
  const honest = new Program(t, process.execPath, [join(root, 'test/programs/service-backends.mjs')], {
    env: { BATON_SOCKET: broker.control, BATON_SECRET: SECRET },
  })
  return new World(broker, honest)
}

void t.test('a backend that breaks the rules', { timeout: starts(200) }, async (t) => {
  const world = await startWorld(t)
  const { broker, honest } = world
  const admin = Number(new URL(broker.admin).port)

  /** Each scene ends as it began: every client accounted for, every descriptor of the broker closed. */
  const scene = (title: string, act: (t: Test) => Promise<void>) =>
    t.test(title, { timeout: LIMIT }, async (t) => {
      await broker.status()
      const before = openDescriptors(broker.pid, admin)
      await act(t)
      await world.clear()
      await broker.until(
        (status) =>
          unaccounted(status) === 0 &&
          status.services.every(({ held, inFlight, backends }) => held + inFlight + backends.length === 0),
        'every client is accounted for, and no backend is registered',
      )
      await eventually(
        () => openDescriptors(broker.pid, admin) === before,
        () => `${openDescriptors(broker.pid, admin)} descriptors, not ${before}`,
      )
      t.pass('all clients accounted for, all descriptors closed')
    })

  const header = (length: number, type: number) => {
    const bytes = Buffer.alloc(5)
    bytes.writeUInt32LE(length, 0)
    bytes[4] = type
    return bytes
  }
  const stranger = randomBytes(16)
  const violations: [what: string, code: string, bytes: (offers: Offer[]) => Buffer][] = [
    ['a frame of length 0', 'BATON_ERR_FRAME_MALFORMED', () => Buffer.alloc(4)],
    ['a frame over 1 MiB', 'BATON_ERR_FRAME_TOO_LARGE', () => header(1_048_577, FrameType.STATS)],
    ['an unknown type below 0x80', 'BATON_ERR_FRAME_UNKNOWN_TYPE', () => header(1, 0x7f)],
    [
      'STATS that is not JSON',
      'BATON_ERR_FRAME_MALFORMED',
      () => Buffer.concat([header(2, FrameType.STATS), Buffer.from('{')]),
    ],
    [
      'RESUMES that was not granted',
      'BATON_ERR_FRAME_MALFORMED',
      () => encodeFrame({ type: 'resumes', schemas: ['chat/1'] }),
    ],
    [
      'a second HELLO',
      'BATON_ERR_FRAME_OUT_OF_ORDER',
      () => encodeFrame(hello('patient', { secret: SECRET })),
    ],
    [
      "a broker's frame",
      'BATON_ERR_FRAME_OUT_OF_ORDER',
      () => encodeFrame({ type: 'revoke', sequences: [1] }),
    ],
    [
      'an ACK of an offer that was never made',
      'BATON_ERR_FRAME_MALFORMED',
      () => encodeFrame({ type: 'ack', acks: [{ sequence: 999, connection: stranger }] }),
    ],
    [
      'a NACK of an offer that was never made',
      'BATON_ERR_FRAME_MALFORMED',
      () =>
        encodeFrame({ type: 'nack', nacks: [{ sequence: 999, reason: 'TokenExpired', token: stranger }] }),
    ],
    [
      "an ACK with another connection's ULID",
      'BATON_ERR_FRAME_MALFORMED',
      ([first, second]) =>
        encodeFrame({
          type: 'ack',
          acks: [{ sequence: first?.sequence ?? 0, connection: second?.connection ?? stranger }],
        }),
    ],
    [
      'an ACK with an unknown ULID',
      'BATON_ERR_FRAME_MALFORMED',
      ([first]) =>
        encodeFrame({ type: 'ack', acks: [{ sequence: first?.sequence ?? 0, connection: stranger }] }),
    ],
  ]
  for (const [what, code, bytes] of violations) {
    await scene(`${what}: cut off; untaken clients move on, taken ones do not`, async (t) => {
      const peer = await world.hostile(t, 'patient')
      const [taken, ...queued] = (await world.clients(t, 'patient', 3)) as [Client, Client, Client]
      const offers = await peer.offers(3)
      peer.take(1)
      await world.joinHonest('patient')
      const { outcomes } = await world.service('patient')
      const failed = await world.failures('patient', 'ProtocolViolation')

      peer.wire.write(bytes(offers))
      await peer.wire.end()
      t.same(peer.restOfLane(), { count: 0, ended: true }, 'read back before control was closed')
      await world.servedHonestly(t, ...queued)
      await world.handedOff('patient', outcomes.handed_off, 2)
      const after = (await world.service('patient')).outcomes
      t.equal(after.relinquished - outcomes.relinquished, 1, 'taken clients are relinquished')
      t.equal(after.handed_off - outcomes.handed_off, 2)
      t.equal((await world.failures('patient', 'ProtocolViolation')) - failed, 2)
      const said = () =>
        broker.program
          .messages()
          .filter(({ msg, backend }) => msg === CUT_OFF && backend === peer.welcome.backend)
      await eventually(() => said().length > 0, 'the broker logs the reason')
      t.match(said(), [{ code }], 'once')
      peer.die()
      await taken.ended
      t.equal(taken.received, '', 'no other backend answers the client that it had taken')
    })
  }

  const entry = {
    sequence: 1,
    token: stranger,
    connection: stranger,
    kind: 'idle' as const,
    keepAlive: 1000,
    listener: 'patient',
    meta: undefined,
    schema: '',
    prefix: Buffer.alloc(0),
    requestHead: Buffer.alloc(0),
    answerHead: Buffer.alloc(0),
    state: Buffer.alloc(0),
  }
  const [outOfOrder, malformed] = ['BATON_ERR_FRAME_OUT_OF_ORDER', 'BATON_ERR_FRAME_MALFORMED']
  const untimely: [what: string, code: string, granted: boolean, frame: Frame][] = [
    ['HANDBACK that was not granted', malformed, false, { type: 'handback', entries: [entry] }],
    ['REBALANCE', outOfOrder, true, { type: 'rebalance', count: 1 }],
    ['TAKEN', outOfOrder, true, { type: 'taken', sequences: [1] }],
    ['GIVEN_BACK', outOfOrder, true, { type: 'given_back', entries: [{ sequence: 1, reason: 'NoTaker' }] }],
    ['SETTLED', outOfOrder, true, { type: 'settled', entries: [{ sequence: 1, outcome: 'parked' }] }],
    ['HANDBACK with nothing on the lane', malformed, true, { type: 'handback', entries: [entry] }],
  ]
  await scene('frames of hand-backs at the wrong time: cut off, and clients are served', async (t) => {
    await world.joinHonest('patient')
    for (const [what, code, granted, frame] of untimely) {
      const peer = await world.hostile(t, 'patient', granted ? [HANDBACK_CAPABILITY] : [])
      peer.wire.write(frame)
      await peer.wire.end()
      const said = () =>
        broker.program
          .messages()
          .filter(({ msg, backend }) => msg === CUT_OFF && backend === peer.welcome.backend)
      await eventually(() => said().length > 0, 'the broker logs the reason')
      t.match(said(), [{ code }], `${what}: ${code}`)
      peer.die()
    }
    await world.servedHonestly(t, await world.client(t, 'patient'))
  })

  await scene('a hand-back of what it never had: cut off, and closed', async (t) => {
    await world.joinHonest('patient')
    const own = await world.client(t, 'patient')
    await world.servedHonestly(t, own)
    const listening = listenUnix({ path: join(temporaryFolder(t), 'own.sock') })
    t.teardown(() => listening.close())
    // Its token is right; it has adopted nothing, or hands back more than it has.
    for (const adopted of [0, 1]) {
      const peer = await world.hostile(t, 'patient', [HANDBACK_CAPABILITY])
      peer.wire.write({ type: 'stats', adopted, closed: 0, lag: 0 })
      const tokens = [randomBytes(16), randomBytes(16)]
      for (const token of tokens) sendMessage(peer.lane.fd, { bytes: token, fds: [listening.fd] })
      const entries = tokens.map((token, index) => ({ ...entry, token, sequence: index + 1 }))
      peer.wire.write({ type: 'handback', entries })
      await peer.wire.end()
      t.same(peer.wire.all('taken'), [])
      peer.die()
    }
  })

  await scene('an ACK that comes twice is ignored the second time', async (t) => {
    const peer = await world.hostile(t, 'patient')
    for (const turn of [1, 2]) {
      const client = await world.client(t, 'patient')
      const offer = (await peer.offers(turn))[turn - 1] as Offer
      const [taken] = peer.take(1)
      peer.ack(offer)
      peer.ack(offer)
      await peer.probe()
      if (taken) answerOn(taken.fd, 'mine')
      t.equal((await client.answer()).body, 'mine')
      client.socket.destroy()
    }
    t.equal((await world.service('patient')).backends.length, 1, 'no violation')
  })

  await scene('a NACK moves the client on, and a later ACK changes nothing', async (t) => {
    const peer = await world.hostile(t, 'patient')
    const client = await world.client(t, 'patient')
    const [offer] = (await peer.offers(1)) as [Offer]
    peer.take(1)[0]?.fd.close()
    await world.joinHonest('patient')
    const before = (await world.service('patient')).outcomes.handed_off
    peer.nack(offer)
    peer.ack(offer)
    await world.servedHonestly(t, client)
    await world.handedOff('patient', before, 1)
    await peer.probe()
    const { outcomes, backends } = await world.service('patient')
    t.equal(outcomes.handed_off - before, 1, 'handed off once')
    t.equal(backends.length, 2, 'no violation')
  })

  for (const silence of ['silent', 'partial', 'trickling'] as const) {
    await scene(`a ${silence} ACK still hits the deadline; late, it is ignored`, async (t) => {
      const earlier = (await world.service('prompt')).outcomes.handed_off
      const peer = await world.hostile(t, 'prompt')
      const client = await world.client(t, 'prompt')
      const [offer] = (await peer.offers(1)) as [Offer]
      await world.joinHonest('prompt')
      const ack = encodeFrame({
        type: 'ack',
        acks: [{ sequence: offer.sequence, connection: offer.connection }],
      })
      const soon = { silent: 0, partial: 10, trickling: 20 }[silence]
      for (const byte of ack.subarray(0, soon)) peer.wire.write(Buffer.from([byte]))
      const { sequences } = await peer.wire.frame('revoke')
      t.same(sequences, [offer.sequence])
      await world.servedHonestly(t, client)
      await world.handedOff('prompt', earlier, 1)
      const before = (await world.service('prompt')).outcomes.handed_off
      peer.wire.write(ack.subarray(soon))
      await peer.probe()
      const { outcomes, backends } = await world.service('prompt')
      t.equal(outcomes.handed_off, before, 'it completes nothing')
      t.equal(backends.length, 2, 'and is no violation')
      t.same(peer.restOfLane(), { count: 0, ended: false }, 'the lane was read back')
    })
  }

  /** One client whose descriptor the hostile backend took without answering, past the deadline. */
  const stuck = async (t: Test) => {
    const peer = await world.hostile(t, 'bounded')
    const client = await world.client(t, 'bounded')
    const [offer] = (await peer.offers(1)) as [Offer]
    const [taken] = peer.take(1)
    await world.joinHonest('bounded')
    await broker.until(({ services }) => services.some((each) => each.stuck === 1), 'the client is stuck')
    const { handed_off } = (await world.service('bounded')).outcomes
    const beside = await world.client(t, 'bounded')
    await world.servedHonestly(t, beside)
    await world.handedOff('bounded', handed_off, 1)
    t.equal(client.received, '')
    const { inFlight, backends } = await world.service('bounded')
    t.equal(inFlight, 1, 'the one that it took stays in flight, whatever other backends are ready')
    t.equal(backends.find(({ id }) => id === peer.welcome.backend)?.state, 'unresponsive')
    return { peer, client, offer, taken }
  }

  await scene(
    'a descriptor that was taken without an answer is not offered again; a late ACK settles it',
    async (t) => {
      const { peer, client, offer, taken } = await stuck(t)
      peer.ack(offer)
      await peer.probe()
      if (taken) answerOn(taken.fd, 'late')
      t.equal((await client.answer()).body, 'late')
      t.equal((await world.service('bounded')).stuck, 0)
    },
  )

  await scene('a late NACK settles it, and the client moves on', async (t) => {
    const { peer, client, offer, taken } = await stuck(t)
    taken?.fd.close()
    peer.nack(offer)
    await world.servedHonestly(t, client)
  })

  await scene('the end of control settles it, and the client moves on', async (t) => {
    const { peer, client } = await stuck(t)
    peer.die()
    await world.servedHonestly(t, client)
  })

  await scene('over maxStuck the oldest is relinquished, and counted', async (t) => {
    const [oldest, youngest] = (await world.clients(t, 'bounded', 2)) as [Client, Client]
    await broker.until(({ services }) => services.some((each) => each.held === 2), 'both wait')
    // Offered together: after the deadline of the first one it would not get the second.
    const peer = await world.hostile(t, 'bounded')
    const offers = (await peer.offers(2)) as [Offer, Offer]
    const [first, second] = peer.take(2)
    const before = (await world.service('bounded')).outcomes.relinquished
    await broker.until(
      ({ services }) =>
        services.some(({ stuck, outcomes }) => stuck === 1 && outcomes.relinquished === before + 1),
      'one is relinquished, one stays stuck',
    )
    peer.ack(...offers)
    await peer.probe()
    t.equal((await world.service('bounded')).stuck, 0)
    t.equal(
      (await world.service('bounded')).backends.length,
      1,
      'the late ACK of the relinquished one is no violation',
    )
    if (second) answerOn(second.fd, 'kept')
    t.equal((await youngest.answer()).body, 'kept')
    first?.fd.close()
    await oldest.ended
    t.equal(oldest.received, '')
  })

  await scene(
    'taken, and control closed without an ACK: the client goes to the honest backend',
    async (t) => {
      const peer = await world.hostile(t, 'patient')
      const clients = await world.clients(t, 'patient', 3)
      await peer.offers(3)
      peer.take(1)
      await world.joinHonest('patient')
      const gone = await world.failures('patient', 'BackendGone')
      peer.die()
      await world.servedHonestly(t, ...clients)
      t.equal((await world.failures('patient', 'BackendGone')) - gone, 3)
    },
  )

  await scene('an ACK is final: the client is not offered again', async (t) => {
    const peer = await world.hostile(t, 'patient')
    const [first, second] = (await world.clients(t, 'patient', 2)) as [Client, Client]
    const offers = (await peer.offers(2)) as [Offer, Offer]
    const [taken] = peer.take(1)
    if (taken) answerOn(taken.fd, 'adopted')
    t.equal((await first.answer()).body, 'adopted')
    await world.joinHonest('patient')
    const before = (await world.service('patient')).outcomes.handed_off
    // A truncated frame counts as absent; the complete one before it does not.
    peer.wire.write(
      encodeFrame({ type: 'ack', acks: [offers[0]] }),
      Buffer.from([25, 0, 0, 0, FrameType.ACK]),
    )
    peer.die()
    await world.servedHonestly(t, second)
    await world.handedOff('patient', before, 2)
    t.equal((await world.service('patient')).outcomes.handed_off - before, 2)
    await first.ended
    t.equal(first.received, '', 'it had one response, and ends with its backend')
  })

  await scene(
    'control that is never read fills up: that backend is offered nothing, others are served',
    async (t) => {
      await world.joinHonest('robin')
      const peer = await world.hostile(t, 'robin')
      peer.wire.pause()
      // Replies that the peer does not read, until the kernel's buffer is full.
      const probes = Buffer.concat(
        Array.from({ length: 1000 }, (_, id) => encodeFrame({ type: 'heartbeat', id, reply: false })),
      )
      const before = await world.failures('robin', 'WouldBlock')
      for (let round = 0; round < 3; round++) {
        peer.wire.write(probes)
        await broker.status()
      }
      const clients = await world.clients(t, 'robin', 10)
      await world.servedHonestly(t, ...clients)
      t.ok(
        (await world.failures('robin', 'WouldBlock')) - before >= 4,
        'it was the turn of the other one, too',
      )
      t.equal(peer.restOfLane().count, 0, 'nothing is on a lane whose doorbell could be late')
    },
  )

  await scene('a refused backend that keeps sending is ignored', async (t) => {
    // More than the broker reads at once, all available when it reads: the rest arrives after the refusal.
    const skipped = Buffer.concat(
      Array.from({ length: 3 }, () => Buffer.concat([header(32_001, 0xff), Buffer.alloc(32_000)])),
    )
    const stats = encodeFrame({ type: 'stats', adopted: 0, closed: 0, lag: 0 })
    const bytes = Buffer.concat([encodeFrame(hello('patient')), skipped, stats])
    signal(broker.pid, 'SIGSTOP')
    const greeting = greet(broker.control, bytes)
    signal(broker.pid, 'SIGCONT')
    const { answer, connection } = await greeting
    t.match(answer, { type: 'refused', code: 'SecretMismatch' })
    await new Wire(t, connection).read().end()
    t.ok(broker.program.running)
  })

  await scene('a slow HELLO is accepted; a missing or partial one is cut off after 5 s', async (t) => {
    const peer = await FalseBackend.trickle(t, broker.control, hello('patient', { secret: SECRET }))
    await peer.probe()
    peer.die()
    const began = performance.now()
    const [silent, partial] = [connectUnix(broker.control), connectUnix(broker.control)]
    send(partial.fd, encodeFrame(hello('patient', { secret: SECRET })).subarray(0, 40))
    await Promise.all([silent, partial].map((connection) => new Wire(t, connection).read().end()))
    t.ok(performance.now() - began > 4500, 'it had its time')
    const silence = 'a process connected and sent no HELLO'
    await broker.program.message(silence)
    const said = broker.program.messages().filter(({ msg }) => msg === silence)
    t.equal(said.length, 1, 'logged once, however many there are')
  })

  await t.test('no log, metric, error or API response contains a token', async (t) => {
    const answers = await Promise.all(
      ['/metrics', '/api/v1/status', '/api/v1/services/patient', '/api/v1/services/none', '/readyz'].map(
        async (path) => (await fetch(`${broker.admin}${path}`)).text(),
      ),
    )
    const said = [...broker.program.lines, ...honest.lines, ...answers].join('\n')
    t.ok(world.tokens.length > 40, `${world.tokens.length} tokens were on the wire`)
    t.match(said, 'backend broke the protocol', 'and the errors were logged')
    for (const token of world.tokens) {
      const forms = [
        ...(['hex', 'base64', 'base64url', 'latin1', 'utf8'] as const).map((encoding) =>
          token.toString(encoding),
        ),
        [...token].join(','),
        JSON.stringify(token.toString('latin1')).slice(1, -1),
      ]
      for (const form of forms)
        if (said.toLowerCase().includes(form.toLowerCase())) t.fail(`found as ${form}`)
    }
    t.notMatch(said, SECRET, 'nor the secret')
  })
})
