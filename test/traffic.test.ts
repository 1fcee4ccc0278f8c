import { execFile, execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { get, type IncomingMessage } from 'node:http'
import { connect as connectHttp2, constants } from 'node:http2'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { WebSocket } from 'ws'
import { Client } from './support/client.ts'
import { LIMIT } from './support/limits.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { startServices } from './support/service.ts'
import { passBothWays, relayedBytes } from './support/traffic-scenes.ts'

const MIB = 1024 * 1024

/** The JSON that `http-backend.mjs` returns about a connection. */
interface Seen {
  pid: number
  remoteAddress: string
  remotePort: number
  connection: string
}

const hasIpv6 = Object.values(networkInterfaces()).some((all) =>
  all?.some(({ address }) => address === '::1'),
)
const unixPath = join(temporaryFolder(t), 'web.sock')

const { broker, services } = await startServices(t, {
  web: {},
  stream: {},
  tls: { protocol: 'tls' },
  lines: { protocol: 'tcp' },
  early: { protocol: 'tcp' },
  ipv6: { listen: hasIpv6 ? '[::1]:0' : '127.0.0.1:0' },
  unix: { listen: `unix:${unixPath}` },
})

void t.test(
  "each request is answered by a backend, on the client's own connection",
  { timeout: LIMIT },
  async (t) => {
    const { web } = services
    const pids = [(await web.start(t)).pid, (await web.start(t)).pid]
    await web.backends(2)

    await t.test("different connections reach both backends, each under its client's address", async (t) => {
      const seen: Seen[] = []
      for (let index = 0; index < 10; index++) {
        const client = await web.open(t)
        const { status, headers, body } = await client.get()
        const answer = JSON.parse(body) as Seen
        t.equal(status, 200)
        t.equal(headers['x-pid'], `${answer.pid}`)
        t.equal(answer.remoteAddress, '127.0.0.1')
        t.equal(answer.remotePort, client.port)
        seen.push(answer)
      }
      t.same(new Set(seen.map(({ pid }) => pid)), new Set(pids))
      t.equal(new Set(seen.map(({ connection }) => connection)).size, 10, 'each has its own id')
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
          ...Array.from({ length: 5 }, () => web.url()),
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
        // A response may arrive before the broker has read the ACK of its connection.
        await web.until(({ inFlight }) => inFlight === 0, 'nothing in flight')
        const before = (await web.state()).outcomes.handed_off
        const autocannon = new Program(t, process.execPath, [
          join(root, 'node_modules/autocannon/autocannon.js'),
          ...'--json --no-progress --timeout 600 --connections 24 --amount 1200'.split(' '),
          web.url(),
        ])
        const result = JSON.parse(await autocannon.line((line) => line.startsWith('{'), 'its result')) as {
          '2xx': number
          errors: number
          timeouts: number
          non2xx: number
          mismatches: number
        }
        t.match(result, { '2xx': 1200, errors: 0, timeouts: 0, non2xx: 0, mismatches: 0 })
        const after = await web.until(({ inFlight, held }) => inFlight + held === 0, 'nothing in flight')
        t.equal(after.outcomes.handed_off - before, 24)
        t.equal(after.unaccounted, 0)
      },
    )

    await t.test('pipelined requests are answered in order', async (t) => {
      const client = await web.open(t)
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

    await t.test('the broker carried no bytes', async (t) => {
      t.equal(await relayedBytes(web), 0)
      t.match((await web.state()).outcomes, { relayed: 0, rejected: 0, relinquished: 0, client_gone: 0 })
    })
  },
)

void t.test('128 MiB each way past the broker arrive intact', { timeout: LIMIT }, async (t) => {
  const { stream } = services
  await passBothWays(t, stream, await stream.start(t, 'stream-backend.mjs'), 128, 96)
})

void t.test('server-sent events arrive one by one during the response', { timeout: LIMIT }, async (t) => {
  const { stream } = services
  const backend = await stream.start(t, 'stream-backend.mjs')
  const events = get(stream.url('/events'), { agent: false })
  const [answer] = (await once(events, 'response')) as [IncomingMessage]
  t.equal(answer.headers['content-type'], 'text/event-stream')
  answer.setEncoding('utf8')
  const chunks = answer[Symbol.asyncIterator]() as AsyncIterator<string>
  t.equal((await chunks.next()).value, ': open\n\n')
  // The backend sends the next event only when told to, so each has arrived by itself.
  for (const event of ['one', 'two', 'three']) {
    backend.child.stdin?.write(`${event}\n`)
    t.equal((await chunks.next()).value, `data: ${event}\n\n`)
    t.notOk(answer.complete)
  }
  events.destroy()
  await backend.message('events closed')
})

void t.test('WebSocket: echo both ways, and close codes of either side', { timeout: LIMIT }, async (t) => {
  const { stream } = services
  const backend = await stream.start(t, 'stream-backend.mjs')
  const open = async () => {
    const socket = new WebSocket(`ws://${broker.address('stream')}/`)
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

void t.test('HTTP/2 over TLS terminated in the backend', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const [KEY, CERTIFICATE] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
  const key = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
  const name = '-subj /CN=localhost -addext subjectAltName=DNS:localhost'
  execFileSync('openssl', [...`${key} ${name}`.split(' '), '-keyout', KEY, '-out', CERTIFICATE], {
    stdio: 'pipe',
  })
  const { tls } = services
  const env = { KEY, CERTIFICATE }
  const pids = [
    (await tls.start(t, 'h2-backend.mjs', env)).pid,
    (await tls.start(t, 'h2-backend.mjs', env)).pid,
  ]
  await tls.backends(2)

  const served = new Set<number>()
  // The first stays open while the second connects, so the second goes to the other backend.
  const sessions: ReturnType<typeof connectHttp2>[] = []
  for (let connection = 0; connection < 2; connection++) {
    const session = connectHttp2(`https://localhost:${tls.port}`, {
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
    sessions.push(session)
  }
  t.same(served, new Set(pids))
  for (const session of sessions) {
    session.close()
    await once(session, 'close')
  }
})

void t.test('a raw TCP session in which the server speaks first', { timeout: LIMIT }, async (t) => {
  const { lines } = services
  const { pid } = await lines.start(t, 'tcp-backend.mjs')
  const client = await lines.open(t)
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
  const { early } = services
  const client = await early.open(t)
  client.socket.end('early\n')
  await early.until(({ held }) => held === 1, 'it waits')
  const { pid } = await early.start(t, 'tcp-backend.mjs')
  t.match(JSON.parse(await client.line()), { pid, turn: 1 })
  t.equal(await client.line(), 'early')
  t.equal(await client.line(), 'bye 6')
})

void t.test(
  'an IPv6 listener',
  { timeout: LIMIT, ...(!hasIpv6 && { skip: 'no ::1 on this machine' }) },
  async (t) => {
    const { ipv6 } = services
    const { pid } = await ipv6.start(t)
    const client = await Client.open(t, { host: '::1', port: ipv6.port })
    t.match(JSON.parse((await client.get()).body), { pid, remoteAddress: '::1', remotePort: client.port })
  },
)

void t.test('a Unix socket listener', { timeout: LIMIT }, async (t) => {
  const path = unixPath
  t.equal(broker.address('unix'), `unix:${path}`)
  const { pid } = await services.unix.start(t)
  const client = await Client.open(t, { path })
  t.match(JSON.parse((await client.get('/one')).body), { pid, path: '/one' })
  t.match(JSON.parse((await client.get('/two')).body), { pid, path: '/two' })
})

function installed(command: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, command)))
}

async function text(stream: AsyncIterable<Buffer | string>): Promise<string> {
  let whole = ''
  for await (const chunk of stream) whole += chunk.toString()
  return whole
}
