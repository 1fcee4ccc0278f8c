import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import {
  acceptOne,
  listenTcp,
  listenUnix,
  localAddress,
  OwnedFd,
  poll,
  Poller,
  POLLHUP,
  recv,
} from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { parseConfig } from '../src/config/config.ts'
import { type ClientConnection, InheritedClient } from '../src/worker/connection/connection.ts'
import { systemOs } from '../src/worker/os.ts'
import { fieldsOf } from '../src/worker/service/hand-over.ts'
import { Doorway } from '../src/worker/route/doorway.ts'
import type { ConnectionTable } from '../src/worker/route/limits/connection-table.ts'
import { type Peer, peerOf, type Source, sourceOf } from '../src/worker/route/limits/source.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { temporaryFolder } from '../../../test/support/process.ts'
import { VirtualClock } from './virtual-fleet.ts'

// Connections whose service is not chosen yet. Real sockets and a real poller; the test's clock.

type Family = 'tcp' | 'unix'

class Stage {
  readonly clock = new VirtualClock()
  /** `decided web`, or `unrouted` and the reason. */
  readonly events: string[] = []
  readonly poller = new Poller()
  readonly doorway: Doorway
  readonly #t: Test
  /** The cookie that tells clients of the service `web` apart. */
  cookie: string | undefined
  /** Looks at each descriptor. */
  readonly #looks = new Map<number, number>()
  /** Connections of each look. */
  readonly together: number[] = []
  /** Called after each look, before anything is done about it. */
  afterLook = () => {}
  /** Open connections, as the kernel would list them. */
  readonly open: { peer: Peer; source: Source }[] = []
  counts = 0
  #order = 0

  constructor(t: Test, more: Record<string, unknown> = {}) {
    this.#t = t
    this.doorway = this.another(more)
    t.teardown(() => this.poller.close())
  }

  /** A doorway of the same listener in another worker. */
  another(more: Record<string, unknown> = {}): Doorway {
    const listener = {
      name: 'edge',
      listen: '127.0.0.1:0',
      routes: [{ host: 'a.example', service: 'a' }],
      service: 'web',
      ...more,
    }
    const { listeners } = parseConfig({ listeners: [listener], services: { web: {}, a: {} } })
    const [config] = listeners
    if (config === undefined) throw new Error('no listener')
    const { now, setTimeout, clear } = this.clock
    const os = {
      ...systemOs,
      now,
      setTimeout,
      clear,
      peekMany: (fds: readonly number[], max: number) => {
        for (const fd of fds) this.#looks.set(fd, this.looks(fd) + 1)
        this.together.push(fds.length)
        const peeked = systemOs.peekMany(fds, max)
        this.afterLook()
        return peeked
      },
    }
    const host = {
      decided: (_connection: ClientConnection, service: string | null) =>
        void this.events.push(`decided ${service}`),
      unrouted: (_connection: ClientConnection, reason: string) =>
        void this.events.push(`unrouted ${reason}`),
      cannotCount: (error: Error) => void this.events.push(`not counted: ${error.message}`),
      cookieOf: (service: string) => (service === 'web' ? this.cookie : undefined),
      flush: () => {},
    }
    const table: ConnectionTable = {
      each: (visit) => {
        this.counts += 1
        for (const { peer, source } of this.open) visit(source, () => peer)
        return Promise.resolve()
      },
    }
    return new Doorway(config, this.poller, host, os, table)
  }

  looks(fd: number): number {
    return this.#looks.get(fd) ?? 0
  }

  /** A new connection, at the moment of its accept. */
  async connection(family: Family = 'tcp'): Promise<{ client: Socket; connection: ClientConnection }> {
    const path = join(temporaryFolder(this.#t), 'in.sock')
    const listener = family === 'tcp' ? listenTcp({ host: '127.0.0.1', port: 0 }) : listenUnix({ path })
    const target = family === 'tcp' ? { host: '127.0.0.1', port: localAddress(listener.fd).port } : { path }
    const client = connect({ ...target, allowHalfOpen: true, noDelay: true })
    client.on('error', () => {})
    await once(client, 'connect')
    const accepted = acceptOne(listener.fd)
    if (accepted === undefined) throw new Error('nothing to accept')
    listener.close()
    const fd = new OwnedFd(accepted.fd)
    this.#t.teardown(() => {
      this.doorway.take()
      client.destroy()
      fd.close()
    })
    const connection = new InheritedClient(fd, {
      order: ++this.#order,
      listener: { name: 'edge', protocol: 'http' },
      peer: accepted.peer,
      id: Buffer.alloc(16),
      acceptedAt: this.clock.now(),
    })
    return { client, connection }
  }
}

for (const family of ['tcp', 'unix'] as const) {
  void t.test(
    `${family}: a client that has sent too little is looked at once for each arrival`,
    { timeout: LIMIT },
    async (t) => {
      const stage = new Stage(t)
      const slow = await stage.connection(family)
      stage.doorway.add(slow.connection)
      slow.client.write('GET / HTTP/1.1\r\n')
      const { fd } = slow.connection.fd
      // Once when it was accepted, once for its bytes, and perhaps once because they came between the two.
      await eventually(() => stage.looks(fd) >= 2, 'its bytes were looked at')
      for (let round = 1; round <= 20; round++) {
        const quick = await stage.connection(family)
        stage.doorway.add(quick.connection)
        quick.client.write('GET / HTTP/1.1\r\nHost: a.example\r\n\r\n')
        await eventually(() => stage.events.length === round, 'another client is routed')
      }
      t.ok(stage.looks(fd) <= 3, `${stage.looks(fd)} looks in at least 20 rounds of the poller`)
      slow.client.write('Host: a.example\r\n\r\n')
      await eventually(() => stage.events.length === 21, 'it is routed in the end')
      t.same(new Set(stage.events), new Set(['decided a']))
      t.equal(recv(fd, 100).toString(), 'GET / HTTP/1.1\r\nHost: a.example\r\n\r\n', 'with all of its bytes')
    },
  )
}

void t.test('a decision that is late', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t, { peekTimeout: '5s', proxyProtocol: { from: ['127.0.0.1'] } })
  const header = await stage.connection()
  stage.doorway.add(header.connection)
  stage.clock.advance(1000)
  const request = await stage.connection()
  stage.doorway.addAgain(request.connection)
  stage.clock.advance(3700)
  t.same(stage.events, [])
  stage.clock.advance(600)
  t.same(stage.events, ['unrouted proxy_header'], 'without its header, it goes to no service')
  stage.clock.advance(700)
  t.same(stage.events, ['unrouted proxy_header', 'decided web'], "without a request, to the listener's own")
  t.equal(stage.doorway.size, 0)
  t.equal(stage.clock.timers, 0)
})

void t.test(
  'a connection moves to another worker with what is known of it, and with the rest of its time',
  { timeout: LIMIT },
  async (t) => {
    const options = { peekTimeout: '5s', proxyProtocol: { from: ['127.0.0.1'] } }
    const stage = new Stage(t, options)
    const { client, connection } = await stage.connection()
    stage.doorway.add(connection)
    client.write('PROXY TCP4 192.0.2.1 192.0.2.2 7 80\r\nGET / ')
    await eventually(() => connection.proxied !== undefined, 'its header was read')
    stage.clock.advance(4000)
    t.same(stage.doorway.take(), [connection])
    t.equal(connection.peeked, 'content')
    t.equal(stage.clock.timers, 0)
    const next = stage.another(options)
    next.inherit(connection, 'content')
    stage.clock.advance(1250)
    t.same(stage.events, ['decided web'])
    // Held by its service, it went to that worker's doorway when it moved once more.
    t.equal(connection.peeked, undefined)
    t.same(connection.proxied?.source, { family: 'IPv4', address: '192.0.2.1', port: 7 })
  },
)

const REQUEST = 'GET / HTTP/1.1\r\nHost: a.example\r\n\r\n'

void t.test('connections of one turn are looked at together', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const all = []
  for (let index = 0; index < 70; index++) all.push(await stage.connection())
  for (const [index, { client, connection }] of all.entries()) {
    client.write(index % 2 === 0 ? REQUEST : REQUEST.replace('a.', 'b.'))
    await eventually(() => systemOs.peek(connection.fd.fd, 1) !== undefined, 'its bytes are there')
  }
  for (const { connection } of all) stage.doorway.add(connection)
  t.same(stage.events, [], 'not one by one')
  await eventually(() => stage.events.length === 70, 'all are decided')
  t.same(stage.together, [64, 6])
  t.same(
    stage.events,
    all.map((_, index) => `decided ${index % 2 === 0 ? 'a' : 'web'}`),
    'each by its own bytes, in order',
  )
  t.equal(stage.poller.size, 0, 'none was watched')
})

void t.test(
  'silent connections of one turn are watched, and their watches leave with them',
  { timeout: LIMIT },
  async (t) => {
    const stage = new Stage(t)
    const all = []
    for (let index = 0; index < 70; index++) all.push(await stage.connection())
    for (const { connection } of all) stage.doorway.add(connection)
    await eventually(() => stage.poller.size === 70, 'all are watched')
    for (const { client } of all) client.write(REQUEST)
    await eventually(() => stage.events.length === 70, 'all are decided')
    t.equal(stage.poller.size, 0)
    t.equal(stage.clock.timers, 0)
  },
)

void t.test('bytes that come between the look and the watch are seen', { timeout: LIMIT }, async (t) => {
  for (const first of ['', 'GET / HT']) {
    const stage = new Stage(t)
    const { client, connection } = await stage.connection()
    if (first !== '') client.write(first)
    await eventually(
      () => first === '' || systemOs.peek(connection.fd.fd, 1) !== undefined,
      'the first piece is there',
    )
    stage.afterLook = () => {
      stage.afterLook = () => {}
      // Node writes at once what the socket takes.
      client.write(REQUEST.slice(first.length))
    }
    stage.doorway.add(connection)
    await eventually(() => stage.events.length === 1, 'it is routed')
    t.same(stage.events, ['decided a'])
    t.equal(stage.looks(connection.fd.fd), 2)
  }
})

void t.test('bytes that have come when the time is over still count', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t, { peekTimeout: '5s' })
  const intime = await stage.connection()
  const half = await stage.connection()
  for (const { connection } of [intime, half]) stage.doorway.add(connection)
  await eventually(() => stage.poller.size === 2, 'both are watched')
  intime.client.write(REQUEST)
  half.client.write(REQUEST.slice(0, -2))
  // No turn of the event loop ends before: the poller cannot have reported them.
  stage.clock.advance(5250)
  t.same(stage.events, ['decided a', 'decided web'])
  t.equal(stage.poller.size, 0)
})

void t.test('a client that resets around a look is gone', { timeout: LIMIT }, async (t) => {
  const before = new Stage(t)
  const early = await before.connection()
  early.client.resetAndDestroy()
  await eventually(() => (poll(early.connection.fd.fd, 0) & POLLHUP) !== 0, 'the reset has arrived')
  before.doorway.add(early.connection)
  await eventually(() => before.events.length === 1, 'the first look finds it')
  t.same(before.events, ['unrouted client_gone'])

  const between = new Stage(t)
  const late = await between.connection()
  between.afterLook = () => {
    between.afterLook = () => {}
    late.client.resetAndDestroy()
  }
  between.doorway.add(late.connection)
  await eventually(() => between.events.length === 1, 'its watch reports it')
  t.same(between.events, ['unrouted client_gone'])
  t.equal(between.poller.size, 0)
})

void t.test(
  'connections that have not been looked at move to the next worker',
  { timeout: LIMIT },
  async (t) => {
    const options = { limits: { perSource: { rate: '1/s', burst: 1 } } }
    const stage = new Stage(t, options)
    const { client, connection } = await stage.connection()
    client.write(REQUEST)
    await eventually(() => systemOs.peek(connection.fd.fd, 1) !== undefined, 'its bytes are there')
    stage.doorway.add(connection)
    t.same(stage.doorway.take(), [connection])
    const other = stage.another(options)
    await new Promise(setImmediate)
    t.same(stage.together, [], 'the worker that it has left does not look at it')
    t.equal(connection.unjudged, undefined, 'and has judged it by its limits')
    other.inherit(connection, 'content')
    await eventually(() => stage.events.length === 1, 'it is decided')
    t.same(stage.events, ['decided a'])
  },
)

void t.test(
  'a doorway that is closed in the turn of an arrival looks at nothing',
  { timeout: LIMIT },
  async (t) => {
    const stage = new Stage(t)
    const { client, connection } = await stage.connection()
    client.write(REQUEST)
    stage.doorway.add(connection)
    stage.doorway.close()
    stage.poller.close()
    await new Promise(setImmediate)
    t.same(stage.events, ['unrouted shutdown'])
    t.same(stage.together, [])
  },
)

void t.test('exactly the header is consumed', { timeout: LIMIT }, async (t) => {
  for (const family of ['tcp', 'unix'] as const) {
    const listen = family === 'unix' ? { listen: 'unix:/tmp/never-opened.sock' } : {}
    const from = family === 'unix' ? [`uid:${process.getuid?.()}`] : ['127.0.0.0/8']
    const stage = new Stage(t, { ...listen, routes: [], proxyProtocol: { from } })
    const { client, connection } = await stage.connection(family)
    stage.doorway.add(connection)
    for (const byte of 'PROXY TCP6 2001:db8::1 ::1 7 80\r\n') client.write(byte)
    client.write('data')
    await eventually(() => stage.events.length === 1, 'it is decided')
    t.same(stage.events, ['decided web'])
    t.same(connection.proxied?.source, { family: 'IPv6', address: '2001:db8::1', port: 7 })
    await eventually(() => systemOs.peek(connection.fd.fd, 10)?.length === 4, 'what follows is there')
    t.equal(recv(connection.fd.fd, 100).toString(), 'data')
  }
})

/** Connections that arrive at a doorway with limits. */
class Arrivals extends Stage {
  readonly #t: Test

  constructor(t: Test, limits: object, more: Record<string, unknown> = {}) {
    super(t, { routes: [], limits, ...more })
    this.#t = t
  }

  /** @returns what has become of it at once */
  async arrive(address?: string, family: Family = 'tcp') {
    const { connection, client } = await this.connection(family)
    const { port } = connection.peer
    const peer = { family: 'IPv4', port, address: address ?? '127.0.0.1' } as const
    if (family === 'tcp') {
      Object.defineProperty(connection, 'peer', { value: peer })
      this.open.push({ peer: peerOf(peer.address, port), source: sourceOf(peer.address) })
    }
    this.doorway.add(connection)
    this.#t.teardown(() => client.destroy())
    return this.events.splice(0)
  }

  /** Its last holder has closed the connection. */
  close(address: string): void {
    const index = this.open.findIndex(({ source }) => source === sourceOf(address))
    this.open.splice(index, 1)
  }

  async counted(): Promise<string[]> {
    this.clock.advance(0)
    await new Promise(setImmediate)
    return this.events.splice(0)
  }
}

void t.test('a rate for each source', { timeout: LIMIT }, async (t) => {
  const stage = new Arrivals(
    t,
    { perSource: { rate: '1/s', burst: 2 } },
    { listen: 'unix:/tmp/in.sock', proxyProtocol: { from: ['uid:4000000000'] } },
  )
  t.same(await stage.arrive(), ['decided web'])
  t.same(await stage.arrive(), ['decided web'])
  t.same(await stage.arrive(), ['unrouted limit_rate'])
  t.same(await stage.arrive('127.0.0.2'), ['decided web'], 'another address')
  for (let n = 0; n < 3; n += 1)
    t.same(await stage.arrive('', 'unix'), ['decided web'], 'no address, no limit')
  stage.clock.advance(1000)
  t.same(await stage.arrive(), ['decided web'], 'a second later')
  t.same(await stage.arrive(), ['unrouted limit_rate'])
  t.equal(stage.counts, 0, 'open connections do not matter')
})

void t.test('open connections of each source, and in all', { timeout: LIMIT }, async (t) => {
  const stage = new Arrivals(t, { connections: 4, perSource: { connections: 2 } })
  // A predecessor has accepted it.
  stage.open.push({ peer: peerOf('127.0.0.1', 1), source: sourceOf('127.0.0.1') })
  t.same(await stage.arrive(), [], 'the first one waits for a count')
  t.same([await stage.counted(), stage.counts], [['decided web'], 1])
  t.same(await stage.arrive(), [], 'it seems to be one too many')
  t.same([await stage.counted(), stage.counts], [['unrouted limit_source_connections'], 2])
  stage.open.pop()
  t.same(await stage.arrive(), ['unrouted limit_source_connections'], 'as was counted a moment ago')
  stage.open.pop()
  t.same(await stage.arrive('127.0.0.2'), ['decided web'])
  t.same(await stage.arrive('127.0.0.3'), ['decided web'])
  t.equal(stage.counts, 2)
  t.same(await stage.arrive('127.0.0.4'), [])
  t.same(await stage.counted(), ['unrouted limit_connections'])
  stage.open.pop()
  stage.close('127.0.0.1')
  t.same(
    await stage.arrive('127.0.0.4'),
    ['unrouted limit_connections'],
    'that was noticed at the last count',
  )
  stage.open.pop()
  stage.clock.advance(100)
  t.same(await stage.arrive('127.0.0.4'), [])
  t.same(await stage.counted(), ['decided web'], 'and a closed one is noticed at the next')
})

void t.test('clients that open and close in turn are never too many', { timeout: LIMIT }, async (t) => {
  const stage = new Arrivals(t, { perSource: { connections: 2 } })
  for (let n = 0; n < 10; n += 1) {
    const before = await stage.arrive()
    t.same([...before, ...(await stage.counted())], ['decided web'])
    stage.close('127.0.0.1')
  }
  t.ok(stage.counts < 10, 'a count for two of them')
})

void t.test('connections that come together are counted together', { timeout: LIMIT }, async (t) => {
  const stage = new Arrivals(t, { perSource: { connections: 3 } })
  for (let n = 0; n < 5; n += 1) t.same(await stage.arrive(), [])
  t.same(await stage.counted(), [
    ...Array.from({ length: 3 }, () => 'decided web'),
    ...Array.from({ length: 2 }, () => 'unrouted limit_source_connections'),
  ])
  t.equal(stage.counts, 1)
})

void t.test('refused connections do not count while they are being closed', { timeout: LIMIT }, async (t) => {
  const stage = new Arrivals(t, { connections: 1 })
  await stage.arrive()
  await stage.counted()
  const { connection } = await stage.connection()
  const { address, port } = connection.peer
  stage.open.push({ peer: peerOf(address, port), source: sourceOf(address) })
  stage.doorway.add(connection)
  t.same(await stage.counted(), ['unrouted limit_connections'])
  const closed = stage.doorway.lingers(connection)
  t.ok(closed)
  stage.open.shift()
  stage.clock.advance(100)
  t.same(await stage.arrive(), [])
  t.same(await stage.counted(), ['decided web'], 'one that was refused is still open')
  // It was subtracted, though it was closed while connections were counted: one too many was admitted.
  stage.open.shift()
  stage.clock.advance(100)
  t.same(await stage.arrive(), [])
  t.same(await stage.counted(), ['unrouted limit_connections'], 'or is not listed any longer')
  closed?.()
})

void t.test(
  'connections that wait for a count are judged by the next worker',
  { timeout: LIMIT },
  async (t) => {
    // They were taken for admitted there: a reload let any number in.
    const limits = { perSource: { connections: 2 } }
    const stage = new Arrivals(t, limits)
    for (let n = 0; n < 5; n += 1) t.same(await stage.arrive(), [])
    const next = stage.another({ routes: [], limits })
    for (const { connection, peeked } of stage.doorway
      .take()
      .map((each) => ({ connection: each, peeked: each.peeked ?? 'content' }))) {
      const fields = { ...fieldsOf(connection), peeked }
      next.inherit(new InheritedClient(connection.fd, fields), peeked)
    }
    t.same(await stage.counted(), [
      ...Array.from({ length: 2 }, () => 'decided web'),
      ...Array.from({ length: 3 }, () => 'unrouted limit_source_connections'),
    ])
  },
)

void t.test('those that were admitted are not judged again', { timeout: LIMIT }, async (t) => {
  const limits = { perSource: { rate: '1/h', burst: 1 } }
  const more = { routes: [{ host: 'a.example', service: 'a' }] }
  const stage = new Arrivals(t, limits, more)
  t.same(await stage.arrive(), [], 'it has sent nothing')
  const next = stage.another({ ...more, limits })
  const [connection] = stage.doorway.take()
  if (connection === undefined) throw new Error('it is not there')
  next.inherit(connection, 'content')
  t.same([next.size, stage.events], [1, []])
  t.same(await stage.arrive(), ['unrouted limit_rate'])
  next.take()
})

void t.test('behind a load balancer, the client counts', { timeout: LIMIT }, async (t) => {
  const stage = new Arrivals(t, { perSource: { connections: 1 } }, { proxyProtocol: { from: ['127.0.0.1'] } })
  const from = async (address: string) => {
    const { connection, client } = await stage.connection()
    client.write(`PROXY TCP4 ${address} 127.0.0.1 4000 80\r\n`)
    stage.doorway.add(connection)
    const { peer } = connection
    stage.open.push({ peer: peerOf(peer.address, peer.port), source: sourceOf(peer.address) })
    await eventually(() => {
      stage.clock.advance(0)
      return stage.events.length > 0
    }, 'it was judged')
    return stage.events.splice(0)
  }
  t.same(await from('192.0.2.1'), ['decided web'])
  t.same(await from('192.0.2.2'), ['decided web'])
  t.same(await from('192.0.2.1'), ['unrouted limit_source_connections'])
  stage.open.shift()
  stage.clock.advance(100)
  t.same(await from('192.0.2.1'), ['decided web'], 'its only connection was closed')
})

void t.test('a source is an IPv4 address, or an IPv6 network of 64 bits', async (t) => {
  const source = sourceOf('192.0.2.7')
  t.equal(source, 0xc0_00_02_07)
  for (const address of ['::ffff:192.0.2.7', '::ffff:c000:207', '0:0:0:0:0:ffff:c000:0207'])
    t.equal(sourceOf(address), source, address)
  for (const [address, expected] of [
    ['2001:DB8:0:1::5', '20010db800000001'],
    ['2001:db8:0:1:a:b:c:d', '20010db800000001'],
    ['2001:0db8::0001:a:b:c:d', '20010db800000001'],
    ['fe80::1%eth0', 'fe80000000000000'],
    ['::1', '0000000000000000'],
  ] as const)
    t.equal(String(sourceOf(address)).toLowerCase(), expected, address)
})

void t.test('a cookie tells clients apart, while that matters', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t, { routes: [] })
  const through = async (request: string) => {
    const { client, connection } = await stage.connection()
    const before = stage.events.length
    client.write(request)
    stage.doorway.add(connection)
    await eventually(() => stage.events.length > before, 'it is decided')
    t.equal(stage.events.at(-1), 'decided web', request)
    return connection
  }
  const request = (...fields: string[]) => `GET / HTTP/1.1\r\nHost: x\r\n${fields.join('')}\r\n`
  const silent = await stage.connection()
  stage.doorway.add(silent.connection)
  t.same(stage.events, ['decided web'], 'otherwise nothing is waited for')
  t.equal(stage.looks(silent.connection.fd.fd), 0)

  stage.cookie = 'user'
  const ada = (await through(request('Cookie: a=b; user=ada\r\n'))).routed?.sticky
  t.match(ada, /^[\w-]{16}$/)
  t.equal((await through(request('X: y\r\n', 'Cookie: user=ada; c=d\r\n'))).routed?.sticky, ada)
  t.not((await through(request('Cookie: user=bob\r\n'))).routed?.sticky, ada)
  t.equal((await through(request('Cookie: users=ada\r\n'))).routed, undefined, 'without it, by the address')
  t.equal(
    (await through(request('Host: y\r\n'))).routed,
    undefined,
    'a head that is not clear is not refused',
  )
  t.equal((await through('GET / HTTP/1.1\n\n')).routed, undefined)
  t.equal((await through('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')).routed, undefined)
})

void t.test('the cookie of the service that a route has chosen', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t, {
    routes: [
      { host: 'a.example', service: 'a' },
      { host: 'beta.example', service: 'web', version: '2.0' },
    ],
  })
  stage.cookie = 'user'
  for (const [host, routed] of [
    ['a.example', undefined],
    ['b.example', { sticky: String }],
    ['beta.example', { version: '2.0', sticky: String }],
  ] as const) {
    const { client, connection } = await stage.connection()
    const before = stage.events.length
    stage.doorway.add(connection)
    client.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nCookie: user=ada\r\n\r\n`)
    await eventually(() => stage.events.length > before, 'it is decided')
    t.match(connection.routed, routed, host)
  }
})
