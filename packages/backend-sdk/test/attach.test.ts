import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import net, { type Socket } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { acceptOne, listenTcp, localAddress } from '@baton/native-sendmsg'
import t from 'tap'
import { startConnectionTracking } from '../src/attach/connection-tracking.ts'
import { AttachError, attachServer } from '../src/attach/index.ts'
import { dial, front, listen } from './attach-front.ts'
import { LIMIT } from '../../../test/support/limits.ts'

const silent = { onServerClose() {} }

/** `test/long/repetitions.test.ts` makes ten times as many. */
const CONNECTIONS = Number(process.env['ATTACHED'] ?? 1000)

void t.test(
  'an adopted connection is served, counted, and has the address of its client',
  { timeout: LIMIT },
  async (t) => {
    const server = http.createServer((request, response) =>
      response.end(`${request.socket.remotePort} ${request.socket.remoteAddress}`),
    )
    const f = await front(t, server)
    t.equal(f.attachment.kind, 'http')
    t.equal(f.attachment.allowHalfOpen, true)
    const client = await f.dial()
    t.same([f.attachment.live, f.attachment.adopted, f.attachment.closed], [1, 1, 0])
    client.get('/', '1.1', 'Connection: close\r\n')
    const { localPort } = client.socket
    t.match(await client.ended(), new RegExp(`\\b${localPort} 127.0.0.1$`))
    await f.attachment.whenEmpty()
    t.same([f.attachment.live, f.attachment.adopted, f.attachment.closed], [0, 1, 1])
    t.equal(
      f.attachment.find(() => true),
      undefined,
    )
  },
)

void t.test('sockets made from descriptors, as in a handoff', { timeout: LIMIT }, async (t) => {
  const listener = listenTcp({ host: '127.0.0.1', port: 0 })
  t.teardown(() => listener.close())
  const { port } = localAddress(listener.fd)
  const server = http.createServer(
    { connectionsCheckingInterval: 20, headersTimeout: 200 },
    (request, response) => {
      response.end(`${request.method} ${request.socket.remotePort}`)
    },
  )
  const attachment = attachServer(server, silent)
  // The client has connected, so the kernel has the connection ready for accept4(2).
  const handOff = async () => {
    const client = await dial(t, port)
    const accepted = acceptOne(listener.fd)
    if (!accepted) throw new Error('nothing to accept')
    attachment.adopt(new net.Socket({ fd: accepted.fd, allowHalfOpen: attachment.allowHalfOpen }))
    return client
  }
  const client = await handOff()
  client.get('/')
  await client.until(new RegExp(`GET ${client.socket.localPort}$`))
  const slow = await handOff()
  slow.write('GET / HTTP/1.1\r\nX')
  t.match(await slow.ended(), /^HTTP\/1.1 408 /)
  attachment.drain()
  client.get('/')
  t.match(await client.ended(), /Connection: close\r\n[^]*GET \d+$/)
  await attachment.whenEmpty()
  t.same([attachment.live, attachment.adopted, attachment.closed], [0, 2, 2])
})

void t.test('a server is attached once at a time', async (t) => {
  const server = http.createServer()
  const attachment = attachServer(server, silent)
  t.throws(() => attachServer(server, silent), { name: 'AttachError', code: 'BATON_ERR_ALREADY_ATTACHED' })
  t.throws(() => attachServer(server, silent), AttachError)
  attachment.detach()
  attachServer(server, silent).detach()
})

void t.test(
  'maxConnections is read at each connection, and includes those in transit',
  { timeout: LIMIT },
  async (t) => {
    const server = net.createServer((socket) => socket.resume())
    const f = await front(t, server)
    t.equal(f.attachment.overloaded(1_000_000), false, 'unset: no limit')
    server.maxConnections = 2
    t.equal(f.attachment.overloaded(1), false)
    t.equal(f.attachment.overloaded(2), true)
    const client = await f.dial()
    t.equal(f.attachment.overloaded(0), false)
    t.equal(f.attachment.overloaded(1), true)
    await f.dial()
    t.equal(f.attachment.overloaded(0), true)
    server.maxConnections = 3
    t.equal(f.attachment.overloaded(0), false)
    server.maxConnections = 2
    client.socket.destroy()
    const [first] = f.sockets
    if (!first?.closed) await once(first as Socket, 'close')
    t.equal(f.attachment.overloaded(0), false, 'one has left')
    server.maxConnections = 0
    t.equal(f.attachment.overloaded(0), !process.version.startsWith('v20.'), 'zero as this Node reads it')
  },
)

/** Column `tr` of /proc/net/tcp: 02 is the keep-alive timer (proc(5)). The two ports identify the socket. */
function keepAliveTimer(socket: Socket): boolean {
  const hex = (port: number | undefined) => (port ?? 0).toString(16).toUpperCase().padStart(4, '0')
  const ports = new RegExp(`^ *\\d+: \\w+:${hex(socket.localPort)} \\w+:${hex(socket.remotePort)} `)
  const row = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .find((line) => ports.test(line))
  return / 02:\w{8} /.test(row ?? '')
}

void t.test(
  'sockets get the same options as those that the server accepts',
  { timeout: LIMIT },
  async (t) => {
    const calls: unknown[][] = []
    class Recorded extends net.Socket {
      override setNoDelay(on?: boolean): this {
        calls.push(['noDelay', on])
        return super.setNoDelay(on)
      }
      override setKeepAlive(on?: boolean, delay?: number): this {
        calls.push(['keepAlive', on, delay])
        return super.setKeepAlive(on, delay)
      }
      override pause(): this {
        calls.push(['pause'])
        return super.pause()
      }
    }
    const options = {
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: 7000,
      pauseOnConnect: true,
      allowHalfOpen: true,
    }
    const all = attachServer(net.createServer(options), silent)
    t.equal(all.allowHalfOpen, true)
    all.adopt(new Recorded())
    t.same(calls.splice(0), [['noDelay', true], ['keepAlive', true, 7000], ['pause']])
    const none = attachServer(net.createServer(), silent)
    t.equal(none.allowHalfOpen, false)
    none.adopt(new Recorded())
    t.same(calls.splice(0), [])
    attachServer(http.createServer(), silent).adopt(new Recorded())
    t.same(calls[0], ['noDelay', true], 'http: on by default')

    const kept = await front(t, http.createServer({ keepAlive: true, keepAliveInitialDelay: 7000 }))
    const plain = await front(t, http.createServer())
    await Promise.all([kept.dial(), plain.dial()])
    t.equal(keepAliveTimer(kept.sockets[0] as Socket), true, 'the kernel runs the timer')
    t.equal(keepAliveTimer(plain.sockets[0] as Socket), false)
  },
)

void t.test(
  'a client may half-close and is still answered, as the server allows',
  { timeout: LIMIT },
  async (t) => {
    const echo = net.createServer({ allowHalfOpen: true }, (socket) => {
      socket.resume().on('end', () => socket.end('after your end'))
    })
    const f = await front(t, echo)
    const client = await f.dial()
    client.socket.end('x')
    t.equal(await client.ended(), 'after your end')
  },
)

void t.test('a socket that closed in transit is counted, and not handed out', async (t) => {
  const server = net.createServer(() => t.fail('a dead socket was handed out'))
  const attachment = attachServer(server, silent)
  const socket = new net.Socket()
  socket.destroy()
  await once(socket, 'close')
  attachment.adopt(socket)
  t.same([attachment.live, attachment.adopted, attachment.closed], [0, 1, 1])
  await attachment.whenEmpty()
})

void t.test('destroyAll() cuts every connection', { timeout: LIMIT }, async (t) => {
  const f = await front(t, http.createServer())
  const clients = await Promise.all([f.dial(), f.dial()])
  f.attachment.destroyAll()
  await f.attachment.whenEmpty()
  t.equal(f.attachment.closed, 2)
  await Promise.all(clients.map((client) => client.ended()))
})

void t.test(
  'headersTimeout and requestTimeout: 408, as on a listening server',
  { timeout: LIMIT },
  async (t) => {
    const make = (timeouts: http.ServerOptions) =>
      http.createServer({ connectionsCheckingInterval: 20, ...timeouts }, (request) => request.resume())
    const rows = [
      {
        timeouts: { headersTimeout: 100, requestTimeout: 0 },
        bytes: 'GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ',
      },
      {
        timeouts: { headersTimeout: 0, requestTimeout: 100 },
        bytes: 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx',
      },
      { timeouts: { headersTimeout: 100, requestTimeout: 100 }, bytes: '' },
    ]
    for (const { timeouts, bytes } of rows) {
      const own = make(timeouts)
      const port = await listen(t, own)
      const f = await front(t, make(timeouts))
      const [listening, attached] = await Promise.all([dial(t, port), f.dial()])
      listening.write(bytes)
      attached.write(bytes)
      const answer = await attached.ended()
      t.equal(answer, await listening.ended())
      t.match(answer, /^HTTP\/1.1 408 Request Timeout\r\n/)
    }
  },
)

void t.test('timeout and keepAliveTimeout end silent and idle connections', { timeout: LIMIT }, async (t) => {
  const idle = await front(
    t,
    http.createServer({ keepAliveTimeout: 1 }, (_request, response) => response.end('ok')),
  )
  const silentOne = http.createServer()
  silentOne.timeout = 50
  const quiet = await front(t, silentOne)
  const [a, b] = [await idle.dial(), await quiet.dial()]
  a.get('/')
  t.match(await a.ended(), /ok$/)
  t.equal(await b.ended(), '')
})

void t.test('the app’s own listening listeners are not called', async (t) => {
  const server = http.createServer()
  server.on('listening', () => t.fail('nothing listens'))
  attachServer(server, silent)
  t.equal(server.listening, true)
})

void t.test(
  'a Node without connection tracking causes a warning, not a guess',
  { timeout: LIMIT },
  async (t) => {
    const warned = once(process, 'warning')
    t.equal(startConnectionTracking(http.createServer(), []), false)
    const [warning] = await warned
    t.match(warning, { name: 'BatonWarning', code: 'BATON_WARN_NO_CONNECTION_TRACKING' })
    t.equal(startConnectionTracking(http.createServer()), true)
    t.equal(startConnectionTracking(net.createServer()), false)
  },
)

/** Collects garbage until `enough`, at most 50 times: finalizers run in their own tasks. `--expose-gc` is set for this file only. */
async function collect(enough: () => boolean): Promise<void> {
  setFlagsFromString('--expose-gc')
  const gc: unknown = runInNewContext('gc')
  if (typeof gc !== 'function') throw new Error('no gc')
  for (let turn = 0; turn < 50 && !enough(); turn += 1) {
    Reflect.apply(gc, undefined, [])
    await new Promise((resolve) => setImmediate(resolve))
  }
}

void t.test('an idle connection keeps no response alive', { timeout: LIMIT }, async (t) => {
  let collected = false
  const registry = new FinalizationRegistry(() => (collected = true))
  const server = http.createServer((_request, response) => {
    registry.register(response, undefined)
    response.end('ok')
  })
  const f = await front(t, server)
  const client = await f.dial()
  client.get('/')
  await client.until(/ok$/)
  await collect(() => collected)
  t.equal(collected, true)
  t.equal(f.attachment.live, 1)
})

void t.test(`${CONNECTIONS} connections leave nothing behind`, { timeout: LIMIT }, async (t) => {
  const server = http.createServer((_request, response) => response.end('ok'))
  const attachment = attachServer(server, silent)
  let collected = 0
  const registry = new FinalizationRegistry(() => (collected += 1))
  const listener = net.createServer((socket) => {
    registry.register(socket, undefined)
    attachment.adopt(socket)
  })
  const port = await listen(t, listener)
  const visit = () =>
    new Promise<void>((resolve, reject) => {
      const client = net.connect(port, '127.0.0.1', () => client.write('GET / HTTP/1.0\r\n\r\n'))
      client
        .on('error', reject)
        .on('close', () => resolve())
        .resume()
    })
  for (let done = 0; done < CONNECTIONS; done += 50) await Promise.all(Array.from({ length: 50 }, visit))
  await attachment.whenEmpty()
  t.same([attachment.live, attachment.adopted, attachment.closed], [0, CONNECTIONS, CONNECTIONS])
  // Node's parser pool and the last wave may keep some alive.
  const most = CONNECTIONS - 100
  await collect(() => collected >= most)
  t.ok(collected >= most, `${collected} of ${CONNECTIONS} sockets collected while still attached`)
  attachment.detach()
})
