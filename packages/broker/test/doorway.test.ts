import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { acceptOne, listenTcp, listenUnix, localAddress, OwnedFd, Poller, recv } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { parseConfig } from '../src/config/config.ts'
import { type ClientConnection, InheritedClient } from '../src/worker/connection/connection.ts'
import { systemOs } from '../src/worker/os.ts'
import { Doorway } from '../src/worker/route/doorway.ts'
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
      peek: (fd: number, max: number) => {
        this.#looks.set(fd, this.looks(fd) + 1)
        return systemOs.peek(fd, max)
      },
    }
    const host = {
      decided: (_connection: ClientConnection, service: string | null) =>
        void this.events.push(`decided ${service}`),
      unrouted: (_connection: ClientConnection, reason: string) =>
        void this.events.push(`unrouted ${reason}`),
      cookieOf: (service: string) => (service === 'web' ? this.cookie : undefined),
      flush: () => {},
    }
    return new Doorway(config, this.poller, host, os)
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
    t.same(connection.proxied?.source, { family: 'IPv4', address: '192.0.2.1', port: 7 })
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
