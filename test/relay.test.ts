import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chownSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import http from 'node:http'
import http2 from 'node:http2'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { decodeProxyHeader, encodeProxyHeader, type Offer } from '@baton/backend-sdk/protocol'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { LIMIT, starts } from './support/limits.ts'
import { openDescriptors } from './support/proc.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { relayBothWays } from './support/relay-scenes.ts'
import { type Service, startServices } from './support/service.ts'
import { NOBODY } from './support/other-user.ts'

const onlyAsRoot = process.getuid?.() !== 0 && 'needs root'

/** No descriptor is passed: every connection is relayed. */
const handoff = 'off'

/** Expires only for a token that was never offered. */
const TOKEN_TTL = starts(0.3)
/** Half of it must pass before the relay, and all of it only after the scene. */
const LANE_DEADLINE = starts(0.8)

// Upstreams must exist before the broker that is configured with them.

/** The responding side: it ends first in one half, last in the other. Plain upstreams, so that both ends are visible. */
const answering = await listen(
  t,
  createServer({ allowHalfOpen: true }, (socket) => {
    const chunks: Buffer[] = []
    socket.write('hello ')
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.on('end', () => socket.end(`after your end: ${Buffer.concat(chunks).toString()}`))
    socket.on('error', () => undefined)
  }),
)
const received: Buffer[] = []
let done: () => void = () => undefined
const receivedAll = new Promise<void>((resolve) => {
  done = resolve
})
const early = await listen(
  t,
  createServer({ allowHalfOpen: true }, (peer) => {
    peer.end('my half is over')
    peer.on('data', (chunk: Buffer) => received.push(chunk))
    peer.on('end', () => done())
  }),
)
const hits: number[] = [0, 0]
const servers = [0, 1].map((index) =>
  http.createServer((_, response) => {
    hits[index] = (hits[index] ?? 0) + 1
    response.end(`upstream ${index}`)
  }),
)
const ports = [await listen(t, servers[0] as http.Server), await listen(t, servers[1] as http.Server)]
const at = (port: number | undefined, weight = 1) => ({ address: `127.0.0.1:${port}`, weight })

const { broker, services } = await startServices(t, {
  web: { config: { handoff } },
  stream: { config: { handoff } },
  resetting: { protocol: 'tcp', config: { handoff } },
  answering: { protocol: 'tcp', config: { upstreams: [at(answering)] } },
  early: { protocol: 'tcp', config: { upstreams: [at(early)] } },
  upstreams: { config: { balance: 'round-robin', upstreams: [at(ports[0], 3), at(ports[1])] } },
  guarded: { config: { handoff, ackDeadline: TOKEN_TTL - 1, tokenTtl: TOKEN_TTL } },
  foreign: { config: { handoff } },
  scarce: {},
  refusing: { config: { failureLimit: { failures: 2, window: '10m', pause: '10m' } } },
  full: { config: { ackDeadline: LANE_DEADLINE, tokenTtl: 2 * LANE_DEADLINE } },
  tls: { protocol: 'tls', config: { handoff } },
  dying: { config: { handoff } },
  // The longest one. With the grace of the worker it was too long for a timer, which fired at once: the worker was killed.
  ending: { config: { handoff, drainDeadline: '2147483647ms' } },
})

/** @returns its port; it is closed at the end of the file. */
async function listen(t: Test, server: Server | http.Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return (server.address() as { port: number }).port
}

async function body(response: http.IncomingMessage): Promise<Buffer> {
  return Buffer.concat(await response.toArray())
}

/** A complete conversation on one raw connection: what was received, and how it ended. */
async function converse(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(socket, 'close')
  return Buffer.concat(chunks)
}

/** A backend's endpoint: the listening socket of that kind whose inode is in its descriptor table. */
function relayPath(pid: number): string {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).map(
      (fd) => /^socket:\[(\d+)\]$/.exec(linkOf(`/proc/${pid}/fd/${fd}`))?.[1],
    ),
  )
  for (const line of readFileSync('/proc/net/unix', 'utf8').split('\n')) {
    const [, , , , , , inode, path] = line.trim().split(/\s+/)
    // Where it was bound: it got its name when it listened.
    const [, folder = '', name = ''] = /^(.*\/)\.(relay[^/]*)$/.exec(path ?? '') ?? []
    if (name !== '' && inodes.has(inode)) return `${folder}${name}.sock`
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

async function outcomes(service: Service, relays: number) {
  const { outcomes } = await service.until(
    ({ outcomes, inFlight }) => outcomes.relayed === relays && inFlight === 0,
    `${relays} relays`,
  )
  return outcomes
}

void t.test(
  'handoff off: clients are served by silent reconnect, without noticing',
  { timeout: LIMIT },
  async (t) => {
    const { web } = services
    const backends = [await web.start(t), await web.start(t)]
    await web.backends(2)

    await t.test('the address and port of the client reach the app, and its metadata', async (t) => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
      t.teardown(() => agent.destroy())
      const seen = new Set<number>()
      for (let round = 0; round < 3; round++) {
        const request = http.get(web.url('/who'), { agent })
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

    await t.test('both backends are chosen, and the counters are correct', async (t) => {
      const before = await web.state()
      const pids = new Set<string | null>()
      for (let each = 0; each < 20; each++) {
        const response = await fetch(web.url(), { headers: { connection: 'close' } })
        pids.add(response.headers.get('x-pid'))
        await response.arrayBuffer()
      }
      t.equal(pids.size, 2)
      const counted = await outcomes(web, before.outcomes.relayed + 20)
      t.match(counted, { handed_off: 0, rejected: 0, client_gone: 0, relinquished: 0 })
      t.equal(
        await web.metric('baton_fallbacks_total', 'action="reconnect",reason="ServicePolicyDisabled"'),
        counted.relayed,
      )
      t.equal((await web.state()).unaccounted, 0)
    })

    await t.test('bytes carried are counted in both directions', async (t) => {
      const over = () => web.until(({ backends }) => backends.every(({ load }) => load === 0), 'relays over')
      const count = (direction: string) => web.metric('baton_relay_bytes_total', `direction="${direction}"`)
      await over()
      const [before, beforeOut] = [await count('in'), await count('out')]
      const socket = connect(web.port, '127.0.0.1')
      const request = 'GET /count HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
      socket.write(request)
      const answer = await converse(socket)
      await over()
      t.equal((await count('in')) - before, request.length)
      t.equal((await count('out')) - beforeOut, answer.length)
    })
  },
)

void t.test(
  '64 MiB each way through a relay, equal checksums, bounded memory',
  { timeout: LIMIT },
  async (test) => {
    await services.stream.start(test, 'stream-backend.mjs')
    await services.stream.backends(1)
    await relayBothWays(test, services.stream, 64)
  },
)

void t.test('half-close works through a relay in both directions', { timeout: LIMIT }, async (t) => {
  const socket = connect({ port: services.answering.port, host: '127.0.0.1', allowHalfOpen: true })
  const [first] = (await once(socket, 'data')) as [Buffer]
  t.equal(first.toString(), 'hello ', 'the server may speak first')
  socket.end('request')
  t.equal((await converse(socket)).toString(), 'after your end: request')

  const client = connect({ port: services.early.port, host: '127.0.0.1', allowHalfOpen: true })
  client.resume()
  await once(client, 'end')
  client.end('I still had this to say')
  await receivedAll
  t.equal(Buffer.concat(received).toString(), 'I still had this to say')
})

void t.test('an app that resets a relayed client goes on', { timeout: LIMIT }, async (t) => {
  // Node's resetAndDestroy() threw, since the app's socket is not of TCP; the exception ended the app, and all its clients with it.
  const backend = await services.resetting.start(t, 'tcp-backend.mjs')
  await services.resetting.backends(1)
  const other = connect(services.resetting.port, '127.0.0.1')
  await once(other, 'data')
  const socket = connect(services.resetting.port, '127.0.0.1')
  await once(socket, 'data')
  socket.on('error', () => undefined)
  socket.write('reset me')
  await once(socket, 'close')
  other.write('still there')
  const [echo] = (await once(other, 'data')) as [Buffer]
  t.equal(echo.toString(), 'still there')
  t.ok(backend.running)
  other.destroy()
})

void t.test(
  'upstreams: the next one is tried, weights hold, and clients wait while all refuse',
  { timeout: LIMIT },
  async (t) => {
    const { upstreams } = services
    const get = async () => (await fetch(upstreams.url(), { headers: { connection: 'close' } })).text()
    for (let each = 0; each < 40; each++) await get()
    t.same(hits, [30, 10])
    const state = (await broker.status()).services.find(({ name }) => name === 'upstreams')
    t.same(state?.upstreams, [at(ports[0], 3), at(ports[1])])
    // A service that needs no backend once kept the whole broker from being ready, while agent checks said that it was up.
    const { reasons } = (await (await fetch(`${broker.admin}/readyz`)).json()) as { reasons: string[] }
    t.ok(reasons.includes('service dying has no ready backend'), 'a service without upstreams')
    t.notOk(
      reasons.some((reason) => /upstreams|answering|early/.test(reason)),
      reasons.join(', '),
    )

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
    await upstreams.until(({ held }) => held === 1, 'the client waits')
    servers[0]?.listen(ports[0], '127.0.0.1')
    t.equal(await waiting, 'upstream 0')
    t.equal((await upstreams.state()).unaccounted, 0)
  },
)

void t.test(
  'a hostile peer at the reconnect endpoint is dropped before a byte reaches the app',
  { timeout: LIMIT },
  async (t) => {
    const { guarded } = services
    const backend = await guarded.start(t)
    await guarded.backends(1)
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
        'half a header, and then FIN',
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
    t.equal((await fetch(guarded.url('/honest'), { headers: { connection: 'close' } })).status, 200)
    for (const { what, answer } of await Promise.all(answers))
      t.equal(answer.length, 0, `${what}: no answer, closed`)
    t.notOk(
      backend.lines.some((line) => line.includes('hostile')),
      'the app saw none of it',
    )
    await guarded.until(
      ({ backends }) => backends[0]?.adopted === 1 && backends[0].closed === 1,
      'only the honest one was adopted',
    )
    const refused = (reason: string) => guarded.metric('baton_tokens_rejected_total', `reason="${reason}"`)
    // The peer may see its connection end before the broker has read why.
    await eventually(async () => (await refused('TokenNotPending')) > 0, 'the last of them is counted')
    t.same(
      [await refused('TokenMissing'), await refused('TokenInvalidLength'), await refused('TokenNotPending')],
      [1, 1, 1],
      'each with its own reason',
    )
  },
)

void t.test(
  'a socket of another user gets no client when a backend names it',
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

    const { foreign } = services
    const denied = () => foreign.metric('baton_handoff_failures_total', 'reason="PermissionDenied"')
    const peer = await FalseBackend.register(t, broker.control, hello('foreign', { reconnect: { path } }))
    peer.wire.answersProbes = true
    // The descriptors of earlier scenes went with their backends, and with the ends of their relays.
    await broker.until(
      ({ services }) =>
        services.every(
          ({ name, held, inFlight, backends }) =>
            held + inFlight === 0 && backends.length === (name === 'foreign' ? 1 : 0),
        ),
      'only this backend is left',
    )
    await eventually(async () => {
      const relays = [...(await broker.metrics()).matchAll(/^baton_relay_connections\{.*\} (\d+)$/gm)]
      return relays.length > 0 && relays.every(([, count]) => count === '0')
    }, 'no relay is left')
    const admin = Number(new URL(broker.admin).port)
    const before = openDescriptors(broker.pid, admin)

    const client = await foreign.visit(t)
    await foreign.until(({ held }) => held === 1, 'the client waits for another backend')
    const [offer] = await peer.offers(1)
    await peer.wire.frame('revoke', ({ sequences }) => sequences.includes(offer?.sequence ?? 0))
    // Again every 250 ms while the client is held.
    t.ok((await denied()) >= 1)
    await eventually(
      () => openDescriptors(broker.pid, admin) === before + 1,
      () => `${openDescriptors(broker.pid, admin)} descriptors, not those before and the client’s`,
    )

    const honest = await foreign.start(t)
    t.equal((await client.answer()).headers['x-pid'], String(honest.pid), 'served by another backend')
    // Whenever it is chosen first, the client is delayed, and nothing more.
    for (let round = 0; round < 100 && (await denied()) < 3; round++) {
      const response = await fetch(foreign.url(), { headers: { connection: 'close' } })
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
    const unusable = 'relay endpoint of a backend cannot be used'
    await broker.program.message(unusable)
    const said = broker.program.messages().filter(({ msg }) => msg === unusable)
    t.equal(said.length, 1, 'logged once, however often it is tried')
    t.match(said[0], { failure: 'PermissionDenied', slot: 'foreign-1' })
    t.match(said[0]?.['reason'], `${path}: uid ${NOBODY} listens there, wanted uid 0`)
    client.socket.destroy()
    const state = await foreign.until(({ inFlight }) => inFlight === 0, 'all are settled')
    t.match(state.outcomes, { handed_off: 0, rejected: 0, relinquished: 0 })
    t.equal(state.unaccounted, 0)
  },
)

// Each relay that succeeded forgot the descriptors that had been refused before, so that the backend was offered the next one, and refused it.
void t.test(
  'too many refused descriptors pause a backend, even if its relays succeed',
  { timeout: LIMIT },
  async (t) => {
    const { refusing } = services
    const endpoint = join(broker.folder, 'refusing.sock')
    const peer = await FalseBackend.register(
      t,
      broker.control,
      hello('refusing', { reconnect: { path: endpoint } }),
    )
    peer.wire.answersProbes = true
    await acceptRelays(t, peer, endpoint)
    const offered: string[] = []
    for (const refused of [1, 2]) {
      const client = await refusing.visit(t)
      const offer = (await peer.offers(offered.length + 1)).at(-1) as Offer
      for (const { fd } of peer.take(1)) fd.close()
      peer.nack(offer)
      t.equal((await client.answer()).status, 200, `client ${refused} is relayed`)
      offered.push(offer.kind, 'relay')
    }
    await refusing.until(({ backends }) => backends[0]?.state === 'paused', 'it is paused')
    t.equal((await (await refusing.visit(t)).answer()).status, 200, 'and is offered relays alone')
    offered.push('relay')
    t.same(
      (await peer.offers(offered.length)).map(({ kind }) => kind),
      offered,
    )
    t.same(offered, ['descriptor', 'relay', 'descriptor', 'relay', 'relay'])
    const limited = 'action="reconnect",reason="FailedAttemptRateLimited"'
    t.equal(await refusing.metric('baton_fallbacks_total', limited), 1)
    t.equal(await refusing.metric('baton_handoff_failures_total', 'reason="TokenNotPending"'), 2)
    const state = await refusing.until(({ inFlight }) => inFlight === 0, 'settled')
    t.equal(state.outcomes.relayed, 3)
    t.equal(state.unaccounted, 0)
  },
)

void t.test('a lane that stays full: further clients are relayed', { timeout: LIMIT }, async (t) => {
  const { full } = services
  const endpoint = join(broker.folder, 'relay.sock')
  // Accepts relays only: messages stay on its lane until the lane is full.
  const peer = await FalseBackend.register(
    t,
    broker.control,
    hello('full', { reconnect: { path: endpoint } }),
  )
  peer.wire.answersProbes = true
  await acceptRelays(t, peer, endpoint)

  const stuck: Socket[] = []
  t.teardown(() => stuck.forEach((socket) => socket.destroy()))
  const crowd = async (more: number) => {
    for (let each = 0; each < more; each++) {
      const socket = connect(full.port, '127.0.0.1')
      socket.on('error', () => undefined)
      stuck.push(socket)
      await once(socket, 'connect')
    }
  }
  const blocked = () => full.metric('baton_handoff_failures_total', 'reason="WouldBlock"')
  while ((await blocked()) === 0) {
    await crowd(40)
    if (stuck.length > 1000) throw new Error('the lane takes everything')
  }
  const socket = connect(full.port, '127.0.0.1')
  await once(socket, 'connect')
  socket.write('GET /who HTTP/1.1\r\nHost: x\r\n\r\n')
  const { localPort } = socket
  t.match(
    (await converse(socket)).toString(),
    new RegExp(`127\\.0\\.0\\.1:${localPort}$`),
    'served, and its address is known',
  )
  const state = await full.state()
  t.match(state.outcomes, { handed_off: 0, rejected: 0, relinquished: 0 })
  t.ok(state.outcomes.relayed > 0)
  t.equal(state.unaccounted, 0)
})

void t.test(
  'a relay of a client that a backend has refused needs no further descriptor',
  { timeout: LIMIT },
  async (t) => {
    // The worker duplicated the descriptor of such a client. Without room for it, the client was lost and the backend cut off.
    const { scarce } = services
    const path = join(broker.folder, 'scarce.sock')
    const server = createServer()
    server.listen(path)
    await once(server, 'listening')
    t.teardown(() => server.close())
    const peer = await FalseBackend.register(t, broker.control, hello('scarce', { reconnect: { path } }))
    peer.wire.answersProbes = true
    const dialled = once(server, 'connection') as Promise<[Socket]>
    const client = await scarce.visit(t)
    const [first] = await peer.offers(1)
    for (const { fd } of peer.take(1)) fd.close()
    peer.nack(first as Offer)
    const [, relay] = await peer.offers(2)
    t.equal(relay?.kind, 'relay')
    const [socket] = await dialled
    await once(socket, 'data')

    const limit = (count: string) =>
      execFileSync('prlimit', ['--pid', String(broker.pid), `--nofile=${count}:`])
    const before = Number(
      /^Max open files\s+(\d+)/m.exec(readFileSync(`/proc/${broker.pid}/limits`, 'utf8'))?.[1],
    )
    limit('1')
    try {
      peer.ack(relay as Offer)
      await once(socket, 'data')
      socket.end('HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok')
      t.equal((await client.answer()).body, 'ok')
    } finally {
      limit(String(before))
    }
    const state = await scarce.until(({ inFlight }) => inFlight === 0, 'settled')
    t.equal(state.outcomes.relayed, 1)
    t.equal(state.unaccounted, 0)
  },
)

/** Listens at the endpoint of a scripted backend, acknowledges each relay, and answers its request with the address in the header. */
async function acceptRelays(t: Test, peer: FalseBackend, endpoint: string): Promise<void> {
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
  const server = createServer((socket) => void serve(socket))
  server.listen(endpoint)
  await once(server, 'listening')
  t.teardown(() => server.close())
}

void t.test(
  'over a relay into a TLS server the client’s address is on the TLSSocket',
  { timeout: LIMIT },
  async (t) => {
    const folder = temporaryFolder(t)
    const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
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
    await services.tls.start(t, 'h2-backend.mjs', { KEY: key, CERTIFICATE: certificate })
    await services.tls.backends(1)
    const session = http2.connect(`https://${broker.address('tls')}`, { rejectUnauthorized: false })
    t.teardown(() => session.destroy())
    const stream = session.request({ ':path': '/tls' })
    const answer = JSON.parse(Buffer.concat(await stream.toArray()).toString())
    t.match(answer, {
      path: '/tls',
      remoteAddress: '127.0.0.1',
      remotePort: session.socket.localPort,
      alpnProtocol: 'h2',
    })
    t.equal((await outcomes(services.tls, 1)).relayed, 1)
  },
)

void t.test(
  'a relay whose backend dies before its ACK does not affect the client',
  { timeout: LIMIT },
  async (t) => {
    const { dying } = services
    const first = await dying.start(t)
    await dying.backends(1)
    first.kill('SIGSTOP')
    const waiting = fetch(dying.url('/who'), { headers: { connection: 'close' } })
    await dying.until(({ inFlight, held }) => inFlight + held === 1, 'offered to the stopped one')
    first.kill('SIGKILL')
    await first.exited
    const second = await dying.start(t)
    const response = await waiting
    t.equal(response.headers.get('x-pid'), String(second.pid))
    await response.arrayBuffer()
    const state = await dying.until(({ inFlight }) => inFlight === 0, 'settled')
    t.equal(state.unaccounted, 0)
    t.equal(state.outcomes.relayed, 1)
  },
)

// Last: it stops the shared broker.
void t.test(
  'broker SIGTERM: a relay is finished, for as long as drainDeadline allows',
  { timeout: LIMIT },
  async (t) => {
    const { ending } = services
    const backend = await ending.start(t)
    await ending.backends(1)
    const waiting = fetch(ending.url('/wait'), { headers: { connection: 'close' } })
    await ending.until(({ outcomes }) => outcomes.relayed === 1, 'relayed')
    broker.program.kill('SIGTERM')
    await broker.until((status) => status.broker.state === 'draining', 'it drains')
    backend.say('answer')
    const response = await waiting
    t.equal(await response.text(), `waited ${backend.pid}`)
    t.equal((await broker.program.exited).code, 0)
  },
)
