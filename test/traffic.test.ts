import { execFile, execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { Agent, get, type IncomingMessage, request } from 'node:http'
import { connect as connectHttp2, constants } from 'node:http2'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import t from 'tap'
import { WebSocket } from 'ws'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { bytesRead, holdsServerEnd, peakResidentBytes } from './support/proc.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { LIMIT } from './support/limits.ts'
import { signal } from './support/signal.ts'

const MIB = 1024 * 1024
const GIB = 1024 * MIB

/** What `http-backend.mjs` says of a connection. */
interface Seen {
  pid: number
  remoteAddress: string
  remotePort: number
  connection: string
}

/** One listener and one service of this protocol. */
function listening(protocol: 'http' | 'tls' | 'tcp', listen = '127.0.0.1:0') {
  return { config: { listeners: [{ name: 'web', listen, protocol, service: 'web' }] } }
}

async function relayedBytes(broker: Broker): Promise<number> {
  const inward = await broker.metric('baton_relay_bytes_total{service="web",direction="in"}')
  return inward + (await broker.metric('baton_relay_bytes_total{service="web",direction="out"}'))
}

void t.test(
  "each request is answered by a backend, on the client's own connection",
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const pids = [(await startBackend(t, broker)).pid, (await startBackend(t, broker)).pid]
    await broker.backends(2)

    await t.test("different connections reach both backends, each under its client's address", async (t) => {
      const seen: Seen[] = []
      for (let index = 0; index < 10; index++) {
        const client = await Client.open(t, { port: broker.port() })
        const { status, headers, body } = await client.get()
        const answer = JSON.parse(body) as Seen
        t.equal(status, 200)
        t.equal(headers['x-pid'], `${answer.pid}`)
        t.equal(answer.remoteAddress, '127.0.0.1')
        t.equal(answer.remotePort, client.port)
        seen.push(answer)
      }
      t.same(new Set(seen.map(({ pid }) => pid)), new Set(pids))
      t.equal(new Set(seen.map(({ connection }) => connection)).size, 10, 'each has an id of its own')
    })

    await t.test(
      'curl: a kept connection stays with its backend',
      { skip: !installed('curl') },
      async (t) => {
        const { stdout } = await promisify(execFile)('curl', [
          '--silent',
          '--show-error',
          '--fail',
          '--write-out',
          '\n%{num_connects} %{local_port}\n',
          ...Array.from({ length: 5 }, () => broker.url()),
        ])
        const lines = stdout.trim().split('\n')
        const answers = lines.filter((_, index) => index % 2 === 0).map((line) => JSON.parse(line) as Seen)
        const facts = lines.filter((_, index) => index % 2 === 1).map((line) => line.split(' ').map(Number))
        t.same(
          facts.map(([connects]) => connects),
          [1, 0, 0, 0, 0],
        )
        for (const [index, { pid, remotePort, connection }] of answers.entries()) {
          t.equal(pid, answers[0]?.pid)
          t.equal(connection, answers[0]?.connection)
          t.equal(remotePort, facts[index]?.[1])
        }
        t.ok(pids.includes(answers[0]?.pid ?? 0))
      },
    )

    await t.test(
      'autocannon: keep-alive requests cost the broker one handoff for each connection',
      async (t) => {
        const before = (await broker.status()).services[0]?.outcomes.handed_off ?? 0
        const autocannon = new Program(t, process.execPath, [
          join(root, 'node_modules/autocannon/autocannon.js'),
          ...'--json --no-progress --connections 24 --amount 6000'.split(' '),
          broker.url(),
        ])
        const result = JSON.parse(await autocannon.line((line) => line.startsWith('{'), 'its result')) as {
          '2xx': number
          errors: number
          timeouts: number
          non2xx: number
          mismatches: number
        }
        t.match(result, { '2xx': 6000, errors: 0, timeouts: 0, non2xx: 0, mismatches: 0 })
        const status = await broker.until(
          ({ services }) => services[0]?.inFlight === 0 && services[0].held === 0,
          'nothing in flight',
        )
        t.equal((status.services[0]?.outcomes.handed_off ?? 0) - before, 24)
        t.equal(unaccounted(status), 0)
      },
    )

    await t.test('pipelined requests are answered in their order', async (t) => {
      const client = await Client.open(t, { port: broker.port() })
      const paths = ['/slow?ms=60', '/first', '/slow?ms=20', '/second', '/third']
      client.send(paths.map((path) => `GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`).join(''))
      const answers = []
      for (const _ of paths) answers.push(await client.answer())
      const pid = Number(answers[0]?.headers['x-pid'])
      t.ok(pids.includes(pid))
      t.same(
        answers.map(({ body }) =>
          body.startsWith('{') ? (JSON.parse(body) as { path: string }).path : body,
        ),
        [`slow ${pid}`, '/first', `slow ${pid}`, '/second', '/third'],
      )
      t.ok(answers.every(({ headers }) => headers['x-pid'] === `${pid}`))
    })

    await t.test('the broker carried nothing', async (t) => {
      t.equal(await relayedBytes(broker), 0)
      const { services } = await broker.status()
      t.match(services[0]?.outcomes, { relayed: 0, rejected: 0, relinquished: 0, client_gone: 0 })
    })
  },
)

void t.test('a GiB goes each way beside the broker, and comes whole', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const backend = await startBackend(t, broker, 'stream-backend.mjs')
  // One connection for all of it.
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const options = { host: '127.0.0.1', port: broker.port(), agent }

  const first = get({ ...options, path: '/' })
  const [greeting] = (await once(first, 'response')) as [IncomingMessage]
  const clientPort = first.socket?.localPort as number
  greeting.resume()
  await once(greeting, 'end')
  await broker.until(({ services }) => services[0]?.outcomes.handed_off === 1, 'the handoff is acknowledged')
  t.ok(holdsServerEnd(backend.pid, broker.port(), clientPort), 'the backend has the connection')
  t.notOk(holdsServerEnd(broker.pid, broker.port(), clientPort), 'and the broker has it no more')

  await t.test('upload', async (t) => {
    const before = bytesRead(broker.pid)
    const digest = createHash('sha256')
    const upload = request({ ...options, path: '/upload', method: 'POST' })
    const response = once(upload, 'response') as Promise<[IncomingMessage]>
    await pipeline(Readable.from(numbered(GIB / MIB, digest), { objectMode: false }), upload)
    const [answer] = await response
    t.equal(answer.statusCode, 200)
    t.equal(answer.socket.localPort, clientPort, 'on the same connection')
    t.same(JSON.parse(await text(answer)), { bytes: GIB, sha256: digest.digest('hex') })
    t.ok(bytesRead(broker.pid) - before < MIB, 'the broker has read next to nothing')
  })

  await t.test('download, while the broker is stopped', async (t) => {
    signal(broker.pid, 'SIGSTOP')
    t.teardown(() => signal(broker.pid, 'SIGCONT'))
    const download = get({ ...options, path: `/download?mebibytes=${GIB / MIB}` })
    const [answer] = (await once(download, 'response')) as [IncomingMessage]
    const digest = createHash('sha256')
    let bytes = 0
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      bytes += chunk.length
      digest.update(chunk)
    }
    t.equal(download.socket?.localPort, clientPort, 'on the same connection')
    t.equal(bytes, GIB)
    t.equal(answer.trailers['x-sha256'], digest.digest('hex'))
  })

  t.equal(await relayedBytes(broker), 0)
  t.ok(peakResidentBytes(backend.pid) < 512 * MIB, 'the backend has streamed')
})

void t.test('server-sent events come one by one while the answer is open', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const backend = await startBackend(t, broker, 'stream-backend.mjs')
  const events = get(broker.url('/events'), { agent: false })
  const [answer] = (await once(events, 'response')) as [IncomingMessage]
  t.equal(answer.headers['content-type'], 'text/event-stream')
  answer.setEncoding('utf8')
  const chunks = answer[Symbol.asyncIterator]() as AsyncIterator<string>
  t.equal((await chunks.next()).value, ': open\n\n')
  // The backend says the next one only when it is told to, so each has come by itself.
  for (const event of ['one', 'two', 'three']) {
    backend.child.stdin?.write(`${event}\n`)
    t.equal((await chunks.next()).value, `data: ${event}\n\n`)
    t.notOk(answer.complete)
  }
  events.destroy()
  await backend.message('events closed')
})

void t.test('WebSocket: echo both ways, and close codes of either side', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const backend = await startBackend(t, broker, 'stream-backend.mjs')
  const open = async () => {
    const socket = new WebSocket(`ws://${broker.address()}/`)
    t.teardown(() => socket.terminate())
    const messages: { data: string; binary: boolean }[] = []
    let arrived: (() => void) | undefined
    socket.on('message', (data: Buffer, binary: boolean) => {
      messages.push({ data: data.toString('latin1'), binary })
      arrived?.()
    })
    const next = async () => {
      while (messages.length === 0) await new Promise<void>((resolve) => (arrived = resolve))
      return messages.shift()
    }
    const greeting = JSON.parse((await next())?.data ?? '') as Seen
    return { socket, next, greeting }
  }

  const { socket, next, greeting } = await open()
  t.match(greeting, { pid: backend.pid, remoteAddress: '127.0.0.1' })
  socket.send('hello')
  t.same(await next(), { data: 'hello', binary: false })
  const large = randomBytes(MIB)
  socket.send(large)
  const echoed = await next()
  t.equal(echoed?.binary, true)
  t.ok(echoed?.data === large.toString('latin1'), 'a MiB in one message')
  socket.close(4000, 'done')
  t.same((await once(socket, 'close'))[0], 4000)
  t.match(await backend.message('websocket closed'), { code: 4000, reason: 'done' })

  const other = await open()
  other.socket.send('leave')
  const [code, reason] = (await once(other.socket, 'close')) as [number, Buffer]
  t.equal(code, 4001)
  t.equal(reason.toString(), 'asked to')
})

void t.test('HTTP/2 over TLS that ends in the backend', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const [KEY, CERTIFICATE] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
  const key = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
  const name = '-subj /CN=localhost -addext subjectAltName=DNS:localhost'
  execFileSync('openssl', [...`${key} ${name}`.split(' '), '-keyout', KEY, '-out', CERTIFICATE], {
    stdio: 'pipe',
  })
  const broker = await startBroker(t, listening('tls'))
  const env = { KEY, CERTIFICATE }
  const pids = [
    (await startBackend(t, broker, 'h2-backend.mjs', { env })).pid,
    (await startBackend(t, broker, 'h2-backend.mjs', { env })).pid,
  ]
  await broker.backends(2)

  const served = new Set<number>()
  for (let connection = 0; connection < 2; connection++) {
    const session = connectHttp2(`https://localhost:${broker.port()}`, {
      ca: readFileSync(CERTIFICATE),
      lookup: (_host, _options, found) => found(null, [{ address: '127.0.0.1', family: 4 }]),
    })
    t.teardown(() => session.destroy())
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const stream = session.request({ [constants.HTTP2_HEADER_PATH]: `/${index}` })
        stream.setEncoding('utf8')
        return JSON.parse(await text(stream)) as Seen & { path: string; alpnProtocol: string }
      }),
    )
    t.same(
      answers.map(({ path }) => path),
      answers.map((_, index) => `/${index}`),
    )
    const { localPort } = session.socket
    t.ok(answers.every(({ pid }) => pid === answers[0]?.pid))
    t.ok(answers.every(({ remoteAddress }) => remoteAddress === '127.0.0.1'))
    t.ok(answers.every(({ remotePort }) => remotePort === localPort))
    t.ok(answers.every(({ alpnProtocol }) => alpnProtocol === 'h2'))
    served.add(answers[0]?.pid ?? 0)
    session.close()
    await once(session, 'close')
  }
  t.same(served, new Set(pids))
})

void t.test('a raw TCP session in which the server speaks first', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, listening('tcp'))
  const { pid } = await startBackend(t, broker, 'tcp-backend.mjs')
  const client = await Client.open(t, { port: broker.port() })
  t.same(JSON.parse(await client.line()), {
    pid,
    turn: 1,
    remoteAddress: '127.0.0.1',
    remotePort: client.port,
  })
  client.send('over\n')
  t.equal(await client.line(), 'over')
  client.send('and out\n')
  client.socket.end()
  t.equal(await client.line(), 'and out', 'a half-closed client is still answered')
  t.equal(await client.line(), 'bye 13')
  t.equal(await client.ended, 'end')
})

void t.test('a client that sends its request and half-closes is answered', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, listening('tcp'))
  const client = await Client.open(t, { port: broker.port() })
  client.socket.end('early\n')
  await broker.until(({ services }) => services[0]?.held === 1, 'it waits')
  const { pid } = await startBackend(t, broker, 'tcp-backend.mjs')
  t.match(JSON.parse(await client.line()), { pid, turn: 1 })
  t.equal(await client.line(), 'early')
  t.equal(await client.line(), 'bye 6')
})

const hasIpv6 = Object.values(networkInterfaces()).some((all) =>
  all?.some(({ address }) => address === '::1'),
)

void t.test(
  'an IPv6 listener',
  { timeout: LIMIT, ...(!hasIpv6 && { skip: 'no ::1 on this machine' }) },
  async (t) => {
    const broker = await startBroker(t, listening('http', '[::1]:0'))
    const { pid } = await startBackend(t, broker)
    const client = await Client.open(t, { host: '::1', port: broker.port() })
    t.match(JSON.parse((await client.get()).body), { pid, remoteAddress: '::1', remotePort: client.port })
  },
)

void t.test('a Unix socket listener', { timeout: LIMIT }, async (t) => {
  const path = join(temporaryFolder(t), 'web.sock')
  const broker = await startBroker(t, listening('http', `unix:${path}`))
  t.equal(broker.address(), `unix:${path}`)
  const { pid } = await startBackend(t, broker)
  const client = await Client.open(t, { path })
  t.match(JSON.parse((await client.get('/one')).body), { pid, path: '/one' })
  t.match(JSON.parse((await client.get('/two')).body), { pid, path: '/two' })
})

function installed(command: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, command)))
}

/** Blocks that are alike but for their number, so that one lost, doubled or moved is seen. */
function* numbered(mebibytes: number, digest: ReturnType<typeof createHash>): Generator<Buffer> {
  const block = randomBytes(MIB)
  for (let number = 0; number < mebibytes; number++) {
    const stamp = Buffer.from(String(number).padStart(8, '0'))
    for (const part of [stamp, block.subarray(stamp.length)]) {
      digest.update(part)
      yield part
    }
  }
}

async function text(stream: AsyncIterable<Buffer | string>): Promise<string> {
  let whole = ''
  for await (const chunk of stream) whole += chunk.toString()
  return whole
}
