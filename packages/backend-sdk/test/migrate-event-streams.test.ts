import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import net, { type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { below } from '../../../test/support/ws-talker.ts'
import { migrateEventStreams } from '../src/event-streams.ts'
import { createBackend } from '../src/index.ts'
import { type EventStreamMigration, EventStreamMover } from '../src/migrate/event-streams.ts'
import { Side } from './two-sides.ts'

interface State {
  count: number
}

type Handle = (request: IncomingMessage, response: ServerResponse, side: Feed) => void

/** Streams of numbers: the number is handed over. A handler may answer otherwise. */
class Feed extends Side {
  readonly counts = new WeakMap<ServerResponse, State>()
  readonly open: ServerResponse[] = []
  readonly requests: IncomingMessage[] = []
  readonly closed: (boolean | undefined)[] = []

  constructor(options: Partial<EventStreamMigration<State>> = {}, handle: Handle = stream) {
    const server = http.createServer()
    super(server)
    const mover = new EventStreamMover<State>(server, this.migration, {
      schema: 'feed/1',
      state: (response) => this.counts.get(response),
      resume: (response, { count }) => void this.counts.set(response, { count }),
      ...options,
    })
    this.migration.movers.add(mover)
    server.on('request', (request, response) => {
      this.requests.push(request)
      response.on('close', () => this.closed.push(this.adoption.connection(request.socket)?.movedOn))
      handle(request, response, this)
    })
  }

  /** The next number, to all. */
  tell(): void {
    for (const response of this.open) {
      const state = this.counts.get(response)
      if (state === undefined || response.writableEnded || response.destroyed) continue
      state.count += 1
      response.write(`${state.count}\n`)
    }
  }
}

/** Numbers from 1; those of a client that is not new are told by `resume`. */
function stream(request: IncomingMessage, response: ServerResponse, side: Feed, more = {}): void {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', ...more })
  side.open.push(response)
  if (side.adoption.connection(request.socket)?.resumed !== undefined) return
  side.counts.set(response, { count: 0 })
  response.flushHeaders()
}

/** Sends bytes, and keeps what comes. */
class RawClient {
  readonly socket: Socket
  received = ''
  ended = false

  constructor(t: Test, port: number, ...parts: string[]) {
    this.socket = net.connect(port, '127.0.0.1').setNoDelay(true)
    this.socket.on('data', (chunk) => (this.received += chunk.toString('latin1')))
    this.socket.on('end', () => (this.ended = true))
    this.socket.on('error', () => (this.ended = true))
    t.teardown(() => this.socket.destroy())
    for (const part of parts) this.socket.write(part)
  }

  /** Resolves when all of this has come. */
  async has(text: string): Promise<void> {
    await eventually(
      () => this.received.includes(text),
      () => this.received,
    )
  }

  /** The numbers in the chunks of the last answer. */
  get numbers(): number[] {
    return [...this.received.matchAll(/\r\n(\d+)\n\r\n/g)].map(([, number]) => Number(number))
  }
}

const GET = 'GET /feed?room=1 HTTP/1.1\r\nHost: x\r\nCookie: sid=1\r\nX-Name: caf\u00e9\r\n\r\n'

/** Two sides, and a client whose stream has begun. */
async function begun(t: Test, handle?: Handle, ...parts: string[]): Promise<[Feed, Feed, RawClient]> {
  const side = new Feed({}, handle)
  const next = new Feed({}, handle)
  t.teardown(() => next.attachment.destroyAll())
  const client = new RawClient(t, await side.listen(t), ...(parts.length > 0 ? parts : [GET]))
  await client.has('\r\n\r\n')
  return [side, next, client]
}

t.setTimeout(LIMIT)

void t.test('moves at random moments: no number is lost, doubled or reordered', async (t) => {
  const sides = [new Feed(), new Feed()] as const
  const port = await sides[0].listen(t)
  t.teardown(() => sides[1].attachment.destroyAll())
  const clients = Array.from({ length: 10 }, () => new RawClient(t, port, GET))
  for (const client of clients) await client.has('\r\n\r\n')
  let moved = 0
  for (let turn = 0; turn < 300; turn++) {
    for (const side of sides) side.tell()
    if (below(3) > 0) await new Promise((resolve) => setImmediate(resolve))
    const from = sides[below(2)] as Feed
    moved += from.moveAll(from === sides[0] ? sides[1] : sides[0])
  }
  await eventually(() => {
    for (const side of sides) side.tell()
    return clients.every(({ numbers }) => numbers.length > 100)
  }, 'they go on')
  for (const { numbers, ended, received } of clients) {
    t.same(
      numbers,
      numbers.map((_, index) => index + 1),
    )
    t.equal(received.match(/HTTP\/1\.1/g)?.length, 1, 'one head')
    t.notOk(ended)
  }
  t.ok(moved > 20, `${moved} moves`)
  t.same([...sides[0].logged, ...sides[1].logged], [])
  await eventually(() => sides[0].closed.length + sides[1].closed.length === moved, 'each has closed here')
  t.ok([...sides[0].closed, ...sides[1].closed].every((movedOn) => movedOn === true))
})

void t.test(
  'the request is read again as it came, and the connection is an ordinary one afterwards',
  async (t) => {
    const [side, next, client] = await begun(t)
    side.tell()
    await eventually(() => side.moveAll(next) === 1, 'it moves')
    await eventually(() => next.requests.length === 1, 'it is asked')
    const [[before], [after]] = [side.requests, next.requests]
    t.same([after?.method, after?.url, after?.rawHeaders], [before?.method, before?.url, before?.rawHeaders])
    const socket = after?.socket as Socket
    t.same(next.adoption.connection(socket)?.resumed, { schema: 'feed/1', state: { count: 1 } })
    next.tell()
    await client.has('2\n')
    next.open[0]?.end()
    await client.has('0\r\n\r\n')
    t.notOk(client.ended)
    await eventually(() => next.attachment.idle().length === 1, 'it is idle')
    client.received = ''
    client.socket.write(GET)
    await client.has('\r\n\r\n')
    t.equal(next.adoption.connection(socket)?.resumed, undefined, 'a new client')
    next.tell()
    await eventually(() => next.moveAll(side) === 1, 'that one moves too')
    await eventually(() => side.requests.length === 2, 'it is asked')
    side.tell()
    await client.has('2\n')
    t.same(client.numbers, [1, 2])
  },
)

void t.test('an answer that ends with the connection moves, and ends with it', async (t) => {
  const [side, next, client] = await begun(t, undefined, 'GET / HTTP/1.0\r\n\r\n')
  side.tell()
  await eventually(() => side.moveAll(next) === 1, 'it moves')
  await eventually(() => next.open.length === 1, 'it is asked')
  next.tell()
  await client.has('1\n2\n')
  next.open[0]?.end('over')
  await eventually(() => client.ended, 'ended')
  t.match(client.received, /\r\n\r\n1\n2\nover$/)
})

void t.test('what cannot go on elsewhere stays', async (t) => {
  const cases: Record<string, { handle?: Handle; parts?: string[] }> = {
    'with a length': { handle: (...args) => stream(...args, { 'Content-Length': 1000 }) },
    compressed: { handle: (...args) => stream(...args, { 'Content-Encoding': 'gzip' }) },
    'a part of the next request was read': { parts: [`${GET}G`] },
    'the next request was read': { parts: [GET + GET] },
    'a request with a body': {
      parts: ['POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab'],
    },
    'a body that is not read whole': {
      parts: ['POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n'],
    },
    'with Expect': { parts: ['GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n'] },
  }
  for (const [name, { handle, parts = [] }] of Object.entries(cases)) {
    const [side, next, client] = await begun(t, handle, ...parts)
    await eventually(() => side.open.length > 0 && side.open[0]?.writableLength === 0, 'begun')
    t.equal(side.moveAll(next), 0, name)
    side.tell()
    await client.has('1\n')
    t.equal(side.moveAll(next), 0, name)
  }
})

void t.test('what is not sent yet leaves when it is', async (t) => {
  const [side, next, client] = await begun(t)
  const [response] = side.open
  side.tell()
  t.equal(side.moveAll(next), 0, 'written in this tick')
  await client.has('1\n')
  response?.cork()
  side.tell()
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(side.moveAll(next), 0, 'corked')
  response?.uncork()
  await eventually(() => side.moveAll(next) === 1, 'it moves')
  await eventually(() => next.open.length === 1, 'it is asked')
  next.tell()
  await client.has('3\n')
  t.same(client.numbers, [1, 2, 3])
})

void t.test('a head that is written, and held back by Node, is compared all the same', async (t) => {
  // `resume` waited for it, and the app, which has a greeting for new clients only, for `resume`.
  const [side, next, client] = await begun(t)
  await eventually(() => side.moveAll(next) === 1, 'it moves')
  await eventually(() => next.counts.get(next.open[0] as ServerResponse) !== undefined, 'resumed')
  next.tell()
  await client.has('1\n')
})

void t.test('the next request waits until the answer was taken up', async (t) => {
  let go!: () => void
  const gate = new Promise<void>((resolve) => (go = resolve))
  const side = new Feed()
  const next: Feed = new Feed({
    resume: async (response, { count }) => {
      await gate
      next.counts.set(response, { count })
    },
  })
  t.teardown(() => next.attachment.destroyAll())
  const client = new RawClient(t, await side.listen(t), GET)
  await client.has('\r\n\r\n')
  await eventually(() => side.moveAll(next) === 1, 'it moves')
  await eventually(() => next.open.length === 1, 'it is asked')
  client.socket.write(GET)
  t.equal(next.moveAll(side), 0, 'it does not move meanwhile')
  go()
  await eventually(() => next.requests.length === 2, 'the next request')
  next.tell()
  await client.has('1\n')
  t.equal(next.moveAll(side), 0, 'the next request waits behind it')
  next.open[0]?.end()
  await client.has('0\r\n\r\nHTTP/1.1 200')
})

void t.test('state', async (t) => {
  let state: () => unknown = () => undefined
  const side = new Feed({ state: (() => state()) as () => State })
  const next = new Feed()
  t.teardown(() => next.attachment.destroyAll())
  const client = new RawClient(t, await side.listen(t), GET)
  await client.has('\r\n\r\n')
  t.equal(side.moveAll(next), 0, 'undefined: not now')
  for (const [get, code] of [
    [
      () => {
        throw new Error('a bug')
      },
      'BATON_ERR_STATE_FAILED',
    ],
    [() => Promise.reject(new Error('later')), 'BATON_ERR_STATE_INVALID'],
    [() => 1n, 'BATON_ERR_STATE_INVALID'],
  ] as const) {
    state = get
    t.throws(() => side.moveAll(next), { code })
  }
  state = () => {
    side.tell()
    return { count: 1 }
  }
  t.equal(side.moveAll(next), 0, 'it has written')
  await client.has('1\n')
})

void t.test('it cannot be resumed: the connection ends, and the client has seen nothing else', async (t) => {
  const side = new Feed()
  const port = await side.listen(t)
  const failing = new Map<Feed, string>([
    [
      new Feed({
        resume: () => {
          throw new Error('a bug')
        },
      }),
      'BATON_ERR_RESUME_FAILED',
    ],
    [new Feed({ resume: () => Promise.reject(new Error('later')) }), 'BATON_ERR_RESUME_FAILED'],
    [new Feed({ accepts: ['feed/2'] }), 'BATON_ERR_RESUME_FAILED'],
    [
      new Feed({}, (_request, response) => void response.writeHead(401).end('no')),
      'BATON_ERR_ANSWER_DIFFERS',
    ],
    [new Feed({}, (_request, response) => void response.end('short')), 'BATON_ERR_ANSWER_DIFFERS'],
    [new Feed({}, (...args) => stream(...args, { 'Content-Encoding': 'br' })), 'BATON_ERR_ANSWER_DIFFERS'],
  ])
  for (const [next, code] of failing) {
    const client = new RawClient(t, port, GET)
    await client.has('\r\n\r\n')
    const { received } = client
    await eventually(() => side.moveAll(next) === 1, 'it moves')
    await eventually(() => client.ended, 'ended')
    t.equal(client.received, received)
    t.equal(next.logged[0]?.error?.code, code)
    await eventually(() => next.attachment.live === 0, 'nothing is left')
  }
})

void t.test('what another process may have sent with it', async (t) => {
  const side = new Feed()
  for (const [head, code] of [
    ['no request\r\n\r\n', 'BATON_ERR_ANSWER_DIFFERS'],
    [GET + GET, undefined],
  ] as const) {
    const next = new Feed()
    const client = new RawClient(t, await side.listen(t), GET)
    await client.has('\r\n\r\n')
    const [socket] = side.mover.connections()
    const packed = socket && side.mover.pack(socket)
    const departure = packed && side.adoption.departure(socket, 0, packed.block)
    if (departure?.resumed === undefined) throw new Error('it does not move')
    side.adoption.letGo(socket as Socket, packed)
    const resumed = { ...departure.resumed, requestHead: Buffer.from(head, 'latin1') }
    next.adoption.adoptAgain(next.attachment, { ...departure, resumed }, false)
    if (code === undefined) {
      // Two requests: the first is the one that was answered.
      await eventually(() => next.counts.has(next.open[0] as ServerResponse), 'resumed')
      next.tell()
      await client.has('1\n')
      next.attachment.destroyAll()
    } else {
      await eventually(() => client.ended, 'ended')
      t.equal(next.logged[0]?.error?.code, code)
    }
    await eventually(() => next.attachment.live === 0, 'nothing is left')
  }
})

void t.test('options', (t) => {
  const backend = createBackend({ service: 'web', logger: false })
  const options = { schema: 'feed/1', state: () => 1, resume: () => undefined }
  const invalid = { code: 'BATON_ERR_INVALID_OPTION' }
  t.throws(() => migrateEventStreams(http.createServer(), {} as typeof backend, options), invalid)
  t.throws(() => migrateEventStreams(net.createServer() as http.Server, backend, options), invalid)
  t.throws(() => migrateEventStreams(http.createServer(), backend, { ...options, schema: '' }), invalid)
  const server = http.createServer()
  migrateEventStreams(server, backend, options)
  t.throws(() => migrateEventStreams(server, backend, options), invalid, 'twice')
  t.end()
})
