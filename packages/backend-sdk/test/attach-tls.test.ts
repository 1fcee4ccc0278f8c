import { once } from 'node:events'
import http2, { type ClientHttp2Session, type ServerHttp2Stream } from 'node:http2'
import https from 'node:https'
import tls, { type TLSSocket } from 'node:tls'
import t, { type Test } from 'tap'
import { front, listen } from './attach-front.ts'
import { LIMIT } from '../../../test/support/limits.ts'

/** A pre-shared key instead of a certificate: TLS without a private key in the repository (TLS 1.2: Node has no PSK in 1.3). */
const psk = Buffer.from('0123456789abcdef')
const serverTls = { ciphers: 'PSK', maxVersion: 'TLSv1.2' as const, pskCallback: () => psk }
const clientTls = {
  ciphers: 'PSK',
  maxVersion: 'TLSv1.2' as const,
  host: '127.0.0.1',
  pskCallback: () => ({ psk, identity: 'test' }),
  checkServerIdentity: () => undefined,
}

async function secure(t: Test, port: number, options: tls.ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = tls.connect({ ...clientTls, port, ...options })
  t.teardown(() => socket.destroy())
  await once(socket, 'secureConnect')
  return socket.setEncoding('latin1')
}

function h2(t: Test, port: number): ClientHttp2Session {
  const session = http2.connect(`https://127.0.0.1:${port}`, { ...clientTls, ALPNProtocols: ['h2'] })
  t.teardown(() => session.destroy())
  return session
}

async function fetchH2(session: ClientHttp2Session, path: string): Promise<string> {
  const stream = session.request({ ':path': path }).setEncoding('utf8')
  let body = ''
  for await (const chunk of stream) body += String(chunk)
  return body
}

void t.test(
  'a tls server wraps adopted sockets, and the raw ones are counted',
  { timeout: LIMIT },
  async (t) => {
    const server = tls.createServer(serverTls, (socket) => socket.pipe(socket))
    const f = await front(t, server)
    t.equal(f.attachment.kind, 'tls')
    t.equal(f.attachment.allowHalfOpen, false)
    const secured = once(server, 'secureConnection')
    const client = await secure(t, f.port)
    const [socket] = await secured
    t.equal(socket.remotePort, client.localPort)
    t.equal(
      f.attachment.find((raw) => raw.remotePort === client.localPort),
      f.sockets[0],
    )
    client.write('hello')
    t.equal((await once(client, 'data'))[0], 'hello')
    t.equal(f.attachment.live, 1)
    const closed = new Promise((resolve) => server.close(resolve))
    t.equal(f.closes(), 1)
    client.end()
    t.equal(await closed, undefined)
    t.equal(f.attachment.live, 0)
  },
)

void t.test('a handshake that fails leaves nothing behind', { timeout: LIMIT }, async (t) => {
  const server = tls.createServer(serverTls, () => t.fail('no handshake'))
  const f = await front(t, server)
  const failed = once(server, 'tlsClientError')
  const client = await f.dial()
  client.write('GET / HTTP/1.1\r\n\r\n')
  await failed
  client.socket.destroy()
  await f.attachment.whenEmpty()
  t.same([f.attachment.adopted, f.attachment.closed], [1, 1])

  const gone = once(server, 'tlsClientError')
  const silent = await f.dial()
  silent.socket.destroy()
  await gone
  await f.attachment.whenEmpty()
  t.same([f.attachment.adopted, f.attachment.closed], [2, 2])
})

void t.test('destroyAll() cuts connections during and after the handshake', { timeout: LIMIT }, async (t) => {
  const server = tls.createServer(serverTls, (socket) => socket.on('error', () => {}))
  const f = await front(t, server)
  const [client, half] = [await secure(t, f.port), await f.dial()]
  const over = once(client, 'close')
  f.attachment.destroyAll()
  await Promise.all([f.attachment.whenEmpty(), over, half.ended()])
  t.equal(f.attachment.closed, 2)
})

void t.test('https: timeouts, draining and close() as for http', { timeout: LIMIT }, async (t) => {
  const server = https.createServer(
    { ...serverTls, connectionsCheckingInterval: 20, headersTimeout: 100, keepAliveTimeout: 60_000 },
    (request, response) => response.end(request.url),
  )
  const f = await front(t, server)
  t.equal(f.attachment.kind, 'https')
  const slow = await secure(t, f.port)
  slow.write('GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ')
  t.match((await once(slow, 'data'))[0], /^HTTP\/1.1 408 /)
  server.headersTimeout = 60_000

  const idle = await secure(t, f.port)
  const asked = await secure(t, f.port)
  for (const client of [idle, asked]) {
    client.write('GET /one HTTP/1.1\r\nHost: a\r\n\r\n')
    t.match((await once(client, 'data'))[0], /keep-alive[^]*\/one$/)
  }
  f.attachment.drain()
  asked.write('GET /two HTTP/1.1\r\nHost: a\r\n\r\n')
  const ended = once(asked, 'close')
  t.match((await once(asked, 'data'))[0], /Connection: close[^]*\/two$/)
  await ended
  t.equal(idle.closed, false)
  const cut = once(idle, 'close')
  const closed = new Promise((resolve) => server.close(resolve))
  await cut
  t.equal(await closed, undefined)
})

void t.test('h2: GOAWAY, and open streams finish', { timeout: LIMIT }, async (t) => {
  const held: ServerHttp2Stream[] = []
  const server = http2.createSecureServer(serverTls)
  server.on('stream', (stream, headers) => {
    stream.respond()
    if (headers[':path'] === '/hold') held.push(stream)
    else stream.end(headers[':path'])
  })
  const f = await front(t, server)
  t.equal(f.attachment.kind, 'tls')
  const [busy, idle] = [h2(t, f.port), h2(t, f.port)]
  t.equal(await fetchH2(idle, '/a'), '/a')
  const arrived = once(server, 'stream')
  const body = fetchH2(busy, '/hold')
  await arrived
  const goaways = Promise.all([once(busy, 'goaway'), once(idle, 'goaway')])
  f.attachment.drain()
  t.same(
    (await goaways).map(([code]: unknown[]) => code),
    [0, 0],
  )
  await once(idle, 'close')
  held[0]?.end('done')
  t.equal(await body, 'done')
  const fresh = h2(t, f.port)
  t.equal(await fetchH2(fresh, '/b'), '/b', 'a session that was on its way has its request answered')
  await f.attachment.whenEmpty()
})

void t.test('HTTP/1 on an HTTP/2 server', { timeout: LIMIT }, async (t) => {
  const server = http2.createSecureServer({ ...serverTls, allowHTTP1: true }, (request, response) => {
    response.end(request.url)
  })
  const f = await front(t, server)
  const client = await secure(t, f.port, { ALPNProtocols: ['http/1.1'] })
  client.write('GET /one HTTP/1.1\r\nHost: a\r\n\r\n')
  t.match((await once(client, 'data'))[0], /keep-alive[^]*\/one$/)
  f.attachment.drain()
  const ended = once(client, 'close')
  client.write('GET /two HTTP/1.1\r\nHost: a\r\n\r\n')
  t.match((await once(client, 'data'))[0], /Connection: close[^]*\/two$/)
  await ended
  await f.attachment.whenEmpty()
})

void t.test('an HTTP/2 server closes as a listening one does', { timeout: LIMIT }, async (t) => {
  const story = async (server: http2.Http2SecureServer, port: number): Promise<string[]> => {
    const seen: string[] = []
    server.on('close', () => seen.push('close event'))
    const session = h2(t, port)
    seen.push(await fetchH2(session, '/a'))
    const closed = new Promise<void>((resolve) =>
      server.close((error) => {
        seen.push(String(error))
        resolve()
      }),
    )
    session.close()
    await closed
    return seen
  }
  const make = () =>
    http2.createSecureServer(serverTls, (request, response) => void response.end(request.url))
  const own = make()
  const listening = await story(own, await listen(t, own))
  const attached = make()
  const f = await front(t, attached)
  t.same(await story(attached, f.port), listening)
  t.same(new Set(listening), new Set(['/a', 'close event', 'undefined']))
})
