import { randomBytes } from 'node:crypto'
import { Socket } from 'node:net'
import { Writable } from 'node:stream'
import type { ControlConnection, Frame, NackReason, Offer } from '@baton/backend-sdk/protocol'
import { OwnedFd } from '@baton/native-sendmsg'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { parseConfig, type ServiceConfig } from '../src/config/config.ts'
import type { ClientConnection } from '../src/worker/connection/connection.ts'
import type { HandoffLane, LaneMessage } from '../src/worker/backend/lane.ts'
import { Metrics } from '../src/metrics/metrics.ts'
import { type Os, systemOs } from '../src/worker/os.ts'
import { BackendLink } from '../src/worker/backend/backend-link.ts'
import type { DialHost } from '../src/worker/relay/dial.ts'
import { Service } from '../src/worker/service/service.ts'
import { VirtualClock } from './virtual-fleet.ts'

// The real `Service` and `BackendLink`s, with a scripted system below them and scripted backends.

/** Numbers that are not open in this process. */
const FIRST_DESCRIPTOR = 1000

class Descriptor extends OwnedFd {
  override close(): void {
    if (!this.closed) this.release()
  }
}

/** A backend that answers offers when the test says so. */
class Backend {
  readonly link: BackendLink
  /** Sizes of the batches received. */
  readonly batches: number[] = []
  /** Every reason for which the broker has cut it off. */
  readonly cutOff: string[] = []
  /** Messages that its lane has room for. */
  room = 1000
  readonly #lane: LaneMessage[] = []
  #offers: Offer[] = []

  /** Id of the last probe of its event loop. */
  probes = 0

  constructor(
    stage: Stage,
    slot: string,
    weight: number,
    version: string | null = null,
    logger = pino({ enabled: false }),
  ) {
    const lane: HandoffLane = {
      send: (messages) => {
        const sent = messages.slice(0, this.room - this.#lane.length)
        this.batches.push(sent.length)
        stage.offeredBlocking += sent.filter(({ fd }) => stage.blocking.has(fd)).length
        this.#lane.push(...sent)
        return { sent: sent.length }
      },
      readBack: () => ({ tokens: this.#lane.splice(0).map(({ bytes }) => bytes) }),
      takeHandBacks: () => [],
      close: () => undefined,
    }
    const control = {
      backedUp: false,
      writable: true,
      write: (frame: Frame) => {
        if (frame.type === 'offer') this.#offers.push(...frame.offers)
        if (frame.type === 'heartbeat') this.probes = frame.id
        return true
      },
      cutOff: (error: Error) => this.cutOff.push(error.message),
      close: () => undefined,
    } as unknown as ControlConnection
    const { service, config } = stage
    this.link = new BackendLink(
      {
        ulid: slot,
        slot,
        service: 'web',
        pid: 1,
        uid: 1,
        version,
        weight,
        registeredAt: new Date(0),
        reconnect: null,
      },
      { control, lane },
      { ...config, heartbeatInterval: 1000, handBackWindow: 64 },
      service,
      logger,
      stage.os,
    )
    service.joined(this.link)
  }

  get offered(): number {
    return this.#offers.length
  }

  /** Takes everything on the lane, without an answer yet. */
  take(): void {
    this.#lane.length = 0
  }

  /** Its offers were revoked. */
  forget(): void {
    this.#offers = []
  }

  /** Sends one ACK for the oldest `count`. */
  acknowledge(count = this.#offers.length): void {
    this.take()
    const acks = this.#offers.splice(0, count)
    this.link.read([
      { type: 'ack', acks: acks.map(({ sequence, connection }) => ({ sequence, connection })) },
    ])
  }

  /** Refuses all its offers. `by`: if it has not read the OFFER, it only knows the token. */
  refuse(by: 'sequence' | 'token' = 'sequence', reason: NackReason = 'BackendOverloaded'): void {
    this.take()
    const offers = this.#offers
    this.#offers = []
    for (const { sequence, token } of offers) this.nack(by === 'sequence' ? sequence : 0, token, 1, reason)
  }

  /** Sends the same NACK `count` times. */
  nack(
    sequence: number,
    token: Buffer = randomBytes(16),
    count = 1,
    reason: NackReason = 'TokenNotPending',
  ): void {
    this.link.read([
      { type: 'nack', nacks: Array.from({ length: count }, () => ({ sequence, token, reason })) },
    ])
  }

  /** RESUMES. */
  resumes(...schemas: string[]): void {
    this.link.read([{ type: 'resumes', schemas }])
  }

  /** Reports that all its connections have ended. */
  report(adopted: number, closed = adopted): void {
    this.link.read([{ type: 'stats', adopted, closed, lag: 0 }])
  }
}

class Stage {
  readonly service: Service
  readonly config: ServiceConfig
  readonly os: Os
  readonly clock = new VirtualClock()
  /** Numbers of descriptors that were closed together. */
  readonly closed: number[] = []
  /** Descriptors whose open file a backend has made blocking. */
  readonly blocking = new Set<number>()
  /** How many of them were offered while still blocking. */
  offeredBlocking = 0
  acknowledged = 0
  mayReject = false
  /** Their orders. */
  readonly rejected: number[] = []
  /** Dials to upstreams and relay endpoints without an answer yet. */
  readonly dials: DialHost[] = []
  readonly #metrics = new Metrics({ version: '0', listeners: ['web'], services: ['web'] })
  #order = 0
  #slots = 0

  constructor(
    t: Test,
    balance: ServiceConfig['balance'],
    parallelism = 2,
    more: Record<string, unknown> = {},
  ) {
    this.config = parseConfig({
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: { balance, ackDeadline: '500ms', ...more } },
    }).services.get('web') as ServiceConfig
    const { clock } = this
    this.os = {
      ...systemOs,
      parallelism,
      random: () => 0.5,
      now: clock.now,
      hrtime: () => BigInt(Math.round(clock.now() * 1e6)),
      setTimeout: clock.setTimeout,
      setInterval: () => ({ unref: () => undefined }),
      clear: clock.clear,
      takeBack: (fd) => void this.blocking.delete(fd),
      dial: (_target, host) => this.#dialled(host),
      dialBackend: (_endpoint, host) => this.#dialled(host),
      carry: () => ({ cut: () => undefined }) as unknown as ReturnType<Os['carry']>,
      closeClients: (connections) => {
        this.closed.push(connections.length)
        for (const { fd } of connections) fd.close()
      },
    }
    this.service = new Service('web', this.config, {
      poller: { add: () => ({ modify: () => undefined, remove: () => undefined }) },
      lingeringClose: {
        reject: ({ order }) => (this.mayReject ? this.rejected.push(order) : t.fail('rejected')),
      },
      metrics: this.#metrics,
      logger: pino({ enabled: false }),
      acknowledged: () => (this.acknowledged += 1),
      os: this.os,
    })
  }

  #dialled(host: DialHost) {
    this.dials.push(host)
    return { socket: new Socket(), cancel: () => undefined, detach: () => undefined }
  }

  backends(...weights: number[]): Backend[] {
    return weights.map((weight, index) => new Backend(this, `web-${index + 1}`, weight))
  }

  /** Backends of these versions. */
  ofVersions(...versions: (string | null)[]): Backend[] {
    return versions.map((version) => new Backend(this, `web-${(this.#slots += 1)}`, 1, version))
  }

  /** Descriptors of the last `count` clients. */
  newest(count: number): number[] {
    return Array.from({ length: count }, (_, index) => FIRST_DESCRIPTOR + this.#order - index)
  }

  /** In the second before, hundreds of connections have come and gone. */
  rush(backends: readonly Backend[]): void {
    for (const backend of backends) backend.report(0)
    for (let turn = 1; turn <= 100; turn++) {
      this.arrive(backends.length)
      for (const backend of backends) {
        backend.acknowledge()
        backend.report(turn)
      }
    }
    for (const { batches } of backends) batches.length = 0
    this.closed.length = 0
    this.acknowledged = 0
    this.clock.advance(1000)
  }

  async tokensRejected(reason: NackReason): Promise<number> {
    this.service.serviceStats.publish('web', this.#metrics, { in: 0, out: 0 })
    const series = `baton_tokens_rejected_total{service="web",reason="${reason}"} `
    const line = (await this.#metrics.text()).split('\n').find((each) => each.startsWith(series))
    return Number(line?.slice(series.length))
  }

  /** Clients that arrive in one wake-up; `source` gives the address of each. */
  arrive(
    count: number,
    source: (index: number) => string = () => '10.0.0.1',
    resume?: ClientConnection['resume'],
    routed?: ClientConnection['routed'],
  ): void {
    for (let index = 0; index < count; index++) {
      this.#order += 1
      const connection: ClientConnection = {
        order: this.#order,
        fd: new Descriptor(FIRST_DESCRIPTOR + this.#order),
        listener: { name: 'web', protocol: 'http' },
        peer: { family: 'IPv4', address: source(index), port: 1 },
        id: randomBytes(16),
        acceptedAt: this.clock.now(),
        tried: undefined,
        pressedSince: undefined,
        ...(resume !== undefined && { handedBack: resume.block.kind, resume }),
        routed,
      }
      this.service.arrive(connection)
    }
    this.service.flush()
  }
}

// After a sleep of the broker, each backend with an offer counted as one that does not answer, although its ACK lay in the socket.
void t.test('an ACK that came while the broker did not run is in time', async (t) => {
  const stage = new Stage(t, 'least-connections')
  const [backend] = stage.backends(1) as [Backend]
  const { eligibility } = backend.link
  stage.arrive(1)
  backend.take()
  stage.clock.stall(2000)
  backend.acknowledge()
  stage.clock.advance(100)
  t.match(eligibility, { state: 'ready', tally: { failures: 0 } })

  stage.arrive(1)
  backend.take()
  stage.clock.stall(2000)
  stage.clock.advance(100)
  t.match(eligibility, { state: 'unresponsive', tally: { failures: 1 } }, 'if none came, it is late')
})

const offered = (backends: readonly Backend[]) => backends.map((backend) => backend.offered)

void t.test('short connections that come together go to few of many backends, eight to each', async (t) => {
  const stage = new Stage(t, 'least-connections', 2)
  const backends = stage.backends(1, 1, 1, 1)
  // Which of equals comes first is not promised.
  const sorted = () => offered(backends).toSorted((one, other) => one - other)
  stage.rush(backends)
  stage.arrive(16)
  t.same(sorted(), [0, 0, 8, 8])
  stage.arrive(12)
  t.same(sorted(), [4, 8, 8, 8], 'the next ones are others')
  stage.arrive(40)
  t.same(sorted(), [16, 16, 16, 20])
  t.same(
    backends.map(({ batches }) => batches).toSorted(([one = 0], [other = 0]) => one - other),
    [
      [4, 16],
      [8, 8],
      [8, 8],
      [8, 8],
    ],
    'each gets one batch of each wake-up',
  )
})

void t.test('connections that stay are spread evenly, however many come together', async (t) => {
  // 16 browsers that kept their connections were served by two of four backends.
  const stage = new Stage(t, 'least-connections', 2)
  const backends = stage.backends(1, 1, 1, 1)
  stage.arrive(16)
  t.same(offered(backends), [4, 4, 4, 4], 'nothing is known about them yet')
  for (const backend of backends) backend.acknowledge()
  stage.clock.advance(1000)
  stage.arrive(16)
  t.same(offered(backends), [4, 4, 4, 4], 'as many are open as have come')
})

void t.test('round-robin gives each its turn, whatever the batches', async (t) => {
  const stage = new Stage(t, 'round-robin', 2)
  const backends = stage.backends(1, 1, 1, 1)
  stage.arrive(6)
  t.same(offered(backends), [2, 2, 1, 1])
  stage.arrive(9)
  t.same(offered(backends), [4, 4, 4, 3])
})

void t.test('with as many backends as processors, a batch is shared evenly', async (t) => {
  const stage = new Stage(t, 'round-robin', 2)
  const backends = stage.backends(1, 1)
  stage.arrive(6)
  t.same(offered(backends), [3, 3])
  stage.arrive(64)
  t.same(offered(backends), [35, 35])
  stage.arrive(1)
  stage.arrive(1)
  t.same(offered(backends), [36, 36], 'a single client is part of the round')
})

void t.test(
  'a run raises the load of a backend above that of idle ones by no more than its length',
  async (t) => {
    const stage = new Stage(t, 'least-connections', 2)
    const backends = stage.backends(1, 1, 1)
    const [first] = backends as [Backend]
    first.report(20, 0)
    stage.arrive(32)
    const [busy = 0, ...idle] = offered(backends)
    t.equal(busy, 0, 'not while others have less')
    t.same(idle, [16, 16])
  },
)

void t.test('a weight counts in a batch as well', async (t) => {
  const stage = new Stage(t, 'round-robin', 1)
  const backends = stage.backends(3, 1)
  for (let count = 0; count < 4; count++) stage.arrive(16)
  t.same(offered(backends), [48, 16])
})

void t.test('with source-hash there are no runs: each client goes where its address belongs', async (t) => {
  const stage = new Stage(t, 'source-hash', 1)
  const backends = stage.backends(1, 1, 1, 1)
  const source = (index: number) => `10.0.${index % 20}.1`
  const alone: number[][] = []
  for (let index = 0; index < 20; index++) {
    const before = offered(backends)
    stage.arrive(1, () => source(index))
    alone.push(offered(backends).map((count, at) => count - (before[at] ?? 0)))
  }
  const before = offered(backends)
  stage.arrive(20, source)
  const together = offered(backends).map((count, at) => count - (before[at] ?? 0))
  t.same(
    together,
    alone.reduce((sum, each) => sum.map((count, at) => count + (each[at] ?? 0))),
  )
  t.ok(together.filter((count) => count > 0).length > 1)
})

void t.test('a refused client gets another backend individually, and never the same one again', async (t) => {
  const stage = new Stage(t, 'least-connections', 1)
  const backends = stage.backends(1, 1, 1)
  stage.rush(backends)
  stage.arrive(8)
  const [refusing, ...others] = backends.toSorted((one, other) => other.offered - one.offered) as [
    Backend,
    Backend,
    Backend,
  ]
  t.same(offered([refusing, ...others]), [8, 0, 0])
  refusing.refuse()
  t.equal(refusing.offered, 0)
  t.equal(others[0].offered + others[1].offered, 8)
  for (const other of others) other.refuse()
  t.equal(refusing.offered, 0)
})

const takenBack: readonly [how: string, back: (backend: Backend, stage: Stage) => void][] = [
  ['refused', (backend) => backend.refuse()],
  ['refused by its token', (backend) => backend.refuse('token')],
  ['read back from the lane at the deadline', (_backend, stage) => stage.clock.advance(500)],
  [
    'given back by the end of control',
    (backend) => backend.link.controlEnded({ by: 'peer', error: undefined, frames: [] }),
  ],
]
for (const [how, back] of takenBack) {
  void t.test(`a client that was ${how} is non-blocking again before it is offered to another`, async (t) => {
    // Status flags belong to the open file, so a backend can make it blocking (I8).
    const stage = new Stage(t, 'least-connections', 1)
    const [first, second] = stage.backends(1, 1) as [Backend, Backend]
    stage.rush([first, second])
    stage.arrive(4)
    t.same(offered([first, second]), [4, 0])
    for (const fd of stage.newest(4)) stage.blocking.add(fd)
    back(first, stage)
    t.equal(second.offered, 4)
    t.equal(stage.offeredBlocking, 0)
    t.same([...stage.blocking], [])
  })
}

void t.test('a NACK of a settled offer is counted, however often it is repeated', async (t) => {
  const stage = new Stage(t, 'round-robin', 1)
  const [backend] = stage.backends(1) as [Backend]
  stage.arrive(1)
  backend.acknowledge()
  backend.nack(1, undefined, 1000)
  t.equal(stage.service.serviceStats.lateAnswers, 1000)
  t.same(backend.cutOff, [])
  t.equal(stage.service.serviceStats.outcomes.handed_off, 1, 'and changes nothing')
})

void t.test(
  'a NACK of an offer that was never made violates the protocol, and is not a late answer',
  async (t) => {
    const stage = new Stage(t, 'round-robin', 1)
    const [backend] = stage.backends(1) as [Backend]
    stage.arrive(1)
    backend.nack(2)
    t.same(backend.cutOff, ['NACK for an offer that was never made'])
    t.equal(stage.service.serviceStats.lateAnswers, 0)
    t.equal(stage.service.inFlight, 1, 'the offer that was made is none the wiser')
  },
)

void t.test('256 NACKs with a token that was never offered are tolerated, one more is not', async (t) => {
  const stage = new Stage(t, 'round-robin', 1)
  const [backend, other] = stage.backends(1, 1) as [Backend, Backend]
  stage.arrive(40)
  const before = backend.offered
  backend.refuse('token', 'TokenNotPending')
  t.equal(other.offered, 40, 'the offer with that token is settled')
  t.equal(stage.service.serviceStats.lateAnswers, 0, 'and not strange')
  backend.nack(1, undefined, 50)
  t.equal(stage.service.serviceStats.lateAnswers, 50, 'nor is one with a sequence')
  backend.nack(0, undefined, 256)
  t.equal(stage.service.serviceStats.lateAnswers, 306)
  t.same(backend.cutOff, [])
  backend.nack(0)
  t.same(backend.cutOff, ['too many NACKs for tokens that were never offered'])
  const rejected = before + 50 + 256 + 1
  t.equal(await stage.tokensRejected('TokenNotPending'), rejected, 'each has a reason, which is counted')
})

void t.test('a service is busy when as many of its backends as can run have unanswered offers', async (t) => {
  const stage = new Stage(t, 'round-robin', 2)
  t.notOk(stage.service.busy, 'no backend is registered')
  const [first, second, third] = stage.backends(1, 1, 1) as [Backend, Backend, Backend]
  t.notOk(stage.service.busy, 'no backend has an offer')
  stage.arrive(1)
  t.notOk(stage.service.busy, 'one of two that can run; and a single client delays no others')
  stage.arrive(1)
  t.ok(stage.service.busy)
  first.acknowledge()
  t.notOk(stage.service.busy)
  t.same(stage.closed, [1])
  t.equal(stage.acknowledged, 1, 'held-back clients are released')
  stage.arrive(1)
  t.ok(stage.service.busy)
  // Both have taken their offers and are stuck: after the deadline the broker no longer waits for them.
  second.take()
  third.take()
  stage.clock.advance(500)
  t.notOk(stage.service.busy)
})

void t.test('no client waits in the kernel for backends that are stuck', async (t) => {
  // Two of three backends were stopped, on two processors: until their deadline each new client waited a millisecond or two,
  // although the third was idle.
  const stage = new Stage(t, 'round-robin', 2)
  const [first, second, third] = stage.backends(1, 1, 1) as [Backend, Backend, Backend]
  stage.arrive(3)
  third.acknowledge()
  t.ok(stage.service.busy)
  stage.clock.advance(51)
  t.notOk(stage.service.busy, 'the two owe answers for longer than a batch takes')
  stage.arrive(6)
  t.ok(stage.service.busy, 'only the third is worth waiting for')
  third.acknowledge()
  t.notOk(stage.service.busy)
  first.acknowledge(1)
  t.notOk(stage.service.busy, 'one that answers again counts, and the third is idle')
  stage.arrive(3)
  t.ok(stage.service.busy)
  second.acknowledge()
})

void t.test('a backend that takes no new clients is not waited for', async (t) => {
  const stage = new Stage(t, 'round-robin', 4)
  const [first, second] = stage.backends(1, 1) as [Backend, Backend]
  stage.arrive(4)
  t.ok(stage.service.busy, 'all of them')
  second.link.drain(1000, 'test')
  t.ok(stage.service.busy)
  first.acknowledge()
  t.notOk(stage.service.busy, 'open offers of the draining one do not count')
  first.link.drain(1000, 'test')
  t.notOk(stage.service.busy)
})

void t.test('the entries of one ACK frame are settled together', async (t) => {
  const stage = new Stage(t, 'round-robin', 1)
  const [backend] = stage.backends(1) as [Backend]
  stage.arrive(20)
  backend.acknowledge(12)
  t.same(stage.closed, [12])
  t.equal(stage.service.serviceStats.outcomes.handed_off, 12)
  t.equal(stage.service.inFlight, 8)
  t.equal(stage.acknowledged, 1)
  backend.acknowledge()
  t.same(stage.closed, [12, 8])
  t.equal(stage.service.serviceStats.outcomes.handed_off, 20)
  t.equal(stage.service.inFlight, 0)
})

const NO_BYTES = Buffer.alloc(0)

/** Of a connection that was handed back with its state. */
const inConversation: NonNullable<ClientConnection['resume']> = {
  block: {
    kind: 'raw',
    schema: 'chat/1',
    prefix: NO_BYTES,
    requestHead: NO_BYTES,
    answerHead: NO_BYTES,
    state: Buffer.alloc(100_000),
  },
  giver: 'gone',
  settled: () => {},
}

void t.test('a state that its only taker refuses is not sent to it with each ACK', async (t) => {
  const resume = inConversation
  for (const reason of ['NotResumable', 'BackendOverloaded'] as const) {
    await t.test(reason, async (t) => {
      const stage = new Stage(t, 'least-connections')
      const [taker, other] = stage.backends(1, 1) as [Backend, Backend]
      taker.resumes('chat/1')
      stage.arrive(3, undefined, resume)
      t.equal(taker.offered, 3)
      taker.refuse('sequence', reason)
      t.same([taker.offered, stage.service.held], [0, 3])

      for (let round = 0; round < 20; round++) {
        stage.arrive(2)
        taker.acknowledge()
        other.acknowledge()
      }
      stage.arrive(1, undefined, resume)
      t.same([taker.offered, stage.service.held], [0, 4], 'neither the same ones nor the next')

      const tries: number[] = []
      for (let waited = 0; waited < 10_000; waited += 250) {
        stage.clock.advance(250)
        if (taker.offered > 0) tries.push(waited)
        taker.refuse('sequence', reason)
      }
      t.ok(tries.length > 0 && tries.length <= 6, `tried again less and less often: ${tries.join()} ms`)

      taker.resumes('chat/1')
      t.equal(taker.offered, 0, 'nothing has changed')
      taker.resumes('chat/1', 'chat/2')
      t.equal(taker.offered, 4, 'RESUMES says something new')
      taker.refuse('sequence', reason)
      const third = new Backend(stage, 'web-3', 1)
      t.equal(third.offered, 0)
      third.resumes('chat/1')
      t.equal(third.offered, 4, 'a backend has come')
      third.acknowledge()
      t.equal(stage.service.held, 0)
    })
  }
})

const toVersion = (stage: Stage, version: string, count = 1) =>
  stage.arrive(count, undefined, undefined, { version })

void t.test('a route with a version: only backends of that version get its connections', async (t) => {
  const stage = new Stage(t, 'round-robin', 1)
  const backends = stage.ofVersions('1.0', '2.0', null, '2.0')
  toVersion(stage, '2.0', 8)
  t.same(offered(backends), [0, 4, 0, 4])
  stage.arrive(4)
  t.same(offered(backends), [1, 5, 1, 5], 'others go to all of them')
  stage.arrive(1)
  toVersion(stage, '2.0', 1)
  toVersion(stage, '2.0', 1)
  t.same(offered(backends), [2, 6, 1, 6], 'the turns within a version go on, whoever comes in between')
})

void t.test(
  'a connection that is refused by all backends of its version is held, and goes to no other',
  async (t) => {
    const stage = new Stage(t, 'least-connections', 1)
    const [other, wanted] = stage.ofVersions('1.0', '2.0') as [Backend, Backend]
    toVersion(stage, '2.0')
    wanted.refuse()
    t.same([other.offered, stage.service.held], [0, 1])
    stage.arrive(1)
    t.equal(other.offered + wanted.offered, 1, 'others do not wait behind it')
    stage.service.available()
    t.equal(wanted.offered + other.offered, 2, 'it is offered again')
    t.equal(stage.service.held, 0)
  },
)

void t.test(
  'without a backend of its version a connection waits until one registers, in order',
  async (t) => {
    const stage = new Stage(t, 'least-connections', 1)
    const [other] = stage.ofVersions('1.0') as [Backend]
    toVersion(stage, '2.0', 3)
    toVersion(stage, '3.0')
    t.same([other.offered, stage.service.held], [0, 4])
    const [wanted] = stage.ofVersions('2.0') as [Backend]
    t.same([other.offered, wanted.offered, stage.service.held], [0, 3, 1])
  },
)

void t.test('those that wait for a version do not slow down the others', async (t) => {
  // With each ACK, every backend was compared with every one of them: 25 ms for 9,000.
  const stage = new Stage(t, 'least-connections', 1)
  const [other] = stage.ofVersions('1.0') as [Backend]
  toVersion(stage, '2.0', 300)
  toVersion(stage, '3.0', 300)
  let looks = 0
  const { version } = other.link.identity
  Object.defineProperty(other.link.identity, 'version', {
    get: () => {
      looks += 1
      return version
    },
  })
  stage.arrive(1)
  other.acknowledge()
  t.equal(other.offered, 0)
  t.ok(looks < 50, `looked at ${looks} times`)
  const [second, third] = stage.ofVersions('2.0', '3.0') as [Backend, Backend]
  for (let round = 0; round < 10; round += 1) for (const each of [second, third]) each.acknowledge()
  t.same([stage.service.held, stage.service.serviceStats.outcomes.handed_off], [0, 601])
})

void t.test('a maintenance answers those that wait for a version as well', async (t) => {
  // They waited for their version until their time was over.
  const stage = new Stage(t, 'least-connections', 1)
  toVersion(stage, '2.0')
  stage.arrive(1)
  toVersion(stage, '2.0')
  stage.arrive(1, undefined, inConversation)
  t.equal(stage.service.held, 4)
  stage.mayReject = true
  const maintenance = { since: '', type: 'text/plain', page: '' }
  stage.service.control({ paused: null, maintenance })
  t.same(stage.rejected, [1, 2, 3])
  t.equal(stage.service.held, 1, 'one in the middle of a conversation goes on waiting')
})

/** A client each. */
const many = (index: number) => `10.0.${index >> 8}.${index & 255}`

void t.test('a shift: each client goes to its side, by its address, and stays there', async (t) => {
  const stage = new Stage(t, 'round-robin', 1)
  stage.service.shift({ to: '2.0', share: 2000 })
  const [one, two, next, last] = stage.ofVersions('1.0', null, '2.0', '2.0') as [
    Backend,
    Backend,
    Backend,
    Backend,
  ]
  stage.arrive(1000, many)
  const moved = next.offered + last.offered
  t.ok(Math.abs(moved - 200) < 40, `${moved} of 1000`)
  t.ok(Math.abs(one.offered - two.offered) <= 1, 'the rest is divided evenly')
  t.ok(Math.abs(next.offered - last.offered) <= 1, 'and so is the share')
  stage.arrive(1000, many)
  t.equal(next.offered + last.offered, 2 * moved, 'the same clients again')
  for (const backend of [one, two, next, last]) backend.acknowledge()
  t.same(stage.service.serviceStats.shifted, { to: 2 * moved, others: 2 * (1000 - moved) })
  stage.service.shift({ to: '2.0', share: 10_000 })
  stage.arrive(10, many)
  t.equal(one.offered + two.offered, 0)
  stage.service.shift(undefined)
  stage.arrive(8, many)
  t.same(offered([one, two]), [2, 2], 'no shift: all alike')
})

void t.test('a side without a ready backend: its clients go to the other one', async (t) => {
  const stage = new Stage(t, 'least-connections', 1)
  const [old] = stage.ofVersions('1.0') as [Backend]
  stage.service.shift({ to: '2.0', share: 5000 })
  stage.arrive(20, many)
  t.equal(old.offered, 20)
  const [next] = stage.ofVersions('2.0') as [Backend]
  stage.service.shift({ to: '2.0', share: 10_000 })
  stage.arrive(4, many)
  next.refuse()
  t.same(offered([old, next]), [24, 0], 'so does a client that it has refused')
  old.link.drain(1000, 'test')
  stage.service.shift({ to: '2.0', share: 0 })
  stage.arrive(4, many)
  t.equal(next.offered, 4)
})

void t.test('while a side is only busy, its clients wait for it, in order', async (t) => {
  const stage = new Stage(t, 'least-connections', 1)
  const [old, next] = stage.ofVersions('1.0', '2.0') as [Backend, Backend]
  stage.service.shift({ to: '2.0', share: 0 })
  old.room = 2
  stage.arrive(5, many)
  t.same([old.offered, next.offered, stage.service.held], [2, 0, 3])
  old.acknowledge()
  t.same([old.offered, next.offered, stage.service.held], [2, 0, 1])
  old.acknowledge()
  t.same([old.offered, next.offered, stage.service.held], [1, 0, 0])
})

void t.test('a client of a route with a version is not part of a shift', async (t) => {
  const stage = new Stage(t, 'least-connections', 1)
  const [old, next] = stage.ofVersions('1.0', '2.0') as [Backend, Backend]
  stage.service.shift({ to: '2.0', share: 0 })
  toVersion(stage, '2.0', 3)
  t.same(offered([old, next]), [0, 3])
  next.acknowledge()
  t.same(stage.service.serviceStats.shifted, { to: 0, others: 0 })
})

void t.test('a client is told by its cookie, wherever it comes from', async (t) => {
  const stage = new Stage(t, 'least-connections', 1)
  const [old, next] = stage.ofVersions('1.0', '2.0') as [Backend, Backend]
  stage.service.shift({ to: '2.0', share: 5000 })
  stage.arrive(40, many, undefined, { sticky: 'one' })
  t.same(new Set(offered([old, next])), new Set([0, 40]))
})

/** Answers all dials that wait, and the dials that follow in the same step; @returns how many there were */
function answerDials(stage: Stage, answer: (dial: DialHost) => void): number {
  let answered = 0
  for (let dial = stage.dials.shift(); dial !== undefined; dial = stage.dials.shift()) {
    answered += 1
    answer(dial)
  }
  return answered
}

const refused = (dial: DialHost) =>
  dial.failed(Object.assign(new Error('refused'), { code: 'ECONNREFUSED', errno: -111 }))

// An upstream was restarted while 5000 clients were held. Sixty-four of them were offered to it every 250 ms, however fast it took them, so that the
// last one waited for 20 s longer, and those beyond `holdTimeout` got a 503.
void t.test('an upstream that is back gets all who wait, without further rounds', async (t) => {
  const stage = new Stage(t, 'least-connections', 1, { upstreams: [{ address: '127.0.0.1:1' }] })
  stage.arrive(5000)
  answerDials(stage, refused)
  t.equal(stage.service.held, 5000)
  stage.clock.advance(250)
  t.equal(answerDials(stage, refused), 64, 'while it is away, a round is small')
  stage.clock.advance(250)
  t.equal(
    answerDials(stage, (dial) => dial.connected()),
    5000,
  )
  t.equal(stage.service.held, 0)
})

// A backend was out of descriptors: its event loop answered, and it took nothing. Each client that was held missed a deadline of its own, again and
// again, with two lines in the log each time.
void t.test('deadlines that are missed again and again are logged once', async (t) => {
  const lines: string[] = []
  const log = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      lines.push((JSON.parse(String(chunk)) as { msg: string }).msg)
      done()
    },
  })
  const stage = new Stage(t, 'least-connections', 1, { failureLimit: { failures: 1000 } })
  const backend = new Backend(stage, 'web-1', 1, null, pino(log))
  const miss = () => {
    stage.clock.advance(500)
    backend.forget()
    backend.link.read([{ type: 'heartbeat', id: backend.probes, reply: true }])
  }
  stage.arrive(3)
  for (let round = 0; round < 50; round++) miss()
  t.equal(stage.service.held + backend.offered, 3, 'they wait')
  const misses = ['no ACK by the deadline; lane read back', 'backend answers again']
  t.same(lines, misses)
  backend.acknowledge()
  stage.arrive(1)
  miss()
  t.same(lines, [...misses, ...misses], 'after an ACK, it is news')
})
