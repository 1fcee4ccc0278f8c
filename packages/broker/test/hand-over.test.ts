import { EPOLLHUP, OwnedFd } from '@baton/native-sendmsg'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { parseConfig, type ServiceConfig } from '../src/config/config.ts'
import { Metrics } from '../src/metrics/metrics.ts'
import { IdleClient, InheritedClient } from '../src/worker/connection/connection.ts'
import { systemOs } from '../src/worker/os.ts'
import type { Successor, Waiting } from '../src/worker/service/hand-over.ts'
import { Service } from '../src/worker/service/service.ts'
import { VirtualClock } from './virtual-fleet.ts'

// A worker that is replaced, and what waits in it. The real service, with a scripted system below it.

/** Numbers that are not open in this process. */
const FIRST_DESCRIPTOR = 1000
const SLICE = 100
/** Later than anything here. */
const IDLE_UNTIL = 1e9

class Descriptor extends OwnedFd {
  override close(): void {
    if (!this.closed) this.release()
  }
}

/** The worker that takes over. */
class NextWorker implements Successor {
  readonly slice = SLICE
  hasRoom = true
  /** Descriptors that it was passed, of connections that are idle and of others. */
  readonly idle: number[] = []
  readonly waiting: number[] = []
  readonly passed: Waiting[] = []
  alive = true
  #ready: (() => void)[] = []

  /** Takes what it is passed; otherwise `takes` says so later. */
  takesAtOnce = true
  #taken: (count: number) => void = () => {}

  pass(connections: readonly Waiting[], taken: (count: number) => void): boolean {
    if (!this.alive) return false
    this.#taken = taken
    if (this.takesAtOnce) taken(connections.length)
    for (const connection of connections) {
      const to = 'idleUntil' in connection ? this.idle : this.waiting
      to.push(connection.fd.release())
      this.passed.push(connection)
    }
    return true
  }

  takes(count: number): void {
    this.#taken(count)
  }

  whenReady(callback: () => void): void {
    this.#ready.push(callback)
  }

  /** A turn of the event loop. */
  turn(): void {
    for (const callback of this.#ready.splice(0)) callback()
  }
}

class Stage {
  readonly service: Service
  readonly watched = new Map<number, (events: number, fd: number) => void>()
  readonly closed: number[] = []
  /** Descriptors with a byte to read, or none and the end. */
  readonly readable = new Map<number, string>()
  readonly clock = new VirtualClock()
  reject: () => void

  constructor(t: Test) {
    const { clock } = this
    this.reject = () => t.fail('rejected')
    const config = parseConfig({
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: {} },
    }).services.get('web') as ServiceConfig
    this.service = new Service('web', config, {
      poller: {
        add: (fd, _events, listener) => {
          this.watched.set(fd, listener)
          return { modify: () => {}, remove: () => void this.watched.delete(fd) }
        },
      },
      lingeringClose: { reject: () => this.reject() },
      metrics: new Metrics({ version: '0', listeners: ['web'], services: ['web'] }),
      logger: pino({ enabled: false }),
      os: {
        ...systemOs,
        now: clock.now,
        setTimeout: clock.setTimeout,
        clear: clock.clear,
        peer: () => ({ family: 'IPv4', address: '10.0.0.1', port: 1 }),
        peek: (fd) => {
          const bytes = this.readable.get(fd)
          return bytes === undefined ? undefined : Buffer.from(bytes)
        },
        takeBack: () => {},
        closeClients: (connections) => {
          for (const { fd } of connections) this.closed.push(fd.release())
        },
      },
    })
  }

  park(count: number): void {
    this.service.inheritParked(
      Array.from(
        { length: count },
        (_, index) =>
          new IdleClient({
            fd: new Descriptor(FIRST_DESCRIPTOR + index),
            listener: { name: 'web', protocol: 'http' },
            id: Buffer.alloc(16, index),
            idleUntil: IDLE_UNTIL + index,
            proxied: undefined,
          }),
      ),
    )
  }

  /** Clients arrive, and no backend is there. */
  hold(from: number, to: number, acceptedAt = this.clock.now(), handedBack?: 'idle'): void {
    for (const fd of numbers(from, to))
      this.service.inherit([
        new InheritedClient(new Descriptor(fd), {
          order: fd,
          listener: { name: 'web', protocol: 'http' },
          peer: { family: 'IPv4', address: '10.0.0.1', port: 1 },
          id: Buffer.alloc(16, fd),
          acceptedAt,
          ...(handedBack && { handedBack }),
        }),
      ])
  }

  /** A byte comes, or the client leaves. */
  event(fd: number, bytes: string): void {
    this.readable.set(fd, bytes)
    this.watched.get(fd)?.(1, fd)
    this.service.flush()
  }
}

const numbers = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, index) => FIRST_DESCRIPTOR + from + index)

// Of more than the kernel has room for, the rest waited in the old worker without copies: when it was killed then, they were lost, and in no count.
void t.test('held clients move in slices as well, and in order', async (t) => {
  const stage = new Stage(t)
  const next = new NextWorker()
  stage.hold(0, 250)
  stage.service.handOver(next)
  t.same(next.waiting, numbers(0, 100), 'one slice at once')
  t.equal(stage.service.held, 150)
  stage.hold(250, 251)
  t.equal(next.waiting.length, 100, 'one that comes meanwhile waits behind those')
  stage.watched.get(FIRST_DESCRIPTOR + 120)?.(EPOLLHUP, FIRST_DESCRIPTOR + 120)
  t.same(stage.closed, [FIRST_DESCRIPTOR + 120], 'a client that leaves meanwhile has its outcome here')
  const ended = { idle: false, moved: false }
  void stage.service.idle().then(() => (ended.idle = true))
  void stage.service.moved().then(() => (ended.moved = true))
  next.turn()
  await new Promise(setImmediate)
  t.same([next.waiting.length, ended], [200, { idle: false, moved: false }])
  // Its time is over, but they are on their way.
  stage.service.cutShort()
  t.equal(stage.service.held, 50)
  next.turn()
  await new Promise(setImmediate)
  t.same([stage.service.held, ended], [0, { idle: true, moved: true }])
  const all = numbers(0, 251).filter((fd) => fd !== FIRST_DESCRIPTOR + 120)
  t.same(next.waiting, all)
  stage.hold(251, 252)
  t.equal(next.waiting.length, all.length + 1, 'later ones at once')
  next.turn()
  const { movedIn, movedOut, outcomes } = stage.service.serviceStats
  t.same([movedIn, movedOut, outcomes.client_gone], [252, 251, 1])
})

void t.test('while the kernel has no room, clients wait where they have copies', async (t) => {
  const stage = new Stage(t)
  const next = new NextWorker()
  stage.service.handOver(next)
  next.hasRoom = false
  stage.hold(0, 3)
  t.same([next.waiting, stage.service.held], [[], 3])
  next.hasRoom = true
  next.turn()
  t.same([next.waiting, stage.service.held], [numbers(0, 3), 0])
  // Its time here is over: the next worker may have a backend for it.
  next.hasRoom = false
  const { holdTimeout } = stage.service.config
  stage.clock.advance(holdTimeout)
  stage.hold(3, 4, stage.clock.now() - holdTimeout)
  t.same(next.waiting, numbers(0, 4))
})

// A worker that lost its master before it accepted offered them to backends. Those that none took got a 503, which their clients had not asked for.
void t.test('an idle connection that no backend takes is closed without an answer', async (t) => {
  const stage = new Stage(t)
  stage.hold(0, 2, stage.clock.now(), 'idle')
  t.equal(stage.service.held, 2)
  stage.readable.set(FIRST_DESCRIPTOR + 1, 'G')
  let rejected = 0
  stage.reject = () => (rejected += 1)
  stage.clock.advance(stage.service.config.holdTimeout)
  const { idle_closed, rejected: counted } = stage.service.serviceStats.outcomes
  t.same([stage.closed, idle_closed], [[FIRST_DESCRIPTOR], 1])
  t.same([rejected, counted], [1, 1], 'one that asks for something gets an answer')
})

void t.test('if the successor dies half way, held clients go to the next one', async (t) => {
  const stage = new Stage(t)
  const next = new NextWorker()
  stage.hold(0, 250)
  stage.service.handOver(next)
  next.alive = false
  next.turn()
  t.equal(stage.service.held, 150)
  stage.hold(250, 251)
  t.equal(stage.service.held, 151)
  const third = new NextWorker()
  stage.service.handOver(third)
  third.turn()
  t.same(third.waiting, numbers(100, 251))
})

// Fifty thousand of them moved in one turn, in which the old worker did nothing else.
void t.test('parked connections move in slices, and each of them once', async (t) => {
  const stage = new Stage(t)
  const next = new NextWorker()
  stage.park(350)
  stage.service.handOver(next)
  t.same(next.idle, numbers(0, 100), 'one slice at once')

  stage.event(FIRST_DESCRIPTOR + 300, 'G')
  t.same(
    next.waiting,
    [FIRST_DESCRIPTOR + 300],
    'a request that comes meanwhile moves as a client that waits',
  )
  stage.event(FIRST_DESCRIPTOR + 301, '')
  t.same(stage.closed, [FIRST_DESCRIPTOR + 301], 'a client that leaves meanwhile has its outcome here')
  stage.event(FIRST_DESCRIPTOR, 'G')
  t.equal(next.waiting.length, 1, "the events of those that have moved are the successor's")

  let isIdle = false
  void stage.service.idle().then(() => (isIdle = true))
  for (let turn = 0; turn < 2; turn++) {
    next.turn()
    await new Promise(setImmediate)
    t.equal(isIdle, false)
  }
  next.turn()
  await new Promise(setImmediate)
  t.equal(isIdle, true)
  t.same(next.idle, [...numbers(0, 300), ...numbers(302, 350)])
  t.same([stage.service.parkedCount, stage.watched.size], [0, 0])
  const { movedIn, movedOut, outcomes } = stage.service.serviceStats
  t.same([movedIn, movedOut, outcomes.idle_closed], [350, 349, 1])
})

void t.test('if the successor dies half way, the rest stays, and goes to the next one', async (t) => {
  const stage = new Stage(t)
  const next = new NextWorker()
  next.takesAtOnce = false
  stage.park(250)
  stage.service.handOver(next)
  next.takes(70)
  next.alive = false
  next.turn()
  t.equal(next.idle.length, 100)
  t.same([stage.service.parkedCount, stage.watched.size], [150, 150])
  stage.event(FIRST_DESCRIPTOR + 200, 'G')
  t.equal(stage.service.held, 1, 'no backend is left here: the client waits')

  // The last thirty, which it had not taken, come back, under numbers of its own.
  const lost = next.passed.slice(-30)
  stage.service.takeBack(
    lost,
    numbers(70, 100).map((fd) => new Descriptor(fd)),
  )
  t.equal(stage.service.parkedCount, 179)

  const third = new NextWorker()
  stage.service.handOver(third)
  t.same(third.waiting, [FIRST_DESCRIPTOR + 200])
  third.turn()
  third.turn()
  t.same(
    third.idle.toSorted((one, other) => one - other),
    numbers(70, 250).filter((fd) => fd !== FIRST_DESCRIPTOR + 200),
  )
  // They came back without their ids, and as if they had no end: the next request on one ended the worker.
  const again = third.passed.filter(
    (each) => 'idleUntil' in each && lost.some(({ id }) => id.equals(each.id)),
  )
  t.same(
    again.map((each) => [each.id[0], 'idleUntil' in each && each.idleUntil]),
    numbers(70, 100).map((fd) => [fd - FIRST_DESCRIPTOR, IDLE_UNTIL + fd - FIRST_DESCRIPTOR]),
  )
  t.equal(stage.service.serviceStats.movedOut, 250, 'the dead one had 70 of them')
  await stage.service.idle()
})

void t.test('clients that wait come back from a dead successor as they were', async (t) => {
  const stage = new Stage(t)
  stage.park(2)
  for (const fd of numbers(0, 2)) stage.event(fd, 'G')
  t.equal(stage.service.held, 2)
  const next = new NextWorker()
  next.takesAtOnce = false
  stage.service.handOver(next)
  t.same([next.waiting, stage.service.held], [numbers(0, 2), 0])
  next.alive = false
  stage.service.takeBack(
    next.passed,
    next.waiting.map((fd) => new Descriptor(fd)),
  )
  t.equal(stage.service.held, 2)
  const third = new NextWorker()
  stage.service.handOver(third)
  t.same(third.waiting, numbers(0, 2), 'in order')
  t.match(third.passed, [{ handedBack: 'idle' }, { handedBack: 'idle' }])
  t.equal(stage.service.serviceStats.movedOut, 2)
})

// The worker took them for gone when they were in the kernel, and closed what came back: idle clients of a successor that was killed at once.
void t.test('what is under way may come back: until it is taken, nothing ends', async (t) => {
  const stage = new Stage(t)
  const next = new NextWorker()
  next.takesAtOnce = false
  stage.park(3)
  stage.service.handOver(next)
  t.equal(stage.service.parkedCount, 0)
  const ended = { idle: false, moved: false }
  void stage.service.idle().then(() => (ended.idle = true))
  void stage.service.moved().then(() => (ended.moved = true))
  await stage.service.drained()
  await new Promise(setImmediate)
  t.same(ended, { idle: false, moved: false })
  next.alive = false
  stage.service.takeBack(
    next.passed,
    next.idle.map((fd) => new Descriptor(fd)),
  )
  t.same([stage.service.parkedCount, stage.closed], [3, []], 'they wait here again')
  const third = new NextWorker()
  stage.service.handOver(third)
  t.same(third.idle, numbers(0, 3))
  await new Promise(setImmediate)
  t.same(ended, { idle: true, moved: true })
})

void t.test('at a stop, those whose turn has not come are closed', async (t) => {
  const stage = new Stage(t)
  stage.park(250)
  stage.service.handOver(new NextWorker())
  let hasMoved = false
  void stage.service.moved().then(() => (hasMoved = true))
  await stage.service.drained()
  t.equal(stage.closed.length, 0, 'they can still move')
  await stage.service.close()
  await new Promise(setImmediate)
  t.same(stage.closed, numbers(100, 250))
  t.equal(hasMoved, true)
})
