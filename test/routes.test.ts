import { execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect as connectHttp2 } from 'node:http2'
import { connect as connectTcp } from 'node:net'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { text } from 'node:stream/consumers'
import { connect as connectTls } from 'node:tls'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { reload } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { PATIENT } from './support/service.ts'

// The broker chooses a service by the first bytes of a connection, and passes it on with all of them.

/** Never expires, however slow the machine is. */
const LONG = '30m'

interface Answered {
  readonly pid: number
  readonly path: string
  readonly remoteAddress: string
  readonly remotePort: number
}

const folder = temporaryFolder(t)
const [KEY, CERTIFICATE] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
const request = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
const names = '-subj /CN=a.example -addext subjectAltName=DNS:a.example,DNS:x.b.example,DNS:c.example'
execFileSync('openssl', [...`${request} ${names}`.split(' '), '-keyout', KEY, '-out', CERTIFICATE], {
  stdio: 'pipe',
})
const ca = readFileSync(CERTIFICATE)

const uid = process.getuid?.() ?? 0
const unixPath = join(folder, 'in.sock')
const listener = (name: string, more: object) => ({
  name,
  listen: '127.0.0.1:0',
  protocol: 'http',
  service: 'web',
  peekTimeout: LONG,
  ...more,
})
const ROUTES = [
  { host: 'api.example', path: '/v1', service: 'api' },
  { host: '*.shop.example', service: 'shop' },
  { cookie: { beta: '1' }, service: 'api' },
  { header: { 'x-tenant': 'shop' }, service: 'shop' },
  { path: '/internal', service: null },
]
const TLS_ROUTES = [
  { sni: 'a.example', alpn: 'h2', service: 'a' },
  { sni: '*.b.example', service: 'b' },
]
const TRUSTED = { from: ['127.0.0.1'] }

const broker: Broker = await startBroker(t, {
  config: {
    listeners: [
      listener('edge', { routes: ROUTES }),
      listener('strict', { routes: [ROUTES[0]], service: null }),
      listener('brief', { routes: ROUTES, peekTimeout: '50ms' }),
      listener('plain', { proxyProtocol: TRUSTED }),
      listener('both', { routes: ROUTES, proxyProtocol: TRUSTED }),
      listener('limited', { limits: { perSource: { rate: '1/h', burst: 2 } }, proxyProtocol: TRUSTED }),
      listener('limitedtcp', { protocol: 'tcp', limits: { perSource: { rate: '1/h', burst: 1 } } }),
      listener('untrusting', { proxyProtocol: { from: ['10.0.0.0/8'] } }),
      listener('local', {
        routes: ROUTES,
        proxyProtocol: { from: [`uid:${uid}`] },
        listen: `unix:${unixPath}`,
      }),
      listener('versions', {
        service: 'two',
        routes: [
          { path: '/beta', service: 'two', version: '2.0' },
          { path: '/relayed', service: 'shop', version: '2.0' },
        ],
      }),
      listener('tls', { protocol: 'tls', routes: TLS_ROUTES, service: null, proxyProtocol: null }),
      listener('tlsproxy', { protocol: 'tls', routes: TLS_ROUTES, service: null, proxyProtocol: TRUSTED }),
    ],
    services: {
      web: { ...PATIENT, parkAfter: '0ms' },
      api: { ...PATIENT, parkAfter: '0ms' },
      two: { ...PATIENT, parkAfter: '0ms' },
      // Relayed: its backend gets the client's address by another way.
      shop: { ...PATIENT, handoff: 'off' },
      a: PATIENT,
      b: PATIENT,
    },
    drainDeadline: '10m',
    workerTimeout: '1h',
  },
})

async function start(
  service: string,
  program = 'http-backend.mjs',
  version = '1.0',
  test = t as Test,
): Promise<number> {
  const backend = new Program(test, process.execPath, [join(root, 'test/programs', program)], {
    env: {
      BATON_SOCKET: broker.control,
      BATON_SERVICE: service,
      BATON_VERSION: version,
      DRAIN_DEADLINE: '10m',
      KEY,
      CERTIFICATE,
    },
  })
  await backend.message('ready')
  return backend.pid
}
const pids = {
  web: await start('web'),
  api: await start('api'),
  shop: await start('shop'),
  two: await start('two'),
  a: await start('a', 'h2-backend.mjs'),
  b: await start('b', 'h2-backend.mjs'),
}
type ServiceName = keyof typeof pids
for (const service of Object.keys(pids)) await broker.backends(1, service)

const open = (test: Test, name: string) => Client.open(test, { host: '127.0.0.1', port: broker.port(name) })
const peeked = (name: string) => broker.metric(`baton_connections_peeked{listener="${name}"}`)
const accepted = (name: string) => broker.metric(`baton_connections_accepted_total{listener="${name}"}`)
/** The first bytes of `count` more clients than `before` are no longer waited for. None are before the broker has accepted them. */
const isDecided = async (name: string, before: number, count: number) =>
  (await accepted(name)) === before + count && (await peeked(name)) === 0
const unrouted = (name: string, reason: string) =>
  broker.metric(`baton_connections_unrouted_total{listener="${name}",reason="${reason}"}`)

function head(path: string, ...fields: string[]): string {
  return `${[`GET ${path} HTTP/1.1`, ...fields].join('\r\n')}\r\n\r\n`
}

/** Which service answers: by the pid of its backend. */
function serviceOf({ pid }: Pick<Answered, 'pid'>): ServiceName | undefined {
  return (Object.keys(pids) as ServiceName[]).find((name) => pids[name] === pid)
}

async function answered(client: Client): Promise<Answered> {
  return JSON.parse((await client.answer()).body) as Answered
}

async function routed(test: Test, name: string, bytes: string): Promise<ServiceName | undefined> {
  const client = await open(test, name)
  client.send(bytes)
  const service = serviceOf(await answered(client))
  client.socket.destroy()
  return service
}

void t.test(
  'http: the first route that matches a request chooses the service',
  { timeout: LIMIT },
  async (t) => {
    const cases: readonly [expected: ServiceName, bytes: string][] = [
      ['api', head('/v1/users?a=b', 'Host: API.example:8080')],
      ['web', head('/v10', 'Host: api.example')],
      ['shop', head('/', 'Host: a.b.shop.example')],
      ['web', head('/', 'Host: shop.example')],
      ['api', head('/', 'Host: x', 'Cookie: a=b; beta=1')],
      ['shop', head('/', 'Host: x', 'X-Tenant: shop')],
      ['web', head('/', 'Host: x', 'X-Tenant: other')],
    ]
    for (const [expected, bytes] of cases)
      t.equal(await routed(t, 'edge', bytes), expected, bytes.split('\r\n').join(' '))
    const curl = await promisify(execFile)('curl', [
      '-s',
      '--connect-to',
      `::127.0.0.1:${broker.port('edge')}`,
      'http://api.example/v1',
    ])
    t.equal(serviceOf(JSON.parse(curl.stdout) as Answered), 'api', 'curl')
  },
)

void t.test(
  'http: what no route takes, and what could be read in two ways',
  { timeout: LIMIT },
  async (t) => {
    const status = async (name: string, bytes: string) => {
      const client = await open(t, name)
      client.send(bytes)
      const answer = await client.answer()
      t.equal(await client.ended, 'end')
      return answer.status
    }
    t.equal(await status('strict', head('/v2', 'Host: api.example')), 404)
    t.equal(await status('edge', head('/internal', 'Host: x')), 404)
    t.equal(await status('edge', head('/', 'Host: x', 'Host: api.example')), 400)
    t.equal(await status('edge', 'GET / HTTP/1.1\nHost: x\n\n'), 400)
    t.equal(await status('edge', head('/', 'Host: x', 'X-Tenant: shop', 'X-Tenant: other')), 400)
    t.equal(await unrouted('edge', 'ambiguous'), 3)
    t.equal(await unrouted('edge', 'no_route'), 1)
    t.equal(await unrouted('strict', 'no_route'), 1)
  },
)

void t.test('http: a head that arrives byte by byte', { timeout: LIMIT }, async (t) => {
  const client = await open(t, 'edge')
  for (const byte of head('/v1', 'Host: api.example')) {
    client.send(byte)
    await new Promise((resolve) => setImmediate(resolve))
  }
  t.equal(serviceOf(await answered(client)), 'api')
})

void t.test('each request of a connection that is kept is routed again', { timeout: LIMIT }, async (t) => {
  const client = await open(t, 'edge')
  const seen: (ServiceName | undefined)[] = []
  for (const host of ['x', 'api.example', 'x', 'a.shop.example']) {
    client.send(head('/v1', `Host: ${host}`))
    const service = serviceOf(await answered(client))
    seen.push(service)
    await eventually(async () => {
      const { services } = await broker.status()
      return services.some(({ name, parked }) => name === service && parked > 0) || seen.length === 4
    }, 'it is parked')
  }
  t.same(seen, ['web', 'api', 'web', 'shop'])
  client.socket.destroy()
})

void t.test(
  'clients that do not finish are served by the listener’s own service',
  { timeout: LIMIT },
  async (t) => {
    const known = await accepted('brief')
    const clients = await Promise.all(Array.from({ length: 100 }, () => open(t, 'brief')))
    for (const client of clients) client.send('GET /v1 HTTP/1.1\r\nHost: api.exam')
    await eventually(() => isDecided('brief', known, 100), 'their time is over')
    for (const client of clients) client.send('ple\r\n\r\n')
    for (const client of clients) t.equal(serviceOf(await answered(client)), 'web')
    for (const client of clients) client.socket.destroy()

    const crowd = await Promise.all(Array.from({ length: 200 }, () => open(t, 'edge')))
    for (const client of crowd) client.send('GET /')
    await eventually(async () => (await peeked('edge')) === 200, 'they wait')
    t.equal(await routed(t, 'edge', head('/v1', 'Host: api.example')), 'api', 'others do not wait for them')
    const before = await unrouted('edge', 'client_gone')
    for (const [index, { socket }] of crowd.entries()) {
      if (index % 2 === 0) socket.destroy()
      else socket.resetAndDestroy()
    }
    await eventually(async () => (await peeked('edge')) === 0, 'they have left')
    t.equal((await unrouted('edge', 'client_gone')) - before, 200)
  },
)

void t.test(
  'a head of 16 KiB without an end goes to the listener’s own service',
  { timeout: LIMIT },
  async (t) => {
    const known = await accepted('edge')
    const client = await open(t, 'edge')
    client.send(`GET /v1 HTTP/1.1\r\nHost: api.example\r\nX-Long: ${'x'.repeat(17_000)}`)
    await eventually(() => isDecided('edge', known, 1), 'it was decided')
    client.send('\r\n\r\n')
    await client.ended
    t.match(client.received, /^HTTP\/1\.1 431 /, 'from the server of the backend')
  },
)

void t.test(
  'a route with a version: connections wait for a backend of it, and others do not wait behind them',
  { timeout: LIMIT },
  async (t) => {
    const held = (service: string) => broker.metric(`baton_connections_held{service="${service}"}`)
    const early = await open(t, 'versions')
    early.send(head('/beta', 'Host: x'))
    const relayed = await open(t, 'versions')
    relayed.send(head('/relayed', 'Host: x'))
    await eventually(async () => (await held('two')) === 1 && (await held('shop')) === 1, 'they are held')
    t.equal(await routed(t, 'versions', head('/', 'Host: x')), 'two')
    t.ok((await reload(t, broker)).success)
    await eventually(async () => (await held('two')) === 1 && (await held('shop')) === 1, 'they have moved')
    t.equal(await routed(t, 'versions', head('/', 'Host: x')), 'two')

    const beta = await start('two', 'http-backend.mjs', '2.0', t)
    t.equal((await answered(early)).pid, beta)
    const relay = await start('shop', 'http-backend.mjs', '2.0', t)
    t.equal((await answered(relayed)).pid, relay)
    for (const client of [early, relayed]) client.socket.destroy()
    const seen = new Set<number>()
    for (let count = 0; count < 6; count++) {
      const client = await open(t, 'versions')
      client.send(head('/beta/a', 'Host: x'))
      seen.add((await answered(client)).pid)
      client.socket.destroy()
    }
    t.same(seen, new Set([beta]))

    const kept = await open(t, 'versions')
    for (let count = 0; count < 4; count++) {
      kept.send(head('/beta', 'Host: x'))
      t.equal((await answered(kept)).pid, beta, 'each request of a connection that is kept')
      await eventually(
        async () => (await broker.status()).services.some(({ parked }) => parked > 0),
        'it is parked',
      )
    }
    kept.socket.destroy()
  },
)

void t.test('a reload moves clients whose service is not chosen yet', { timeout: LIMIT }, async (t) => {
  const client = await open(t, 'edge')
  client.send('GET /v1 HTTP/1.1\r\nHost: api.')
  const proxied = await open(t, 'both')
  proxied.send('PROXY TCP4 192.0.2.1 192.0.2.')
  const named = await open(t, 'both')
  named.send('PROXY TCP4 192.0.2.9 192.0.2.2 9 80\r\nGET /v1 ')
  await eventually(async () => (await peeked('edge')) === 1 && (await peeked('both')) === 2, 'they wait')
  t.ok((await reload(t, broker)).success)
  await eventually(
    async () => (await peeked('edge')) === 1 && (await peeked('both')) === 2,
    'they wait again',
  )
  client.send('example\r\n\r\n')
  t.equal(serviceOf(await answered(client)), 'api')
  proxied.send(`2 7 80\r\n${head('/v1', 'Host: api.example')}`)
  const first = await answered(proxied)
  t.same([serviceOf(first), first.remoteAddress, first.remotePort], ['api', '192.0.2.1', 7])
  named.send('HTTP/1.1\r\nHost: a.shop.example\r\n\r\n')
  const second = await answered(named)
  t.same([serviceOf(second), second.remoteAddress, second.remotePort], ['shop', '192.0.2.9', 9])
  for (const each of [client, proxied, named]) each.socket.destroy()
})

void t.test('PROXY: the address in the header is the client’s', { timeout: LIMIT }, async (t) => {
  const binary = Buffer.from(
    '0d0a0d0a000d0a515549540a2121002420010db8' + '0'.repeat(23) + '1' + '0'.repeat(31) + '1' + '00070050',
    'hex',
  )
  const cases: readonly [header: string, address: string | undefined, port: number | undefined][] = [
    ['PROXY TCP4 192.0.2.1 192.0.2.2 7 80\r\n', '192.0.2.1', 7],
    [binary.toString('latin1'), '2001:db8::1', 7],
    ['PROXY UNKNOWN\r\n', '127.0.0.1', undefined],
    ['\r\n\r\n\0\r\nQUIT\n\x20\0\0\0', '127.0.0.1', undefined],
  ]
  for (const [header, address, port] of cases) {
    const client = await open(t, 'plain')
    client.socket.write(Buffer.from(header + head('/', 'Host: x'), 'latin1'))
    const { remoteAddress, remotePort } = await answered(client)
    t.same(
      { remoteAddress, remotePort },
      { remoteAddress: address, remotePort: port ?? client.port },
      JSON.stringify(header),
    )
    client.socket.destroy()
  }
  const curl = await promisify(execFile)('curl', ['-s', '--haproxy-protocol', broker.url('/', 'plain')])
  t.equal((JSON.parse(curl.stdout) as Answered).remoteAddress, '127.0.0.1', 'curl')
})

void t.test(
  'PROXY: the address stays with a connection that is parked, and shows in its record',
  { timeout: LIMIT },
  async (t) => {
    const client = await open(t, 'both')
    client.send(`PROXY TCP4 192.0.2.1 192.0.2.2 7 80\r\n${head('/', 'Host: x')}`)
    const first = (await answered(client)) as Answered & { connection: string }
    await eventually(
      async () => (await broker.status()).services.some(({ parked }) => parked > 0),
      'it is parked',
    )
    client.send(head('/v1', 'Host: api.example'))
    const second = await answered(client)
    t.same([serviceOf(first), first.remoteAddress, first.remotePort], ['web', '192.0.2.1', 7])
    t.same([serviceOf(second), second.remoteAddress, second.remotePort], ['api', '192.0.2.1', 7])
    const record = (await (await fetch(`${broker.admin}/api/v1/connections/${first.connection}`)).json()) as {
      peer: string
    }
    t.equal(record.peer, '192.0.2.1:7')
    client.socket.destroy()
  },
)

void t.test(
  'PROXY: a trusted peer without a header is disconnected, and that of others is data',
  { timeout: LIMIT },
  async (t) => {
    const silent = await open(t, 'plain')
    silent.send(head('/', 'Host: x'))
    await silent.ended
    const broken = await open(t, 'plain')
    broken.send('PROXY TCP4 192.0.2.1\r\n')
    await broken.ended
    t.equal(await unrouted('plain', 'proxy_header'), 2)
    const other = await open(t, 'untrusting')
    other.send(`PROXY TCP4 192.0.2.1 192.0.2.2 7 80\r\n${head('/', 'Host: x')}`)
    const [line] = (await other.ended.then(() => other.received)).split('\r\n')
    t.equal(line, 'HTTP/1.1 400 Bad Request', 'from the server of the backend')
  },
)

void t.test('limits: by the address of the client', { timeout: LIMIT }, async (t) => {
  const from = (address: string) => `PROXY TCP4 ${address} 127.0.0.1 4000 80\r\n${head('/', 'Host: x')}`
  for (let n = 0; n < 2; n += 1) t.equal(await routed(t, 'limited', from('192.0.2.1')), 'web')
  const client = await open(t, 'limited')
  client.send(from('192.0.2.1'))
  const answer = await client.answer()
  t.equal(answer.status, 429)
  t.equal(await routed(t, 'limited', from('192.0.2.2')), 'web', 'another address')
  t.equal(await unrouted('limited', 'limit_rate'), 1)

  t.equal(await routed(t, 'limitedtcp', head('/', 'Host: x')), 'web')
  const second = await open(t, 'limitedtcp')
  t.equal(await text(second.socket), '', 'closed without a byte')
  t.equal(await unrouted('limitedtcp', 'limit_rate'), 1)
})

void t.test('PROXY: on a Unix socket, by the user of the peer', { timeout: LIMIT }, async (t) => {
  const client = await Client.open(t, { path: unixPath })
  client.send('PROXY TCP4 192.0.2.1 192.0.2.2 7 80\r\nGET /v1 HTTP/1.1\r\nHost: api.')
  await eventually(async () => (await peeked('local')) === 1, 'it waits')
  client.send('example\r\n\r\n')
  const answer = await answered(client)
  t.same([serviceOf(answer), answer.remoteAddress, answer.remotePort], ['api', '192.0.2.1', 7])
  client.socket.destroy()
})

/** A TLS connection that sends its bytes one by one, behind `prefix`. */
function slowly(port: number, prefix: string): Duplex {
  const socket = connectTcp({ port, host: '127.0.0.1', noDelay: true })
  socket.write(prefix)
  const stream = new Duplex({
    read() {
      socket.resume()
    },
    write(chunk: Buffer, _encoding, done) {
      let at = 0
      const next = () => {
        if (at === chunk.length) return done()
        socket.write(chunk.subarray(at, ++at), () => setImmediate(next))
      }
      next()
    },
    destroy(error, done) {
      socket.destroy()
      done(error)
    },
  })
  socket.on('data', (chunk) => stream.push(chunk))
  socket.on('end', () => stream.push(null))
  socket.on('error', (error) => stream.destroy(error))
  return stream
}

async function overTls(t: Test, servername: string, raw: Duplex): Promise<Answered> {
  const session = connectHttp2(`https://${servername}`, {
    createConnection: () => connectTls({ socket: raw, servername, ca, ALPNProtocols: ['h2'] }),
  })
  t.teardown(() => session.destroy())
  const stream = session.request({ ':path': '/' })
  stream.setEncoding('utf8')
  return JSON.parse(await text(stream)) as Answered
}

void t.test('tls: the name in the ClientHello chooses the service', { timeout: LIMIT }, async (t) => {
  const raw = (name: string) => connectTcp(broker.port(name), '127.0.0.1')
  t.equal(serviceOf(await overTls(t, 'a.example', raw('tls'))), 'a')
  t.equal(serviceOf(await overTls(t, 'x.b.example', raw('tls'))), 'b')
  t.equal(serviceOf(await overTls(t, 'x.b.example', slowly(broker.port('tls'), ''))), 'b', 'byte by byte')
  const curl = await promisify(execFile)('curl', [
    '-s',
    '--cacert',
    CERTIFICATE,
    '--connect-to',
    `::127.0.0.1:${broker.port('tls')}`,
    'https://x.b.example/',
  ])
  t.equal(serviceOf(JSON.parse(curl.stdout) as Answered), 'b', 'curl')
  const proxied = await overTls(
    t,
    'a.example',
    slowly(broker.port('tlsproxy'), 'PROXY TCP4 192.0.2.1 192.0.2.2 7 443\r\n'),
  )
  t.same(
    [serviceOf(proxied), proxied.remoteAddress, proxied.remotePort],
    ['a', '192.0.2.1', 7],
    'behind a PROXY header',
  )
})

void t.test('tls: a name that no route takes', { timeout: LIMIT }, async (t) => {
  const secure = connectTls({ port: broker.port('tls'), host: '127.0.0.1', servername: 'c.example', ca })
  const [error] = (await once(secure, 'error')) as [NodeJS.ErrnoException]
  t.match(error.message, /unrecognized name/)
  t.equal(await unrouted('tls', 'no_route'), 1)
})

void t.test('every connection is accounted for', { timeout: LIMIT }, async (t) => {
  let metrics = ''
  const sum = (series: RegExp) =>
    [...metrics.matchAll(series)].reduce((total, [, value]) => total + Number(value), 0)
  // All from one answer: between two of them, a backend may hand back a connection whose client has gone.
  await eventually(async () => {
    metrics = await broker.metrics()
    return (
      sum(
        /^baton_(?:connections_held|connections_parked|connections_peeked|handoffs_in_flight)\{.*\} (\d+)$/gm,
      ) === 0
    )
  }, 'nothing waits, and nothing is in flight')
  const accepted = sum(/^baton_connections_accepted_total\{.*\} (\d+)$/gm)
  const handedBack = sum(/^baton_connections_handed_back_total\{.*result="taken"\} (\d+)$/gm)
  const outcomes = sum(/^baton_connections_total\{.*\} (\d+)$/gm)
  const lost = sum(/^baton_connections_unrouted_total\{.*\} (\d+)$/gm)
  t.ok(lost > 0)
  t.equal(accepted + handedBack, outcomes + lost)
})

void t.test('a stop waits for clients whose service is not chosen yet', { timeout: LIMIT }, async (t) => {
  const client = await open(t, 'edge')
  client.send('GET /v1 HTTP/1.1\r\nHost: api.')
  await eventually(async () => (await peeked('edge')) === 1, 'it waits')
  broker.program.kill('SIGTERM')
  await eventually(async () => (await broker.status()).broker.state === 'draining', 'the broker drains')
  client.send('example\r\n\r\n')
  t.equal(serviceOf(await answered(client)), 'api')
  t.match(await broker.program.exited, { code: 0 })
  client.socket.destroy()
})
