import { once } from 'node:events'
import http, { type RequestListener, type ServerResponse } from 'node:http'
import net from 'node:net'
import t from 'tap'
import { type Client, front } from './attach-front.ts'
import { LIMIT } from '../../../test/support/limits.ts'

const STATUS = /HTTP\/1\.1 \d+ /g

/** One line per response: status, Connection header, body. */
function answers(received: string): string[] {
  const starts = [...received.matchAll(STATUS)].map((match) => match.index)
  return starts.map((start, i) => {
    const [head = '', body = ''] = received.slice(start, starts[i + 1]).split(/\r\n\r\n(.*)/s)
    const status = head.slice(9, 12)
    const connection = /^connection: (.*)$/im.exec(head)?.[1] ?? '-'
    return `${status} ${connection} ${body}`.trimEnd()
  })
}

/** `/hold...` waits for the test's answer; everything else is answered immediately with its path. */
function makeServer(options: http.ServerOptions = {}, routes: Record<string, RequestListener> = {}) {
  const held = new Map<string, ServerResponse>()
  const server = http.createServer({ keepAliveTimeout: 60_000, ...options }, (request, response) => {
    const path = request.url ?? ''
    const route = routes[path]
    if (route) route(request, response)
    else if (path.startsWith('/hold')) held.set(path, response)
    else response.end(path)
  })
  const holding = async (...paths: string[]) => {
    while (!paths.every((path) => held.has(path))) await once(server, 'request')
  }
  return { server, held, holding }
}

async function ask(client: Client, path: string): Promise<void> {
  client.get(path)
  await client.until(new RegExp(`${path}$`))
}

void t.test(
  'an idle connection is closed after its next response, not before',
  { timeout: LIMIT },
  async (t) => {
    const { server } = makeServer()
    const f = await front(t, server)
    const client = await f.dial()
    const untouched = await f.dial()
    await ask(client, '/before')
    f.attachment.drain()
    f.attachment.drain()
    // One more round trip through the same event loop: anything that draining cuts would be cut by now.
    const other = await f.dial()
    other.get('/late')
    t.same(answers(await other.ended()), ['200 close /late'], 'one that was on its way is served too')
    t.equal(client.socket.closed, false)
    t.equal(f.attachment.live, 2)
    client.get('/during')
    t.same(answers(await client.ended()), ['200 keep-alive /before', '200 close /during'])
    untouched.get('/first')
    t.same(answers(await untouched.ended()), ['200 close /first'])
    await f.attachment.whenEmpty()
  },
)

void t.test(
  'a response in flight says close, and one that has begun keeps its promise',
  { timeout: LIMIT },
  async (t) => {
    const { server, held, holding } = makeServer()
    const f = await front(t, server)
    const [waiting, begun] = [await f.dial(), await f.dial()]
    waiting.get('/hold/waiting')
    begun.get('/hold/begun')
    await holding('/hold/waiting', '/hold/begun')
    held.get('/hold/begun')?.writeHead(200, { 'Content-Length': 6 }).write('one')
    await begun.until(/one$/)
    f.attachment.drain()
    held.get('/hold/waiting')?.end('done')
    t.same(answers(await waiting.ended()), ['200 close done'])
    held.get('/hold/begun')?.end('two')
    await begun.until(/onetwo$/)
    t.equal(begun.socket.closed, false)
    begun.get('/next')
    t.same(answers(await begun.ended()), ['200 keep-alive onetwo', '200 close /next'])
  },
)

void t.test('after a kept promise, a silent client is closed soon', { timeout: LIMIT }, async (t) => {
  const { server, held, holding } = makeServer()
  const f = await front(t, server)
  const client = await f.dial()
  client.get('/hold')
  await holding('/hold')
  held.get('/hold')?.writeHead(200).write('x')
  await client.until(/x/)
  f.attachment.drain()
  t.equal(server.keepAliveTimeout, 1000)
  held.get('/hold')?.end()
  await client.ended()
  await f.attachment.whenEmpty()
  f.attachment.detach()
  t.equal(server.keepAliveTimeout, 60_000, 'the app’s own is put back')
})

void t.test('pipelined requests that were received are all answered', { timeout: LIMIT }, async (t) => {
  const { server, held, holding } = makeServer()
  const f = await front(t, server)
  const client = await f.dial()
  for (const path of ['/hold/1', '/hold/2', '/hold/3']) client.get(path)
  await holding('/hold/1', '/hold/2', '/hold/3')
  f.attachment.drain()
  for (const path of ['/hold/3', '/hold/2', '/hold/1']) held.get(path)?.end(path)
  t.same(answers(await client.ended()), [
    '200 keep-alive /hold/1',
    '200 keep-alive /hold/2',
    '200 close /hold/3',
  ])
})

void t.test('pipelined requests that come while draining are all answered', { timeout: LIMIT }, async (t) => {
  const { server, held, holding } = makeServer()
  const f = await front(t, server)
  const [atOnce, behind] = [await f.dial(), await f.dial()]
  behind.get('/hold/1')
  await holding('/hold/1')
  f.attachment.drain()
  const requests = ['/a', '/b', '/c'].map((path) => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`)
  atOnce.write(requests.join(''))
  t.same(answers(await atOnce.ended()), ['200 keep-alive /a', '200 keep-alive /b', '200 close /c'])
  behind.get('/hold/2')
  await holding('/hold/2')
  held.get('/hold/1')?.end('1')
  held.get('/hold/2')?.end('2')
  t.same(answers(await behind.ended()), ['200 keep-alive 1', '200 close 2'])
})

void t.test('every form of response says close', { timeout: LIMIT }, async (t) => {
  const keep = { Connection: 'keep-alive' }
  const cookies = ['Set-Cookie', 'a=1', 'Set-Cookie', 'b=2']
  const forms: Record<string, RequestListener> = {
    '/end': (_request, response) => response.end('x'),
    '/chunked': (_request, response) => {
      response.write('x')
      response.end()
    },
    '/304': (_request, response) => response.writeHead(304).end(),
    '/204': (_request, response) => response.writeHead(204, 'Nothing').end(),
    '/object': (_request, response) => response.writeHead(200, keep).end(),
    '/reason': (_request, response) => response.writeHead(200, 'Fine', { connection: 'Keep-Alive' }).end(),
    '/flat': (_request, response) => response.writeHead(200, ['Connection', 'keep-alive', ...cookies]).end(),
    '/set': (_request, response) => response.setHeader('Connection', 'keep-alive').end(),
    '/set-and-object': (_request, response) => response.setHeader('X-A', '1').writeHead(200, keep).end(),
    '/flush': (_request, response) => {
      response.flushHeaders()
      response.end()
    },
    '/upgrade-required': (_request, response) =>
      response.writeHead(426, { Connection: 'Upgrade, keep-alive', Upgrade: 'websocket' }).end(),
  }
  const f = await front(t, makeServer({}, forms).server)
  f.attachment.drain()
  for (const path of Object.keys(forms)) {
    const client = await f.dial()
    client.get(path)
    const received = await client.ended()
    t.match(
      received,
      path === '/upgrade-required' ? /^Connection: Upgrade, close\r$/m : /^connection: close\r$/im,
      path,
    )
    if (path === '/flat') t.equal(received.match(/^Set-Cookie: /gm)?.length, 2, 'repeated headers stay')
  }
  const head = await f.dial()
  head.write('HEAD /end HTTP/1.1\r\nHost: a\r\n\r\n')
  t.same(answers(await head.ended()), ['200 close'])
  const old = await f.dial()
  old.get('/end', '1.0', 'Connection: keep-alive\r\n')
  t.same(answers(await old.ended()), ['200 close x'])
  const post = await f.dial()
  post.write('POST /end HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n')
  await post.until(/100 Continue/)
  post.write('x')
  t.match(await post.ended(), /200 OK[^]*\r\nConnection: close\r\n/)
})

void t.test('a body that comes with its head is read whole while draining', { timeout: LIMIT }, async (t) => {
  const { server } = makeServer(
    {},
    {
      '/sum': (request, response) => {
        let length = 0
        request
          .on('data', (chunk: Buffer) => (length += chunk.length))
          .on('end', () => response.end(`${length}`))
      },
    },
  )
  const f = await front(t, server)
  f.attachment.drain()
  const client = await f.dial()
  const size = 300_000
  client.write(`POST /sum HTTP/1.1\r\nHost: a\r\nContent-Length: ${size}\r\n\r\n${'x'.repeat(size)}`)
  t.same(answers(await client.ended()), [`200 close ${size}`])
})

void t.test('upgraded connections and net servers live until they end', { timeout: LIMIT }, async (t) => {
  const { server } = makeServer()
  server.on('upgrade', (_request, socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n')
    socket.pipe(socket)
  })
  const f = await front(t, server)
  const client = await f.dial()
  client.get('/', '1.1', 'Connection: Upgrade\r\nUpgrade: echo\r\n')
  await client.until(/101[^]*\r\n\r\n/)
  f.attachment.drain()
  client.write('still here')
  await client.until(/still here$/)
  const late = await f.dial()
  late.get('/', '1.1', 'Connection: Upgrade\r\nUpgrade: echo\r\n')
  await late.until(/^HTTP\/1.1 101[^]*\r\nConnection: Upgrade\r\n/)
  f.attachment.destroyAll()
  await Promise.all([client.ended(), late.ended(), f.attachment.whenEmpty()])

  const echo = await front(
    t,
    net.createServer((socket) => socket.pipe(socket)),
  )
  const raw = await echo.dial()
  echo.attachment.drain()
  raw.write('x')
  await raw.until(/x/)
  raw.socket.end()
  await echo.attachment.whenEmpty()
})

void t.test('close() during a drain ends the drain as close() does', { timeout: LIMIT }, async (t) => {
  const { server, held, holding } = makeServer()
  const f = await front(t, server)
  const [idle, busy] = [await f.dial(), await f.dial()]
  await ask(idle, '/x')
  busy.get('/hold')
  await holding('/hold')
  f.attachment.drain()
  const closed = new Promise((resolve) => server.close(resolve))
  await idle.ended()
  held.get('/hold')?.end('done')
  t.same(answers(await busy.ended()), ['200 close done'])
  t.equal(await closed, undefined)
})
