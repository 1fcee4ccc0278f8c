import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chownSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import http from 'node:http'
import http2 from 'node:http2'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { decodeProxyHeader, encodeProxyHeader, type Offer } from '@baton/backend-sdk/protocol'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { openDescriptors } from './support/proc.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { LIMIT } from './support/limits.ts'

const onlyAsRoot = process.getuid?.() !== 0 && 'needs root'
const NOBODY = 65_534
const MIB = 1024 * 1024

/** No descriptor is ever passed: everything takes the second rung. */
const relayed = { services: { web: { handoff: 'off' } } }

async function body(response: http.IncomingMessage): Promise<Buffer> {
  return Buffer.concat(await response.toArray())
}

/** The whole conversation on one raw connection: what came, and how it ended. */
async function converse(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(socket, 'close')
  return Buffer.concat(chunks)
}

/** The endpoint of a backend: the one of all such listening sockets whose inode is in its descriptor table. */
function relayPath(pid: number): string {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).map(
      (fd) => /^socket:\[(\d+)\]$/.exec(linkOf(`/proc/${pid}/fd/${fd}`))?.[1],
    ),
  )
  for (const line of readFileSync('/proc/net/unix', 'utf8').split('\n')) {
    const [, , , , , , inode, path] = line.trim().split(/\s+/)
    if (/\/relay[^/]*\.sock$/.test(path ?? '') && inodes.has(inode)) return path as string
  }
  throw new Error(`${pid} has no relay endpoint`)
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    // Closed since the folder was read.
    return ''
  }
}

async function outcomes(broker: Broker, relays: number) {
  const status = await broker.until(
    ({ services }) => services[0]?.outcomes.relayed === relays && services[0].inFlight === 0,
    `${relays} relays`,
  )
  return status.services[0]?.outcomes
}

void t.test(
  'handoff off: clients are served by silent reconnect and cannot tell',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: relayed })
    const backends = [await startBackend(t, broker), await startBackend(t, broker)]
    await broker.backends(2)

    await t.test('the client’s own address and port reach the app, and its metadata', async (t) => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
      t.teardown(() => agent.destroy())
      const seen = new Set<number>()
      for (let round = 0; round < 3; round++) {
        const request = http.get(broker.url('/who'), { agent })
        const [response] = (await once(request, 'response')) as [http.IncomingMessage]
        const { localPort } = response.socket
        const answer = JSON.parse((await body(response)).toString())
        t.equal(answer.remoteAddress, '127.0.0.1')
        t.equal(answer.remotePort, localPort)
        t.match(answer.connection, /^[0-9A-Z]{26}$/)
        seen.add(answer.pid)
      }
      t.equal(seen.size, 1, 'one connection, one backend')
      t.ok(backends.some(({ pid }) => seen.has(pid)))
    })

    await t.test('both backends are chosen, and the ledger is right', async (t) => {
      const before = await broker.status()
      const pids = new Set<string | null>()
      for (let each = 0; each < 20; each++) {
        const response = await fetch(broker.url(), { headers: { connection: 'close' } })
        pids.add(response.headers.get('x-pid'))
        await response.arrayBuffer()
      }
      t.equal(pids.size, 2)
      const counted = await outcomes(broker, (before.services[0]?.outcomes.relayed ?? 0) + 20)
      t.match(counted, { handed_off: 0, rejected: 0, client_gone: 0, relinquished: 0 })
      t.equal(
        await broker.metric(
          'baton_fallbacks_total{service="web",action="reconnect",reason="ServicePolicyDisabled"}',
        ),
        counted?.relayed,
      )
      const status = await broker.until(() => true, 'status')
      t.equal(unaccounted(status), 0)
    })

    await t.test('bytes carried are counted in both directions', async (t) => {
      const count = (direction: string) =>
        broker.metric(`baton_relay_bytes_total{service="web",direction="${direction}"}`)
      const [before, beforeOut] = [await count('in'), await count('out')]
      const socket = connect(broker.port(), '127.0.0.1')
      const request = 'GET /count HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
      socket.write(request)
      const answer = await converse(socket)
      await broker.until(
        ({ services }) => services[0]?.backends.every(({ load }) => load === 0) === true,
        'relay over',
      )
      t.equal((await count('in')) - before, request.length)
      t.equal((await count('out')) - beforeOut, answer.length)
    })
  },
)

void t.test(
  '100 MiB each way through a relay, equal checksums, bounded memory',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: relayed })
    await startBackend(t, broker, 'stream-backend.mjs')
    await broker.backends(1)
    const rss = () =>
      Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${broker.pid}/status`, 'utf8'))?.[1]) * 1024
    const resting = rss()

    const request = http.request(broker.url('/upload'), {
      method: 'POST',
      headers: { 'transfer-encoding': 'chunked' },
    })
    const block = randomBytes(MIB)
    const digest = createHash('sha256')
    const answered = once(request, 'response') as Promise<[http.IncomingMessage]>
    for (let each = 0; each < 100; each++) {
      block.writeUInt32LE(each)
      digest.update(block)
      if (!request.write(Buffer.from(block))) await once(request, 'drain')
    }
    request.end()
    const [response] = await answered
    t.same(JSON.parse((await body(response)).toString()), { bytes: 100 * MIB, sha256: digest.digest('hex') })

    const [download] = (await once(http.get(broker.url('/download?mebibytes=100')), 'response')) as [
      http.IncomingMessage,
    ]
    const received = createHash('sha256')
    let bytes = 0
    for await (const chunk of download as AsyncIterable<Buffer>) {
      bytes += chunk.length
      received.update(chunk)
    }
    t.equal(bytes, 100 * MIB)
    t.equal(received.digest('hex'), download.trailers['x-sha256'])
    t.ok(rss() - resting < 64 * MIB, `the broker grew by ${Math.round((rss() - resting) / MIB)} MiB`)
  },
)

void t.test('half-close travels through a relay in both directions', { timeout: LIMIT }, async (t) => {
  const listeners = [{ name: 'web', listen: '127.0.0.1:0', protocol: 'tcp', service: 'web' }]

  // The side that answers: it ends first in one half, last in the other. A plain upstream, so that both ends are seen.
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const chunks: Buffer[] = []
    socket.write('hello ')
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.on('end', () => socket.end(`after your end: ${Buffer.concat(chunks).toString()}`))
    socket.on('error', () => undefined)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const broker = await startBroker(t, {
    config: { listeners, services: { web: { upstreams: [{ address: `127.0.0.1:${port}` }] } } },
  })

  const socket = connect({ port: broker.port(), host: '127.0.0.1', allowHalfOpen: true })
  const [first] = (await once(socket, 'data')) as [Buffer]
  t.equal(first.toString(), 'hello ', 'the server may speak first')
  socket.end('request')
  t.equal((await converse(socket)).toString(), 'after your end: request')

  const early = createServer({ allowHalfOpen: true }, (peer) => {
    peer.end('my half is over')
    peer.on('data', (chunk: Buffer) => heard.push(chunk))
    peer.on('end', () => done())
  })
  const heard: Buffer[] = []
  let done: () => void = () => undefined
  const ended = new Promise<void>((resolve) => {
    done = resolve
  })
  early.listen(0, '127.0.0.1')
  await once(early, 'listening')
  t.teardown(() => early.close())
  const { port: earlyPort } = early.address() as { port: number }
  const second = await startBroker(t, {
    config: { listeners, services: { web: { upstreams: [{ address: `127.0.0.1:${earlyPort}` }] } } },
  })
  const client = connect({ port: second.port(), host: '127.0.0.1', allowHalfOpen: true })
  client.resume()
  await once(client, 'end')
  client.end('I still had this to say')
  await ended
  t.equal(Buffer.concat(heard).toString(), 'I still had this to say')
})

void t.test(
  'upstreams: the next one is tried, weights hold, and clients wait while all refuse',
  { timeout: LIMIT },
  async (t) => {
    const hits: number[] = [0, 0]
    const servers = [0, 1].map((index) =>
      http.createServer((_, response) => {
        hits[index] = (hits[index] ?? 0) + 1
        response.end(`upstream ${index}`)
      }),
    )
    const ports: number[] = []
    for (const server of servers) {
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      ports.push((server.address() as { port: number }).port)
      t.teardown(() => server.close())
    }
    const broker = await startBroker(t, {
      config: {
        services: {
          web: {
            balance: 'round-robin',
            upstreams: [
              { address: `127.0.0.1:${ports[0]}`, weight: 3 },
              { address: `127.0.0.1:${ports[1]}`, weight: 1 },
            ],
          },
        },
      },
    })
    const get = async () => (await fetch(broker.url(), { headers: { connection: 'close' } })).text()
    for (let each = 0; each < 40; each++) await get()
    t.same(hits, [30, 10])

    const closed = once(servers[0] as http.Server, 'close')
    servers[0]?.close()
    servers[0]?.closeAllConnections()
    await closed
    for (let each = 0; each < 8; each++) t.equal(await get(), 'upstream 1')

    const closedToo = once(servers[1] as http.Server, 'close')
    servers[1]?.close()
    servers[1]?.closeAllConnections()
    await closedToo
    const waiting = get()
    await broker.until(({ services }) => services[0]?.held === 1, 'the client waits')
    servers[0]?.listen(ports[0], '127.0.0.1')
    t.equal(await waiting, 'upstream 0')
    t.equal(unaccounted(await broker.status()), 0)
  },
)

void t.test(
  'a hostile peer at the reconnect endpoint is dropped before a byte reaches the app',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: relayed })
    const backend = await startBackend(t, broker)
    await broker.backends(1)
    const path = relayPath(backend.pid)
    const addresses = {
      family: 'IPv4' as const,
      source: '6.6.6.6',
      sourcePort: 666,
      destination: '127.0.0.1',
      destinationPort: 80,
    }
    const request = Buffer.from('GET /hostile HTTP/1.1\r\nHost: x\r\n\r\n')
    const attempts: [what: string, bytes: Buffer][] = [
      ['no header', request],
      [
        'a header without a token',
        Buffer.concat([encodeProxyHeader({ addresses, token: undefined }), request]),
      ],
      [
        'a token of 15 bytes',
        Buffer.concat([encodeProxyHeader({ addresses, token: randomBytes(15) }), request]),
      ],
      [
        'a token that was never offered',
        Buffer.concat([encodeProxyHeader({ addresses, token: randomBytes(16) }), request]),
      ],
      [
        'half a header, and then the end',
        encodeProxyHeader({ addresses, token: randomBytes(16) }).subarray(0, 20),
      ],
    ]
    const answers = attempts.map(async ([what, bytes]) => {
      const socket = connect({ path })
      socket.on('error', () => undefined)
      if (bytes.length < 28) socket.end(bytes)
      else socket.write(bytes)
      return { what, answer: await converse(socket) }
    })
    // The honest client beside them is served meanwhile.
    t.equal((await fetch(broker.url('/honest'), { headers: { connection: 'close' } })).status, 200)
    for (const { what, answer } of await Promise.all(answers))
      t.equal(answer.length, 0, `${what}: no answer, closed`)
    t.notOk(
      backend.lines.some((line) => line.includes('hostile')),
      'the app saw none of it',
    )
    await broker.until(
      ({ services }) => services[0]?.backends[0]?.adopted === 1 && services[0].backends[0].closed === 1,
      'only the honest one was adopted',
    )
    const refused = (reason: string) =>
      broker.metric(`baton_tokens_rejected_total{service="web",reason="${reason}"}`)
    t.same(
      [await refused('TokenMissing'), await refused('TokenInvalidLength'), await refused('TokenNotPending')],
      [1, 1, 1],
      'each with its own reason',
    )
  },
)

void t.test(
  'a socket of another user is sent nothing for a backend that names it',
  { timeout: LIMIT, skip: onlyAsRoot },
  async (t) => {
    const folder = temporaryFolder(t)
    chownSync(folder, NOBODY, NOBODY)
    const path = join(folder, 'theirs.sock')
    const listener = new Program(t, process.execPath, [
      join(root, 'test/programs/foreign-listener.mjs'),
      String(NOBODY),
      path,
    ])
    t.equal((await listener.message('listening'))['uid'], NOBODY)
    const visitors = () => listener.messages().filter(({ msg }) => msg === 'connection ended')

    const broker = await startBroker(t, { config: relayed })
    const denied = () =>
      broker.metric('baton_handoff_failures_total{service="web",reason="PermissionDenied"}')
    const peer = await FalseBackend.register(t, broker.control, hello('web', { reconnect: { path } }))
    await broker.backends(1)
    const admin = Number(new URL(broker.admin).port)
    const before = openDescriptors(broker.pid, admin)

    const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
    client.request()
    await broker.until(({ services }) => services[0]?.held === 1, 'the client waits for somebody else')
    const [offer] = await peer.offers(1)
    await peer.wire.frame('revoke', ({ sequences }) => sequences.includes(offer?.sequence ?? 0))
    t.equal(await denied(), 1)
    await eventually(
      () => openDescriptors(broker.pid, admin) === before + 1,
      () => `${openDescriptors(broker.pid, admin)} descriptors, not those before and the client’s`,
    )

    const honest = await startBackend(t, broker)
    t.equal((await client.answer()).headers['x-pid'], String(honest.pid), 'served by another backend')
    // As often as it is chosen first, it costs the client a detour, and nothing else.
    for (let round = 0; round < 100 && (await denied()) < 3; round++) {
      const response = await fetch(broker.url(), { headers: { connection: 'close' } })
      t.equal(response.headers.get('x-pid'), String(honest.pid))
      await response.arrayBuffer()
    }
    const tries = await denied()
    t.ok(tries >= 3, `it was chosen ${tries} times`)
    await eventually(
      () => visitors().length >= tries,
      () => `${tries} connections that came and went; there were ${visitors().length}`,
    )
    for (const { bytes } of visitors()) t.equal(bytes, 0, 'not a byte was sent to it')
    const said = broker.program
      .messages()
      .filter(({ msg }) => msg === 'relay endpoint of a backend cannot be used')
    t.equal(said.length, 1, 'said once, however often it is tried')
    t.match(said[0], { failure: 'PermissionDenied', slot: 'web-1' })
    t.match(said[0]?.['reason'], `${path}: uid ${NOBODY} listens there, wanted uid 0`)
    client.socket.destroy()
    const status = await broker.until(({ services }) => services[0]?.inFlight === 0, 'all are settled')
    t.match(status.services[0]?.outcomes, { handed_off: 0, rejected: 0, relinquished: 0 })
    t.equal(unaccounted(status), 0)
  },
)

void t.test('a lane that stays full: who finds no room on it is relayed', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { config: { services: { web: { ackDeadline: 3000 } } } })
  const endpoint = join(broker.folder, 'relay.sock')
  // Takes relays and nothing else: what comes on its lane stays there until the lane is full.
  const peer = await FalseBackend.register(t, broker.control, hello('web', { reconnect: { path: endpoint } }))
  const server = createServer((socket) => void serve(socket))
  const serve = async (socket: Socket) => {
    const [chunk] = (await once(socket, 'data')) as [Buffer]
    const { header, length } = decodeProxyHeader(chunk) ?? {}
    t.equal(chunk.length, length, 'not a byte of the client’s before the ACK')
    const offered = () => peer.wire.all('offer').flatMap(({ offers }) => offers)
    const isOurs = (offer: Offer) =>
      offer.kind === 'relay' && header?.token !== undefined && offer.token.equals(header.token)
    await eventually(
      () => offered().some(isOurs),
      () => 'the OFFER of this token',
    )
    peer.ack(offered().find(isOurs) as Offer)
    await once(socket, 'data')
    const { source, sourcePort } = header?.addresses ?? {}
    const answer = `${source}:${sourcePort}`
    socket.end(`HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ${answer.length}\r\n\r\n${answer}`)
  }
  server.listen(endpoint)
  await once(server, 'listening')
  t.teardown(() => server.close())

  const stuck: Socket[] = []
  t.teardown(() => stuck.forEach((socket) => socket.destroy()))
  const crowd = async (more: number) => {
    for (let each = 0; each < more; each++) {
      const socket = connect(broker.port(), '127.0.0.1')
      socket.on('error', () => undefined)
      stuck.push(socket)
      await once(socket, 'connect')
    }
  }
  const blocked = () => broker.metric('baton_handoff_failures_total{service="web",reason="WouldBlock"}')
  while ((await blocked()) === 0) {
    await crowd(40)
    if (stuck.length > 1000) throw new Error('the lane takes everything')
  }
  const socket = connect(broker.port(), '127.0.0.1')
  await once(socket, 'connect')
  socket.write('GET /who HTTP/1.1\r\nHost: x\r\n\r\n')
  const { localPort } = socket
  t.match(
    (await converse(socket)).toString(),
    new RegExp(`127\\.0\\.0\\.1:${localPort}$`),
    'served, and its address is known',
  )
  const status = await broker.status()
  t.match(status.services[0]?.outcomes, { handed_off: 0, rejected: 0, relinquished: 0 })
  t.ok((status.services[0]?.outcomes.relayed ?? 0) > 0)
  t.equal(unaccounted(status), 0)
})

void t.test(
  'over a relay into a TLS server the client’s address is on the TLSSocket',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, {
      config: {
        ...relayed,
        listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'tls', service: 'web' }],
      },
    })
    const [key, certificate] = [join(broker.folder, 'key.pem'), join(broker.folder, 'certificate.pem')]
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '1',
        '-subj',
        '/CN=localhost',
        '-keyout',
        key,
        '-out',
        certificate,
      ],
      { stdio: 'ignore' },
    )
    await startBackend(t, broker, 'h2-backend.mjs', { env: { KEY: key, CERTIFICATE: certificate } })
    await broker.backends(1)
    const session = http2.connect(`https://${broker.address()}`, { rejectUnauthorized: false })
    t.teardown(() => session.destroy())
    const stream = session.request({ ':path': '/tls' })
    const answer = JSON.parse(Buffer.concat(await stream.toArray()).toString())
    t.match(answer, {
      path: '/tls',
      remoteAddress: '127.0.0.1',
      remotePort: session.socket.localPort,
      alpnProtocol: 'h2',
    })
    t.equal((await outcomes(broker, 1))?.relayed, 1)
  },
)

void t.test(
  'a relay whose backend dies before its ACK costs the client nothing',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: relayed })
    const first = await startBackend(t, broker)
    await broker.backends(1)
    first.kill('SIGSTOP')
    const waiting = fetch(broker.url('/who'), { headers: { connection: 'close' } })
    await broker.until(
      ({ services }) => services[0]?.inFlight === 1 || services[0]?.held === 1,
      'offered to the stopped one',
    )
    first.kill('SIGKILL')
    await first.exited
    const second = await startBackend(t, broker)
    const response = await waiting
    t.equal(response.headers.get('x-pid'), String(second.pid))
    await response.arrayBuffer()
    const status = await broker.until(({ services }) => services[0]?.inFlight === 0, 'settled')
    t.equal(unaccounted(status), 0)
    t.equal(status.services[0]?.outcomes.relayed, 1)
  },
)

void t.test(
  'broker SIGTERM: a relay is finished, for as long as drainDeadline allows',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: { ...relayed, drainDeadline: '10s' } })
    const backend = await startBackend(t, broker)
    await broker.backends(1)
    const slow = fetch(broker.url('/slow?ms=1500'), { headers: { connection: 'close' } })
    await broker.until(({ services }) => services[0]?.outcomes.relayed === 1, 'relayed')
    broker.program.kill('SIGTERM')
    const response = await slow
    t.equal(await response.text(), `slow ${backend.pid}`)
    t.equal((await broker.program.exited).code, 0)
  },
)
