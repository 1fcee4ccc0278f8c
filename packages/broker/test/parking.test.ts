import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import {
  acceptOne,
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLRDHUP,
  listenTcp,
  localAddress,
  OwnedFd,
  poll,
  POLLIN,
  Poller,
  type ReadinessListener,
  recv,
} from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import type { ParkedClient } from '../src/worker/connection/connection.ts'
import { metaOf } from '../src/worker/connection/proxied.ts'
import { systemOs } from '../src/worker/os.ts'
import { Deadlines, type Ending } from '../src/worker/park/deadlines.ts'
import { Parking } from '../src/worker/park/parking.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { VirtualClock } from './virtual-fleet.ts'

// Idle connections that wait in the broker for their next request, or their end. Real sockets; the test's clock and, mostly, its events.

type Event = 'awake' | 'over' | 'flush'

class Stage {
  readonly clock = new VirtualClock()
  readonly events: Event[] = []
  /** How many were given up at a time. */
  readonly closings: number[] = []
  /** Descriptors that are watched. */
  readonly watched = new Map<number, ReadinessListener>()
  rearmed = 0
  readonly parking: Parking
  readonly #t: Test

  constructor(t: Test, poller?: Poller) {
    this.#t = t
    const { now, setTimeout, clear } = this.clock
    this.parking = new Parking(
      poller ?? {
        add: (fd, _events, listener) => {
          this.watched.set(fd, listener)
          return { modify: () => void (this.rearmed += 1), remove: () => void this.watched.delete(fd) }
        },
      },
      {
        awake: () => this.events.push('awake'),
        over: (connections) => {
          this.closings.push(connections.length)
          this.events.push(...connections.map(() => 'over' as const))
        },
        flush: () => this.events.push('flush'),
      },
      { ...systemOs, now, setTimeout, clear },
    )
  }

  /** Parks one end of a new connection. @returns the client, and the parked end */
  async park(keepAlive = Number.POSITIVE_INFINITY): Promise<{ client: Socket; connection: ParkedClient }> {
    const listener = listenTcp({ host: '127.0.0.1', port: 0 })
    const client = connect({ host: '127.0.0.1', port: localAddress(listener.fd).port, allowHalfOpen: true })
    client.on('error', () => {})
    await once(client, 'connect')
    const accepted = acceptOne(listener.fd)
    listener.close()
    const fd = new OwnedFd(accepted?.fd ?? -1)
    this.#t.teardown(() => {
      this.parking.take()
      client.destroy()
      fd.close()
    })
    const idleUntil = this.clock.now() + keepAlive
    const connection = {
      fd,
      listener: { name: 'web', protocol: 'http' as const },
      id: Buffer.alloc(16),
      idleUntil,
    }
    this.parking.add(connection)
    return { client, connection }
  }

  fire({ fd }: ParkedClient, events: number): void {
    this.watched.get(fd.fd)?.(events, fd.fd)
  }
}

async function readable({ fd }: ParkedClient): Promise<void> {
  await eventually(() => poll(fd.fd, POLLIN) !== 0, 'the kernel has received it')
}

void t.test('its first byte wakes a connection, and stays unread', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const { client, connection } = await stage.park()
  t.equal(stage.parking.size, 1)
  client.write('GET / HTTP/1.1\r\n\r\n')
  await readable(connection)
  stage.fire(connection, EPOLLIN)
  t.same(stage.events, ['awake'])
  t.equal(stage.parking.size, 0)
  t.equal(stage.watched.size, 0, 'no watch is left')
  t.equal(recv(connection.fd.fd, 100).toString(), 'GET / HTTP/1.1\r\n\r\n')
})

void t.test('an event without a byte arms the watch again', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const { connection } = await stage.park()
  stage.fire(connection, EPOLLIN)
  t.match(stage, { events: [], rearmed: 1, parking: { size: 1 } })
})

void t.test('a client that leaves ends its connection', { timeout: LIMIT }, async (t) => {
  await t.test('by FIN', async (t) => {
    const stage = new Stage(t)
    const { client, connection } = await stage.park()
    client.end()
    await readable(connection)
    stage.fire(connection, EPOLLIN | EPOLLRDHUP)
    t.match(stage, { events: ['over'], parking: { size: 0 } })
  })
  for (const events of [EPOLLERR | EPOLLHUP, EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP]) {
    await t.test(`by a reset, events ${events}`, async (t) => {
      const stage = new Stage(t)
      const { client, connection } = await stage.park()
      client.resetAndDestroy()
      await readable(connection)
      stage.fire(connection, events)
      t.match(stage, { events: ['over'], parking: { size: 0 } })
    })
  }
  await t.test('but one that has sent a request and then FIN still gets its answer', async (t) => {
    const stage = new Stage(t)
    const { client, connection } = await stage.park()
    client.end('GET / HTTP/1.0\r\n\r\n')
    await readable(connection)
    stage.fire(connection, EPOLLIN | EPOLLRDHUP)
    t.match(stage, { events: ['awake'] })
  })
})

void t.test('a connection ends with its keep-alive time, and not before', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  await stage.park(1000)
  await stage.park(5000)
  await stage.park()
  stage.clock.advance(999)
  t.notOk(stage.events.includes('over'))
  stage.clock.advance(501)
  t.match(stage, { parking: { size: 2 } })
  stage.clock.advance(10_000)
  t.same(
    stage.events.filter((event) => event === 'over'),
    ['over', 'over'],
  )
  t.match(stage, { parking: { size: 1 }, clock: { timers: 0 } }, 'one without a limit needs no timer')
})

void t.test('a request that came just in time is served', { timeout: LIMIT }, async (t) => {
  // It lay in the worker until the next event of any other client.
  const stage = new Stage(t)
  const { client, connection } = await stage.park(1000)
  client.write('G')
  await readable(connection)
  stage.clock.advance(1500)
  t.same(stage.events.slice(-2), ['awake', 'flush'], 'and offered at once')
})

void t.test('`take` gives all away, unwatched', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const parked = [await stage.park(1000), await stage.park()]
  t.same(
    stage.parking.take(),
    parked.map(({ connection }) => connection),
  )
  t.equal(stage.watched.size, 0)
  stage.clock.advance(10_000)
  t.match(stage, { parking: { size: 0 }, clock: { timers: 0 } })
  t.notOk(stage.events.includes('over'))
})

void t.test('`end` closes those without a request', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  await stage.park(1000)
  const { client, connection } = await stage.park(1000)
  client.write('G')
  await readable(connection)
  stage.parking.end()
  t.same(stage.events, ['awake', 'over'])
  t.match(stage, { parking: { size: 0 }, clock: { timers: 0 } })
  t.equal(stage.watched.size, 0)
})

void t.test('those that end together are closed together', { timeout: LIMIT }, async (t) => {
  // Each was closed by a call of its own, and a stop of a worker with many of them took that many system calls.
  const stage = new Stage(t)
  for (const keepAlive of [1000, 1000, 5000, 5000, 5000]) await stage.park(keepAlive)
  stage.clock.advance(1500)
  t.same(stage.closings, [2], 'when their time is over')
  stage.parking.end()
  t.same(stage.closings, [2, 3], 'and at the end')
})

void t.test('with a real poller', { timeout: LIMIT }, async (t) => {
  const poller = new Poller()
  t.teardown(() => poller.close())
  const stage = new Stage(t, poller)
  const [one, other, third] = [await stage.park(), await stage.park(), await stage.park()]
  one.client.write('G')
  await eventually(() => stage.events.length === 1, 'one is awake')
  other.client.destroy()
  await eventually(() => stage.events.length === 2, 'another has left')
  t.same(stage.events, ['awake', 'over'])
  t.equal(third.connection.fd.closed, false)
  t.equal(stage.parking.size, 1)
})

void t.test('a socket that wakes up again and again, and has nothing to read, is closed', async (t) => {
  // A backend that hands it back can make it so (SO_PEEK_OFF), and the broker spun.
  const stage = new Stage(t)
  const { connection } = await stage.park()
  const { fd } = connection.fd
  const wake = () => stage.watched.get(fd)?.(EPOLLIN, fd)
  wake()
  t.same({ events: stage.events, rearmed: stage.rearmed }, { events: [], rearmed: 1 }, 'once may be chance')
  for (let turn = 0; turn < 10; turn++) wake()
  t.same(stage.events, ['over'])
  t.ok(stage.rearmed < 5)
})

void t.test('more connections may end together than a call takes arguments', async (t) => {
  const deadlines = new Deadlines<Ending & { readonly number: number }>()
  const count = 200_000
  for (let number = 0; number < count; number += 1)
    deadlines.add({ tick: 1, number, next: undefined, previous: undefined })
  const due = deadlines.due(1)
  t.same([due.length, due[0]?.number, due.at(-1)?.number], [count, 0, count - 1])
})

void t.test(
  'an offer says how long a connection may stay idle, if its next request has not come',
  async (t) => {
    t.equal(metaOf({}, 1000), undefined)
    t.same(metaOf({ quietUntil: 1500.4 }, 1000), { idleFor: 500 })
    t.same(metaOf({ quietUntil: 900 }, 1000), { idleFor: 0 }, 'its time is over')
    t.same(metaOf({ quietUntil: Number.POSITIVE_INFINITY }, 1000), { idleFor: 0xffff_ffff })
  },
)
