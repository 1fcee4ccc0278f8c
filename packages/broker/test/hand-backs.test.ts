import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readlinkSync } from 'node:fs'
import { connect } from 'node:net'
import {
  type ControlConnection,
  type Frame,
  GIVEN_BACK_REASONS,
  type HandBack,
} from '@baton/backend-sdk/protocol'
import {
  acceptOne,
  dup,
  isNonblocking,
  listenTcp,
  NativeError,
  OwnedFd,
  poll,
  POLLIN,
  recv,
  send,
  sendMessage,
  setNonblocking,
  socketpair,
} from '@baton/native-sendmsg'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { SO_LINGER, SO_RCVLOWAT, SOL_SOCKET } from '../../native-sendmsg/src/abi.ts'
import { Arena } from '../../native-sendmsg/src/arena.ts'
import { libc } from '../../native-sendmsg/src/libc.ts'
import { createSocket } from '../../native-sendmsg/src/sockets.ts'
import { parseConfig, type ServiceConfig } from '../src/config/config.ts'
import { Metrics } from '../src/metrics/metrics.ts'
import type { Change } from '../src/api/events.ts'
import { HandBacks } from '../src/worker/backend/hand-backs.ts'
import { Lane } from '../src/worker/backend/lane.ts'
import { Listener } from '../src/worker/listen/listener.ts'
import { systemOs } from '../src/worker/os.ts'
import { HandBackNotices } from '../src/worker/service/hand-back-notices.ts'
import { Service } from '../src/worker/service/service.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'

// Hand-backs of one backend, and every breach: a real lane and real sockets, a control connection of the test.

const AF_INET = 2
const SOCK_DGRAM = 2
/** Seconds that a close would block: longer than any test. */
const LINGER = Math.ceil((10 * LIMIT) / 1000)
const WINDOW = 4
const GIVER = {
  ulid: '01J0000000000000000000WEB1',
  slot: 'web-1',
  service: 'web',
  pid: 4242,
  uid: 1000,
  version: '2',
  weight: 1,
  registeredAt: new Date(0),
  reconnect: null,
}

const logger = pino({ enabled: false })
/** @returns the sockets that have been opened since now, and are open. Those of another scene may still be closing. */
function socketsSince(): () => string[] {
  const before = new Set(sockets())
  return () => sockets().filter((each) => !before.has(each))
}

/** Each with its number and inode. */
function sockets(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`)
      return target.startsWith('socket:') ? [`${fd} ${target}`] : []
    } catch {
      // The folder's own.
      return []
    }
  })
}

function present<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('nothing there')
  return value
}

/** Control, as far as `HandBacks` uses it. */
class Control {
  readonly written: Frame[] = []
  /** Writes that the kernel has not accepted. */
  readonly queued: ((error?: Error) => void)[] = []
  backedUp = false

  write(frame: Frame, onTaken?: (error?: Error) => void): boolean {
    this.written.push(frame)
    if (!this.backedUp) return true
    this.queued.push(onTaken ?? (() => {}))
    return false
  }
}

/** One backend with what it may hand back, and the service that it belongs to. */
class Stage {
  readonly lane = new Lane(true)
  readonly control = new Control()
  readonly service: Service
  readonly listener: Listener
  /** A duplicate of its socket. */
  readonly listening: OwnedFd
  readonly handBacks: HandBacks
  /** As the event streams get them. */
  readonly changes: Change[] = []
  adopted = 1000
  elsewhere = 0
  #sequence = 0
  readonly #t: Test

  constructor(t: Test, over: Partial<ServiceConfig> = {}, window: number | undefined = WINDOW) {
    this.#t = t
    const config = parseConfig({
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: {} },
    })
    const listening = listenTcp({ host: '127.0.0.1', port: 0 })
    this.listening = listening.dup()
    this.listener = new Listener(present(config.listeners[0]), listening, () => t.fail('accepted'), logger)
    const listeners = [this.listener]
    this.service = new Service(
      'web',
      { ...present(config.services.get('web')), ...over },
      {
        poller: { add: () => ({ modify: () => {}, remove: () => {} }) },
        lingeringClose: { reject: () => t.fail('rejected') },
        metrics: new Metrics({ version: '0', listeners: ['web'], services: ['web'] }),
        logger,
        listeners: () => listeners,
        announce: (change) => this.changes.push(change),
      },
    )
    this.handBacks = new HandBacks(
      GIVER,
      { control: this.control as unknown as ControlConnection, lane: this.lane },
      window,
      this.service,
      systemOs,
    )
    t.teardown(async () => {
      this.lane.close()
      this.listener.close()
      this.listening.close()
      await this.service.drained()
    })
  }

  /** A connection of the listener: the accepted end, as a backend has it, and its client. */
  async adoptedEnd(): Promise<{ fd: OwnedFd; client: ReturnType<typeof connect> }> {
    const client = connect({ host: '127.0.0.1', port: Number(this.listener.address.split(':').at(-1)) })
    this.#t.teardown(() => client.destroy())
    client.on('error', () => {})
    await once(client, 'connect')
    const fd = new OwnedFd(present(acceptOne(this.listening.fd)).fd)
    this.#t.teardown(() => fd.close())
    return { fd, client }
  }

  /** Sends descriptors with a token, as the backend's lane does. */
  post(token: Buffer, ...fds: number[]): void {
    sendMessage(this.lane.receiveEnd, { bytes: token, fds })
  }

  entry(over: Partial<HandBack> = {}): HandBack {
    return {
      sequence: ++this.#sequence,
      token: randomBytes(16),
      connection: randomBytes(16),
      kind: 'idle',
      keepAlive: 60_000,
      listener: 'web',
      meta: undefined,
      schema: '',
      prefix: Buffer.alloc(0),
      requestHead: Buffer.alloc(0),
      answerHead: Buffer.alloc(0),
      state: Buffer.alloc(0),
      ...over,
    }
  }

  /** Hands one descriptor back, honestly except for `over`. The caller's own copy stays open. */
  handBack(fd: number, over: Partial<HandBack> = {}) {
    const entry = this.entry(over)
    this.post(entry.token, fd)
    return { entry, ...this.received(entry) }
  }

  received(...entries: HandBack[]) {
    return this.handBacks.received(entries, this.adopted, this.elsewhere)
  }
}

void t.test('what is handed back is taken, and settled as parked', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const { fd, client } = await stage.adoptedEnd()
  setNonblocking(fd.fd, false)
  option.words[0] = 1000
  t.equal(libc.setsockopt(fd.fd, SOL_SOCKET, SO_RCVLOWAT, option.address, 4), 0)
  const { entry, fault, given } = stage.handBack(fd.fd)
  t.match({ fault, given }, { fault: undefined, given: 0 })
  t.strictSame(stage.control.written, [
    { type: 'taken', sequences: [entry.sequence] },
    { type: 'settled', entries: [{ sequence: entry.sequence, outcome: 'parked' }] },
  ])
  t.equal(stage.service.parkedCount, 1)
  t.ok(isNonblocking(fd.fd), 'the giver may have changed what all copies share')
  // The next request was noticed only with its thousandth byte.
  client.write('G')
  await eventually(() => (poll(fd.fd, POLLIN) & POLLIN) !== 0, 'one byte is enough')
  t.equal(recv(fd.fd, 10).toString(), 'G')
})

void t.test('a connection is offered on only once TAKEN is in the kernel', { timeout: LIMIT }, async (t) => {
  for (const failed of [false, true]) {
    await t.test(failed ? 'and closed if it never is' : 'which may be later', async (t) => {
      const stage = new Stage(t)
      const { fd, client } = await stage.adoptedEnd()
      stage.control.backedUp = true
      const added = socketsSince()
      t.equal(stage.handBack(fd.fd).fault, undefined)
      t.equal(added().length, 1)
      t.equal(stage.service.parkedCount, 0)
      stage.control.queued.shift()?.(failed ? new Error('gone') : undefined)
      t.equal(stage.service.parkedCount, failed ? 0 : 1)
      t.equal(added().length, failed ? 0 : 1)
      t.equal(stage.control.written.length, failed ? 1 : 2)
      send(fd.fd, Buffer.from("still the giver's"))
      const [chunk] = (await once(client, 'data')) as [Buffer]
      t.equal(String(chunk), "still the giver's")
    })
  }
})

type Breach = (stage: Stage, fd: OwnedFd) => ReturnType<Stage['received']>

const BREACHES: Record<string, Breach> = {
  'the token of HANDBACK is not that of its descriptor': (stage, { fd }) => {
    stage.post(randomBytes(16), fd)
    return stage.received(stage.entry())
  },
  'HANDBACK came without its descriptor': (stage) => stage.received(stage.entry()),
  '0 descriptors came with one token': (stage) => {
    const entry = stage.entry()
    stage.post(entry.token)
    return stage.received(entry)
  },
  '2 descriptors came with one token': (stage, { fd }) => {
    const entry = stage.entry()
    stage.post(entry.token, fd, fd)
    return stage.received(entry)
  },
  'sequences of hand-backs do not increase': (stage, { fd }) => {
    stage.handBack(fd, { sequence: 7 })
    return stage.handBack(fd, { sequence: 7 })
  },
  'more was handed back than had been adopted': (stage, { fd }) => {
    stage.adopted = 0
    return stage.handBack(fd)
  },
}

for (const [message, breach] of Object.entries(BREACHES)) {
  void t.test(`a breach: ${message}`, { timeout: LIMIT }, async (t) => {
    const stage = new Stage(t)
    const { fd } = await stage.adoptedEnd()
    await refused(t, stage, () => breach(stage, fd), message)
  })
}

void t.test('a token that is too long or too short', { timeout: LIMIT }, async (t) => {
  for (const length of [15, 17, 200]) {
    const stage = new Stage(t)
    const { fd } = await stage.adoptedEnd()
    const entry = stage.entry()
    const bytes = Buffer.concat([entry.token, randomBytes(200)], length)
    const breach = () => {
      stage.post(bytes, fd.fd)
      return stage.received(entry)
    }
    await refused(t, stage, breach, 'the token of HANDBACK is not that of its descriptor')
  }
})

void t.test('what is refused is counted by what came, not by what HANDBACK claims', async (t) => {
  const stage = new Stage(t)
  const { fd } = await stage.adoptedEnd()
  const entries = Array.from({ length: 3 }, () => stage.entry())
  stage.post((entries[0] as HandBack).token, fd.fd)
  t.match(stage.received(...entries).fault, { message: 'HANDBACK came without its descriptor' })
  t.match(stage.changes.at(-1), { kind: 'hand_back_refused', count: 1 })
})

void t.test('HANDBACK was not granted', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const { control, lane, service } = stage
  const without = new HandBacks(
    GIVER,
    { control: control as unknown as ControlConnection, lane },
    undefined,
    service,
    systemOs,
  )
  t.match(without.received([stage.entry()], 10).fault, { message: 'HANDBACK was not granted' })
})

void t.test('a socket that is none of the service', { timeout: LIMIT }, async (t) => {
  const message = 'a socket was handed back that is none of the service'
  const foreign = async (t: Test, make: (stage: Stage) => OwnedFd | Promise<OwnedFd>) => {
    const stage = new Stage(t)
    const fd = await make(stage)
    t.teardown(() => fd.close())
    await refused(t, stage, () => stage.handBack(fd.fd), message)
  }
  await t.test('one of a socketpair', (t) =>
    foreign(t, () => {
      const [one, other] = socketpair('stream')
      t.teardown(() => other.close())
      return one
    }),
  )
  await t.test('a listening socket', (t) => foreign(t, () => listenTcp({ host: '127.0.0.1', port: 0 })))
  await t.test("the service's own listening socket", (t) => foreign(t, (stage) => stage.listening.dup()))
  await t.test('a UDP socket', (t) =>
    foreign(t, () => new OwnedFd(createSocket(AF_INET, SOCK_DGRAM).release())),
  )
  await t.test("the client's end", (t) =>
    foreign(t, async (stage) => {
      const { client } = await stage.adoptedEnd()
      const handle = Reflect.get(client, '_handle') as { fd: number }
      return dup(handle.fd)
    }),
  )
  await t.test('a connection of another listener', (t) =>
    foreign(t, async () => (await new Stage(t).adoptedEnd()).fd.dup()),
  )
})

void t.test('GIVEN_BACK, with its reason, and closed first', { timeout: LIMIT }, async (t) => {
  const seen = new Set<string>()
  const givenBack = async (
    t: Test,
    reason: string,
    stage: Stage,
    over: Partial<HandBack> = {},
    fd?: OwnedFd,
  ): Promise<void> => {
    seen.add(reason)
    const socket = fd ?? (await stage.adoptedEnd()).fd
    const added = socketsSince()
    const { entry, fault, given } = stage.handBack(socket.fd, over)
    t.match({ fault, given }, { fault: undefined, given: 1 })
    t.strictSame(stage.control.written.at(-1), {
      type: 'given_back',
      entries: [{ sequence: entry.sequence, reason }],
    })
    await eventually(() => added().length === 0, 'closed')
  }

  await t.test('Stopping', async (t) => {
    const stage = new Stage(t)
    await stage.service.drained()
    await givenBack(t, 'Stopping', stage)
  })
  await t.test('NoTaker: a kind with state', async (t) =>
    givenBack(t, 'NoTaker', new Stage(t), { kind: 'raw', schema: 'chat/1' }),
  )
  await t.test('NoTaker: its listener is gone', async (t) => {
    const [one, other] = socketpair('stream')
    t.teardown(() => {
      one.close()
      other.close()
    })
    await givenBack(t, 'NoTaker', new Stage(t), { listener: 'baton:health' }, one)
  })
  await t.test('NoTaker: its listener had another address before a reload', async (t) => {
    const stage = new Stage(t)
    stage.elsewhere = 1
    const { fd } = await new Stage(t).adoptedEnd()
    await givenBack(t, 'NoTaker', stage, {}, fd)
    // It was counted as one more each time: a WebSocket that was tried again every second had its backend cut off.
    await givenBack(t, 'NoTaker', stage, {}, fd)
    stage.elsewhere = 0
    await refused(
      t,
      stage,
      () => stage.handBack(fd.fd),
      'a socket was handed back that is none of the service',
    )
  })
  await t.test('NoTaker: it had waited in the worker before, at the former address', async (t) => {
    // A backend that was new, and had got it from this worker, was cut off.
    const stage = new Stage(t)
    stage.service.serviceStats.movedIn = 1
    const { fd } = await new Stage(t).adoptedEnd()
    await givenBack(t, 'NoTaker', stage, {}, fd)
  })
  for (const over of [{ maxHeld: 0 }, { holdTimeout: 0 }]) {
    await t.test(`TooMany: it could not wait (${Object.keys(over).join()}: 0)`, async (t) => {
      // It was taken, and closed when its next backend had no room.
      const stage = new Stage(t, over)
      const { fd } = await stage.adoptedEnd()
      const entry = stage.entry({ kind: 'raw', schema: 'chat/1' })
      stage.post(entry.token, fd.fd)
      t.match(stage.received(entry), { fault: undefined, given: 1 })
      const entries = [{ sequence: entry.sequence, reason: 'TooMany' }]
      t.strictSame(stage.control.written, [{ type: 'given_back', entries }])
    })
  }

  await t.test('TooMany: over the window', async (t) => {
    const stage = new Stage(t)
    const entries = await Promise.all(
      Array.from({ length: WINDOW + 2 }, async () => {
        const { fd } = await stage.adoptedEnd()
        const entry = stage.entry()
        stage.post(entry.token, fd.fd)
        return entry
      }),
    )
    entries.sort((one, other) => one.sequence - other.sequence)
    t.match(stage.received(...entries), { fault: undefined, given: 2 })
    t.strictSame(stage.control.written[0], {
      type: 'given_back',
      entries: entries.slice(WINDOW).map(({ sequence }) => ({ sequence, reason: 'TooMany' })),
    })
    t.equal(stage.service.parkedCount, WINDOW)
    seen.add('TooMany')
    t.match(stage.changes, [
      {
        kind: 'given_back',
        service: 'web',
        backend: { id: GIVER.ulid, slot: 'web-1', version: '2', pid: 4242 },
        reason: 'TooMany',
        count: 2,
        text: 'web-1 of service web keeps 2 connections that it handed back: TooMany',
      },
    ])
    t.match(stage.service.serviceStats, { taken: WINDOW, givenBack: 2, handBacksRefused: 0 })
    t.same([...stage.service.serviceStats.reasonsNotTaken], [['given_back/TooMany', 2]])
    t.same(stage.handBacks.tally.counts, { handedBack: WINDOW, givenBack: 2 })
  })
  // `Disabled` was one of them, and no broker could send it.
  t.same([...seen].toSorted(), [...GIVEN_BACK_REASONS].toSorted(), 'every reason of the protocol')
})

void t.test('what is not taken is told of once a minute for each backend and reason', async (t) => {
  const clock = { now: 0 }
  const changes: Change[] = []
  const lines: Record<string, unknown>[] = []
  const lineLogger = pino(
    { base: null, timestamp: false },
    { write: (line: string) => lines.push(JSON.parse(line)) },
  )
  const notices = new HandBackNotices(
    'web',
    lineLogger,
    (change) => changes.push(change),
    () => clock.now,
  )
  for (let turn = 0; turn < 1000; turn++) notices.notTaken(GIVER, 'TooMany', 2)
  notices.notTaken(GIVER, 'Stopping', 1)
  notices.notTaken({ ...GIVER, slot: 'web-2' }, 'TooMany', 1)
  t.match(changes, [
    { kind: 'given_back', reason: 'TooMany', count: 2 },
    { kind: 'given_back', reason: 'Stopping', count: 1, text: /keeps 1 connection that/ },
    { kind: 'given_back', reason: 'TooMany', count: 1, backend: { slot: 'web-2' } },
  ])
  t.equal(changes.length, 3)
  clock.now = 60_000
  notices.notTaken(GIVER, 'TooMany', 2)
  t.match(changes.at(-1), { count: 2000 }, 'those in between are counted')
  notices.notTaken(GIVER, 'ProtocolViolation', 4)
  t.match(changes.at(-1), { kind: 'hand_back_refused', reason: 'ProtocolViolation', count: 4 })
  notices.forget(GIVER)
  notices.notTaken(GIVER, 'TooMany', 1)
  t.match(changes.at(-1), { kind: 'given_back', count: 1 }, 'of the next backend in the slot')
  const named = { service: 'web', backend: GIVER.ulid, slot: 'web-1' }
  t.match(
    lines,
    [
      { level: 40, ...named, reason: 'TooMany', count: 2, msg: 'hand-backs given back' },
      { level: 30, ...named, reason: 'Stopping', msg: 'hand-backs given back' },
      { level: 40, slot: 'web-2' },
      { level: 40, ...named, count: 2000 },
      { level: 40, ...named, reason: 'ProtocolViolation', count: 4, msg: 'hand-backs refused' },
      { level: 40, ...named, count: 1 },
    ],
    'the log says the same',
  )
  t.equal(lines.length, 6)
})

void t.test('a backend that reads no answers is cut off', { timeout: LIMIT }, async (t) => {
  // Its answers waited in this process's memory, without a limit.
  const stage = new Stage(t)
  stage.control.backedUp = true
  const { fd } = await stage.adoptedEnd()
  for (let turn = 0; turn <= WINDOW; turn++) t.equal(stage.handBack(fd.fd, { kind: 'raw' }).fault, undefined)
  t.match(stage.handBack(fd.fd, { kind: 'raw' }).fault, {
    message: 'more is handed back than the window allows',
  })
})

void t.test('no backend can make a close of this process wait', { timeout: LIMIT }, async (t) => {
  await t.test('with a connection that is given back', async (t) => {
    const stage = new Stage(t)
    const { fd, client } = await stage.adoptedEnd()
    client.pause()
    clog(fd.fd)
    const entry = stage.entry({ listener: 'gone', kind: 'raw' })
    stage.post(entry.token, fd.fd)
    fd.close()
    t.match(stage.received(entry), { fault: undefined, given: 1 })
  })

  await t.test('with one that it leaves on the lane', async (t) => {
    const stage = new Stage(t)
    const { fd, client } = await stage.adoptedEnd()
    client.pause()
    clog(fd.fd)
    stage.post(randomBytes(16), fd.fd)
    fd.close()
    stage.lane.close()
    client.resume()
    await once(client, 'close')
  })
})

/** The hand-back is a breach of protocol: nothing is answered or kept, and what came is closed. */
async function refused(
  t: Test,
  stage: Stage,
  breach: () => ReturnType<Stage['received']>,
  message: string,
): Promise<void> {
  const parked = stage.service.parkedCount
  const added = socketsSince()
  const written = stage.control.written.length
  const { fault, given } = breach()
  t.match({ fault, given }, { fault: { code: 'BATON_ERR_FRAME_MALFORMED', message }, given: 0 })
  t.match(stage.changes.at(-1), { kind: 'hand_back_refused', reason: 'ProtocolViolation' })
  t.notOk(
    stage.control.written.slice(written).some(({ type }) => type === 'given_back'),
    'nothing is given back',
  )
  const kept = stage.service.parkedCount - parked
  await eventually(
    () => added().length === kept,
    () => `what came is closed; more than ${kept} are open: ${added().join(', ')}`,
  )
}

const option = new Arena(8)

/** From now on close(2) of the last descriptor waits: SO_LINGER, and more to send than the peer reads. */
function clog(fd: number): void {
  option.words.set([1, LINGER])
  if (libc.setsockopt(fd, SOL_SOCKET, SO_LINGER, option.address, 8) === -1) throw new Error('setsockopt')
  setNonblocking(fd, true)
  try {
    for (;;) send(fd, Buffer.alloc(65_536))
  } catch (error) {
    if (!(error instanceof NativeError) || error.code !== 'EAGAIN') throw error
  }
}

// Such a connection was taken for that of a Unix listener: its address began with nothing, and SO_LINGER was left to its close.
void t.test('a connection whose client has left is still one of TCP', { timeout: LIMIT }, async (t) => {
  const { fd, client } = await new Stage(t).adoptedEnd()
  t.match(systemOs.peer(fd.fd), { family: 'IPv4', address: '127.0.0.1', port: client.localPort })
  client.resetAndDestroy()
  await eventually(() => systemOs.peer(fd.fd).port === 0, 'the reset has arrived')
  t.match(systemOs.peer(fd.fd), { family: 'IPv4', address: '0.0.0.0' })
  const [one, other] = socketpair('stream')
  t.teardown(() => [one, other].forEach((each) => each.close()))
  t.match(systemOs.peer(one.fd), { family: 'unix' })
})
