import { once } from 'node:events'
import http, { type ServerResponse } from 'node:http'
import { createServer, Socket } from 'node:net'
import { socketpair } from '@baton/native-sendmsg'
import t from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { attachServer } from '../src/attach/index.ts'
import { openSocket } from '../src/open-socket.ts'
import { type Client, dial, type Front, front, listen } from './attach-front.ts'

// Connections that can be handed back, and those that cannot, while others are.

/** `/hold...` waits for the test's answer, with its head already sent; everything else is answered with its path. */
function makeServer() {
  const held = new Map<string, ServerResponse>()
  const server = http.createServer({ keepAliveTimeout: 600_000 }, (request, response) => {
    const path = request.url ?? ''
    if (path.startsWith('/hold')) {
      response.flushHeaders()
      held.set(path, response)
    } else response.end(path)
  })
  const holding = (path: string) => eventually(() => held.has(path), `${path} has arrived`)
  return { server, held, holding }
}

async function ask(client: Client, path: string): Promise<void> {
  client.get(path)
  await client.until(new RegExp(`${path}$`))
}

/** The server's side of a client. */
function sideOf({ sockets }: Front, { socket }: Client): Socket {
  const found = sockets.find(({ remotePort }) => remotePort === socket.localPort)
  if (found === undefined) throw new Error('not here')
  return found
}

function leftOf(until: number): number {
  return until - performance.now()
}

function isIdle(f: Front, client: Client): boolean {
  return f.attachment.idle().some(({ socket }) => socket === sideOf(f, client))
}

void t.test('only a connection on which nothing is under way is idle', { timeout: LIMIT }, async (t) => {
  const { server, held, holding } = makeServer()
  server.on('upgrade', (_request, socket) => socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n'))
  server.on('connect', (_request, socket) => socket.write('HTTP/1.1 200 OK\r\n\r\n'))
  const f = await front(t, server)
  const read = async (client: Client, bytes: number) =>
    eventually(() => sideOf(f, client).bytesRead >= bytes, `${bytes} bytes are read`)

  const silent = await f.dial()
  t.ok(isIdle(f, silent), 'no request yet')
  const client = await f.dial()
  await ask(client, '/first')
  await eventually(() => isIdle(f, client), 'between two requests')
  t.equal(f.attachment.idle().length, 2, 'each once')
  client.write('G')
  const { bytesRead } = sideOf(f, client)
  await read(client, bytesRead + 1)
  t.notOk(isIdle(f, client), 'one byte of the next request was read')
  client.write('ET /hold/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n')
  await holding('/hold/1')
  t.notOk(isIdle(f, client), 'an answer is under way, and another request behind it')
  held.get('/hold/1')?.end()
  await client.until(/\/second$/)
  await eventually(() => isIdle(f, client), 'both are answered')

  const body = await f.dial()
  body.write('POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123')
  await body.until(/\/early$/)
  t.notOk(isIdle(f, body), 'answered, and the rest of its body is still to come')
  body.write('4567890')
  await eventually(() => isIdle(f, body), 'it has come')

  const expecting = await f.dial()
  expecting.write('POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n')
  await expecting.until(/100 Continue[^]*\/first$/)
  t.notOk(isIdle(f, expecting), '100-continue')
  expecting.write('ok')
  await eventually(() => isIdle(f, expecting), 'after the body')

  const upgraded = await f.dial()
  upgraded.write('GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
  await upgraded.until(/101/)
  t.notOk(isIdle(f, upgraded), 'upgraded')
  const tunnel = await f.dial()
  tunnel.write('CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n')
  await tunnel.until(/200 OK/)
  t.notOk(isIdle(f, tunnel), 'a tunnel')

  const last = await f.dial()
  last.get('/last', '1.1', 'Connection: close\r\n')
  await last.until(/\/last$/)
  t.notOk(isIdle(f, last), 'its answer was the last')

  silent.write('GET /half')
  await read(silent, 9)
  t.notOk(isIdle(f, silent), 'half a first request')
})

void t.test('one that was idle is known to be so still, or not', { timeout: LIMIT }, async (t) => {
  const { server, held, holding } = makeServer()
  const f = await front(t, server)
  const [silent, kept] = [await f.dial(), await f.dial()]
  await ask(kept, '/first')
  await eventually(() => isIdle(f, kept) && isIdle(f, silent), 'both are idle')
  const found = (client: Client) => {
    const one = f.attachment.idle().find(({ socket }) => socket === sideOf(f, client))
    if (one === undefined) throw new Error('not idle')
    return one
  }
  for (const client of [silent, kept]) {
    const before = found(client)
    t.ok(f.attachment.stillIdle(before))
    client.write('G')
    await eventually(() => !f.attachment.stillIdle(before), 'one byte has come')
    const path = `/hold/${client === kept}`
    client.write(`ET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`)
    await holding(path)
    held.get(path)?.end()
    await eventually(() => isIdle(f, client), 'idle again')
    t.notOk(f.attachment.stillIdle(before), 'in between it was not')
    const after = found(client)
    client.socket.destroy()
    await eventually(() => !f.attachment.stillIdle(after), 'gone')
  }
})

void t.test(
  'a connection whose `destroy` the app has replaced is found, and not destroyed',
  { timeout: LIMIT },
  async (t) => {
    // Looking for idle connections called it.
    const { server } = makeServer()
    let destroyed = 0
    const own: unknown[] = []
    server.on('connection', (socket: Socket) => {
      const below = socket.destroy.bind(socket)
      const replaced = (error?: Error) => {
        destroyed += 1
        return below(error)
      }
      socket.destroy = replaced
      own.push(replaced)
    })
    const f = await front(t, server)
    const client = await f.dial()
    await ask(client, '/first')
    await eventually(() => isIdle(f, client), 'between two requests')
    t.equal(destroyed, 0)
    const side: { readonly destroy: unknown } = sideOf(f, client)
    t.equal(side.destroy, own[0], 'it is still the one of the app')
    await ask(client, '/second')
  },
)

// V8 had compiled Node's code for sockets, and threw all of it away at each look at the idle connections: a method of `net.Socket` was replaced meanwhile. In
// eight drains of two apps, compiled code was discarded 226 times, and 135 times since.
void t.test(
  'looking for idle connections of a broker replaces no method of `net.Socket`',
  { timeout: LIMIT },
  async (t) => {
    const { server } = makeServer()
    const destroy = (): unknown => Reflect.get(Socket.prototype, 'destroy')
    const original = destroy()
    let looks = 0
    let replaced = 0
    const below = server.closeIdleConnections.bind(server)
    server.closeIdleConnections = () => {
      looks += 1
      if (destroy() !== original) replaced += 1
      below()
    }
    const attachment = attachServer(server, { onServerClose: () => {} })
    t.teardown(() => {
      attachment.destroyAll()
      attachment.detach()
    })
    const open = async (): Promise<[client: Socket, side: Socket]> => {
      const [near, far] = socketpair('stream')
      const client = new Socket({ fd: far.release() })
      t.teardown(() => client.destroy())
      const side = openSocket(near.release(), attachment.allowHalfOpen)
      attachment.adopt(side)
      client.write('GET /one HTTP/1.1\r\nHost: a\r\n\r\n')
      await once(client, 'data')
      return [client, side]
    }
    const [, side] = await open()
    await eventually(() => attachment.idle().length === 1, 'between two requests')
    t.equal(attachment.idle()[0]?.socket, side)
    t.notOk(side.destroyed, 'it is only looked at')

    const [client, second] = await open()
    const own = t.capture(second, 'destroy', second.destroy.bind(second))
    await eventually(() => attachment.idle().length === 2, 'also one whose `destroy` the app has replaced')
    t.same(own(), [], 'which is not called')
    t.ok(looks > 0)
    t.equal(replaced, 0)
    second.destroy()
    await once(client, 'close')
    t.ok(second.destroyed, 'and destroys it as before')
  },
)

void t.test('an idle connection says how long the server would keep it', { timeout: LIMIT }, async (t) => {
  const { server } = makeServer()
  const f = await front(t, server)
  const client = await f.dial()
  await ask(client, '/first')
  const left = () => f.attachment.idle().map(({ until }) => Math.round(leftOf(until) / 60_000))
  await eventually(() => f.attachment.idle().length === 1, 'idle')
  t.same(left(), [10])
  f.attachment.drain()
  t.same(left(), [10], 'not the shorter time of a drain')
  await f.dial()
  t.same(left(), [10, 1], "without a request: the time for the first one's head")
})

void t.test(
  'one that cannot be handed back has little time while others can',
  { timeout: LIMIT },
  async (t) => {
    // A relayed connection, or one of the server's own listener: after an answer that had begun before the drain it stayed for the whole of
    // the server's keep-alive time, and the drain with it.
    const { server, held, holding } = makeServer()
    const f = await front(t, server)
    const [stays, leaves, idle] = [await f.dial(), await f.dial(), await f.dial()]
    stays.get('/hold/stays')
    leaves.get('/hold/leaves')
    await ask(idle, '/idle')
    await holding('/hold/stays')
    await holding('/hold/leaves')
    const ofLeaver = sideOf(f, leaves)
    f.attachment.drain({
      takes: (socket) => socket === undefined || socket === ofLeaver,
      behind: false,
    })
    for (const response of held.values()) response.end()
    await stays.ended()
    await eventually(() => isIdle(f, leaves), 'the other waits to be handed back')
    t.equal(idle.socket.closed, false)
    server.closeIdleConnections()
    await idle.ended()
    t.equal(leaves.socket.closed, false, 'nor does the app close it')
  },
)

void t.test('a server gets one that comes back with its next byte', { timeout: LIMIT }, async (t) => {
  const { server } = makeServer()
  let given = 0
  server.on('connection', () => (given += 1))
  const attachment = attachServer(server, { onServerClose: () => {} })
  t.teardown(() => {
    attachment.destroyAll()
    attachment.detach()
  })
  const listener = createServer()
  const port = await listen(t, listener)
  const comeBack = async (keepAlive: number) => {
    const accepted = once(listener, 'connection')
    const client = await dial(t, port)
    const [socket] = (await accepted) as [Socket]
    attachment.adoptIdle(socket, keepAlive)
    return client
  }
  const kept = await comeBack(120_000)
  const gone = await comeBack(120_000)
  const late = await comeBack(1)
  const unlimited = await comeBack(Number.POSITIVE_INFINITY)
  t.equal(await late.ended(), '', 'closed when its time is over')
  t.same(
    attachment.idle().map(({ until }) => Math.ceil(leftOf(until) / 60_000)),
    [2, 2, Number.POSITIVE_INFINITY],
    'they can be handed back again, with the time that is left',
  )
  gone.socket.resetAndDestroy()
  await eventually(() => attachment.live === 2, 'a client that leaves is noticed')
  t.equal(given, 0)
  for (const client of [kept, unlimited]) {
    await ask(client, '/first')
    await ask(client, '/second')
  }
  t.equal(given, 2)
  t.match(attachment, { live: 2, adopted: 4, closed: 2 })
})

void t.test("the server's 'close' waits for the broker's answer", { timeout: LIMIT }, async (t) => {
  const { server } = makeServer()
  let awaits = true
  const attachment = attachServer(server, { onServerClose: () => {}, awaitsAnswer: () => awaits })
  t.teardown(() => attachment.detach())
  let closed = false
  server.close(() => (closed = true))
  for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate)
  t.notOk(closed, 'connections may still come back')
  attachment.answered()
  await new Promise(setImmediate)
  t.notOk(closed)
  awaits = false
  attachment.answered()
  await eventually(() => closed, 'closed')
})

void t.test(
  'while draining, a client that is never idle gets a last answer',
  { timeout: LIMIT },
  async (t) => {
    // Its next request was always there when idle connections were looked for: it was cut at the drain deadline.
    const { server } = makeServer()
    const f = await front(t, server)
    const client = await f.dial()
    await ask(client, '/first')
    let behind = true
    f.attachment.drain({
      takes: () => true,
      get behind() {
        return behind
      },
    })
    // Idle ones had to wait for room, which says nothing about this one: some clients of a busy process got `Connection: close`.
    for (let turn = 0; turn < 20; turn++) await ask(client, `/behind/${turn}`)
    behind = false
    for (let turn = 0; turn < 8; turn++) await ask(client, `/next/${turn}`)
    t.notMatch(client.received, /connection: close/i)
    client.get('/last')
    await client.ended()
    t.match(client.received, /connection: close[^]*\/last$/i)
  },
)

void t.test(
  'while draining, one that is given back and cannot leave again ends soon',
  { timeout: LIMIT },
  async (t) => {
    const { server } = makeServer()
    const f = await front(t, server)
    f.attachment.drain()
    const listener = createServer()
    const accepted = once(listener, 'connection')
    const client = await dial(t, await listen(t, listener))
    const [socket] = (await accepted) as [Socket]
    f.attachment.adoptIdle(socket, Number.POSITIVE_INFINITY)
    await client.ended()
    t.equal(client.received, '')
  },
)
