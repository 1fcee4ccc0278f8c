import { once } from 'node:events'
import http, { type ServerResponse } from 'node:http'
import net from 'node:net'
import t, { type Test } from 'tap'
import { attachServer } from '../src/attach/index.ts'
import { type Client, dial, front, listen } from './attach-front.ts'
import { LIMIT } from '../../../test/support/limits.ts'

type Note = (line: string) => void
type Story<S> = (server: S, dial: () => Promise<Client>, note: Note) => Promise<void>

/** Runs one story on a listening server and on an attached one: the observations must be the same. */
async function asListening<S extends net.Server>(t: Test, make: () => S, story: Story<S>): Promise<string[]> {
  const listening: string[] = []
  const server = make()
  const port = await listen(t, server)
  await story(
    server,
    () => dial(t, port),
    (line) => listening.push(line),
  )
  const attached: string[] = []
  const other = make()
  const f = await front(t, other)
  await story(
    other,
    () => f.dial(),
    (line) => attached.push(line),
  )
  t.same(attached, listening)
  return attached
}

function count(server: net.Server): Promise<number> {
  return new Promise((resolve, reject) =>
    server.getConnections((error, n) => (error ? reject(error) : resolve(n))),
  )
}

function close(server: net.Server): Promise<string> {
  return new Promise((resolve) =>
    server.close((error) => resolve(error === undefined ? 'ok' : String(Reflect.get(error, 'code')))),
  )
}

/** `/held` waits for the test's answer; everything else is answered immediately. */
function holding(): { server: http.Server; held: ServerResponse[] } {
  const held: ServerResponse[] = []
  const server = http.createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    if (request.url === '/held') held.push(response)
    else response.end('ok')
  })
  return { server, held }
}

void t.test(
  'close() waits for requests, closes idle connections and counts them',
  { timeout: LIMIT },
  async (t) => {
    const responses = new WeakMap<http.Server, ServerResponse[]>()
    const make = () => {
      const { server, held } = holding()
      responses.set(server, held)
      return server
    }
    const seen = await asListening(t, make, async (server, dial, note) => {
      server.on('close', () => note('close event'))
      const idle = await dial()
      idle.get('/')
      await idle.until(/ok$/)
      const busy = await dial()
      const arrived = once(server, 'request')
      busy.get('/held', '1.1', 'Connection: close\r\n')
      await arrived
      note(`listening ${server.listening}, ${await count(server)} connections`)
      const closed = close(server)
      note(`listening ${server.listening}`)
      await idle.ended()
      note(`idle one closed, ${await count(server)} left`)
      const again = close(server)
      responses.get(server)?.[0]?.end('held')
      note((await busy.ended()).slice(-4))
      note(`close ${await closed}, close again ${await again}, and again ${await close(server)}`)
    })
    t.same(
      new Set(seen),
      new Set([
        'listening true, 2 connections',
        'listening false',
        'idle one closed, 1 left',
        'held',
        'close event',
        'close ok, close again ERR_SERVER_NOT_RUNNING, and again ERR_SERVER_NOT_RUNNING',
      ]),
    )
  },
)

void t.test('close() without a callback, and without any connection', { timeout: LIMIT }, async (t) => {
  const seen = await asListening(
    t,
    () => net.createServer(),
    async (server, _dial, note) => {
      const event = once(server, 'close')
      note(String(server.close() === server))
      await event
      note(`listening ${server.listening}, ${JSON.stringify(server.address())}`)
    },
  )
  t.same(seen, ['true', 'listening false, null'])
})

void t.test(
  'a net server closes when its last connection has ended, not before',
  { timeout: LIMIT },
  async (t) => {
    const seen = await asListening(
      t,
      () => net.createServer((socket) => socket.pipe(socket)),
      async (server, dial, note) => {
        const client = await dial()
        client.write('one')
        await client.until(/one/)
        let over = false
        const closed = close(server).then((result) => {
          over = true
          note(result)
        })
        client.write('two')
        await client.until(/two/)
        note(`still open: ${!over}`)
        client.socket.end()
        await closed
      },
    )
    t.same(seen, ['still open: true', 'ok'])
  },
)

void t.test(
  'closeIdleConnections() and closeAllConnections() reach adopted connections',
  { timeout: LIMIT },
  async (t) => {
    const seen = await asListening(
      t,
      () => holding().server,
      async (server, dial, note) => {
        const idle = await dial()
        idle.get('/')
        await idle.until(/ok$/)
        const busy = await dial()
        const arrived = once(server, 'request')
        busy.get('/held')
        await arrived
        server.closeIdleConnections()
        await idle.ended()
        note(`busy one closed: ${busy.socket.closed}`)
        server.closeAllConnections()
        note(JSON.stringify(await busy.ended()))
      },
    )
    t.same(seen, ['busy one closed: false', '""'])
  },
)

void t.test('the owner is notified once, whichever way the app closes', { timeout: LIMIT }, async (t) => {
  const { server } = holding()
  const f = await front(t, server)
  const client = await f.dial()
  client.get('/')
  await client.until(/ok$/)
  t.equal(f.closes(), 0)
  await server[Symbol.asyncDispose]()
  t.equal(f.attachment.live, 0, 'disposal waited for the connections')
  t.equal(f.closes(), 1)
  await close(server)
  t.equal(f.closes(), 1)
})

void t.test(
  'Symbol.asyncDispose of a net server waits for adopted connections',
  { timeout: LIMIT },
  async (t) => {
    const server = net.createServer((socket) => socket.resume())
    const f = await front(t, server)
    const client = await f.dial()
    const disposed = server[Symbol.asyncDispose]().then(() => f.attachment.live)
    client.socket.end()
    t.equal(await disposed, 0)
    t.equal(f.closes(), 1)
  },
)

void t.test('a server that also listens closes both', { timeout: LIMIT }, async (t) => {
  const { server, held } = holding()
  const port = await listen(t, server)
  const f = await front(t, server)
  t.equal(f.attachment.address, undefined)
  t.equal((server.address() as net.AddressInfo).port, port, 'it keeps its own address')

  const [adopted, own] = [await f.dial(), await dial(t, port)]
  adopted.get('/held')
  await once(server, 'request')
  own.get('/held')
  await once(server, 'request')
  t.equal(await count(server), 2)
  t.equal(f.attachment.live, 1, 'its own connections are not the broker’s')

  let events = 0
  server.on('close', () => (events += 1))
  const closed = close(server)
  const late = net.connect(port, '127.0.0.1')
  const [refused] = (await once(late, 'error')) as [NodeJS.ErrnoException]
  t.equal(refused.code, 'ECONNREFUSED', 'the listening socket closed at once')
  held[1]?.setHeader('Connection', 'close').end('own')
  await own.ended()
  // Node's own part has closed; its close event would be emitted within one turn of the loop.
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(events, 0, 'the adopted connection is waited for')
  held[0]?.setHeader('Connection', 'close').end('adopted')
  t.equal(await closed, 'ok')
  t.equal(events, 1)
  t.match(await adopted.ended(), /adopted$/)
})

void t.test('a server can listen again after close(), and be closed again', { timeout: LIMIT }, async (t) => {
  const { server } = holding()
  const f = await front(t, server)
  t.equal(await close(server), 'ok')
  await listen(t, server)
  t.equal(server.listening, true)
  t.equal(await close(server), 'ok')
  t.equal(await close(server), 'ERR_SERVER_NOT_RUNNING')
  t.equal(f.closes(), 1, 'the owner has let go since')
})

void t.test('detach() gives the instance its own members back', { timeout: LIMIT }, async (t) => {
  const { server } = holding()
  const own = Object.getOwnPropertyNames(server)
  const f = await front(t, server)
  const client = await f.dial()
  client.get('/')
  await client.until(/ok$/)
  t.not(Reflect.get(server, 'close'), Reflect.get(http.Server.prototype, 'close'))
  f.attachment.address = { address: '192.0.2.1', family: 'IPv4', port: 80 }
  t.same(server.address(), { address: '192.0.2.1', family: 'IPv4', port: 80 })
  f.attachment.detach()
  t.same(Object.getOwnPropertyNames(server), own)
  t.equal(Reflect.get(server, 'close'), Reflect.get(http.Server.prototype, 'close'))
  t.equal(server.listening, false)
  t.equal(server.address(), null)
  client.get('/')
  await client.until(/ok[^]*ok$/)
  t.equal(f.attachment.live, 1, 'adopted connections live on, and are counted')
  const port = await listen(t, server)
  const fresh = await dial(t, port)
  fresh.get('/')
  await fresh.until(/ok$/)
  t.equal(await count(server), 1, 'only its own')
})

void t.test('another wrapper on top of ours stays, and ours becomes a pass-through', async (t) => {
  const server = http.createServer()
  const attachment = attachServer(server, { onServerClose: () => t.fail('detached') })
  const ours = server.close.bind(server)
  let calls = 0
  const theirs: typeof server.close = (callback) => {
    calls += 1
    return ours(callback)
  }
  server.close = theirs
  attachment.detach()
  t.equal(Reflect.get(server, 'close'), theirs)
  t.equal(await close(server), 'ERR_SERVER_NOT_RUNNING')
  t.equal(calls, 1)
})

void t.test('a close() of the instance itself is kept below ours', async (t) => {
  const server = http.createServer()
  const calls: string[] = []
  const native = server.close.bind(server)
  const wrapped: typeof server.close = (callback) => {
    calls.push('app')
    return native(callback)
  }
  server.close = wrapped
  const attachment = attachServer(server, { onServerClose: () => calls.push('owner') })
  t.equal(await close(server), 'ok')
  t.same(calls, ['owner', 'app'])
  attachment.detach()
  t.equal(Reflect.get(server, 'close'), wrapped)
})
