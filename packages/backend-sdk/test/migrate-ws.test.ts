import { once } from 'node:events'
import http, { type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import { type PerMessageDeflateOptions, WebSocket, WebSocketServer } from 'ws'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { below, WsTalker } from '../../../test/support/ws-talker.ts'
import { WebSocketMover, type WebSocketMigration } from '../src/migrate/web-sockets.ts'
import { Side } from './two-sides.ts'

interface State {
  count: number
}

/** A chat of one: echoes each message with its number, and hands the number over. */
class Echo extends Side {
  readonly wss: WebSocketServer
  readonly closed: { code: number; movedOn: boolean | undefined }[] = []
  /** The count of each of its objects. */
  readonly states = new WeakMap<WebSocket, State>()
  readonly sockets: Socket[] = []

  constructor(
    perMessageDeflate: PerMessageDeflateOptions | false = false,
    options: Partial<WebSocketMigration<State>> = {},
    configure: (request: IncomingMessage) => boolean = () => true,
  ) {
    const server = http.createServer()
    super(server)
    this.wss = new WebSocketServer({
      server,
      perMessageDeflate,
      verifyClient: ({ req }: { req: IncomingMessage }) => configure(req),
    })
    this.wss.on('connection', (ws, request) => {
      this.sockets.push(request.socket)
      const state: State = { count: 0 }
      this.states.set(ws, state)
      ws.on('error', () => undefined)
      ws.on('message', (data: Buffer, binary) => {
        state.count += 1
        ws.send(Buffer.concat([Buffer.from(`${state.count} `), data]), { binary })
      })
      ws.on('close', (code) =>
        this.closed.push({ code, movedOn: this.adoption.connection(request.socket)?.movedOn }),
      )
    })
    const migrate: WebSocketMigration<State> = {
      schema: 'echo/1',
      state: (ws) => this.states.get(ws),
      resume: (ws, { count }) => {
        const state = this.states.get(ws)
        if (state !== undefined) state.count = count
      },
      ...options,
    }
    this.migration.movers.add(new WebSocketMover(this.wss, this.migration, migrate))
  }
}

for (const [name, deflate] of [
  ['without compression', false],
  ['with context takeover', { threshold: 0 }],
  ['without context takeover', { threshold: 0, clientNoContextTakeover: true }],
] as const) {
  void t.test(
    `messages at random moments, ${name}: none is lost, doubled or reordered`,
    { timeout: LIMIT },
    async (t) => {
      const sides = [new Echo(deflate), new Echo(deflate)] as const
      const port = await sides[0].listen(t)
      t.teardown(() => sides[1].attachment.destroyAll())
      const talkers = await Promise.all(
        Array.from({ length: 10 }, () => new WsTalker(t, port, deflate !== false).open()),
      )
      let moved = 0
      for (let turn = 0; turn < 400; turn++) {
        const talker = talkers[below(talkers.length)]
        talker?.sayAnything()
        const from = sides[below(2)] as Echo
        if (below(2) === 0) moved += from.moveAll(from === sides[0] ? sides[1] : sides[0])
        await new Promise((resolve) => setImmediate(resolve))
      }
      for (const talker of talkers) await eventually(() => talker.isAnswered, 'all is answered')
      t.same(
        talkers.map(({ problems, closeCode }) => ({ problems, closeCode })),
        talkers.map(() => ({ problems: [], closeCode: undefined })),
      )
      t.ok(moved > 20, `${moved} moves`)
      t.same([...sides[0].logged, ...sides[1].logged], [])
      await eventually(
        () => sides[0].closed.length + sides[1].closed.length === moved,
        'each has closed here',
      )
      t.ok([...sides[0].closed, ...sides[1].closed].every(({ movedOn }) => movedOn === true))
    },
  )
}

void t.test(
  'a connection that has said nothing since it moved is not taken for an idle one',
  { timeout: LIMIT },
  async (t) => {
    // It has no byte that this process has read, like a connection that a browser opens in advance.
    const [one, other] = [new Echo(), new Echo()]
    const talker = await new WsTalker(t, await one.listen(t), false).open()
    t.teardown(() => other.attachment.destroyAll())
    t.equal(one.moveAll(other), 1)
    await eventually(() => other.wss.clients.size === 1, 'it has arrived')
    t.equal(other.attachment.idle().length, 0)
    await eventually(() => other.moveAll(one) === 1, 'it moves on')
    talker.say(10)
    await eventually(() => talker.isAnswered, 'answered')
    t.same(talker.problems, [])
  },
)

void t.test('a send with options and without a callback ends', { timeout: LIMIT }, async (t) => {
  // A callback that was given as undefined was taken for the last option, and the one that counts stood behind it.
  const deflate = { threshold: 0 }
  const side = new Echo(deflate)
  const next = new Echo(deflate)
  const talker = await new WsTalker(t, await side.listen(t), true).open()
  t.teardown(() => next.attachment.destroyAll())
  talker.say(10)
  await eventually(() => talker.isAnswered, 'answered')
  for (const ws of side.wss.clients) {
    const send = ws.send.bind(ws) as (...args: unknown[]) => void
    let called = false
    send('', {}, undefined)
    send('', undefined, undefined)
    send('', () => (called = true))
    await eventually(() => called, 'it calls back')
  }
  await eventually(() => side.moveAll(next) === 1, 'it moves')
})

void t.test('state', { timeout: LIMIT }, async (t) => {
  let state: () => unknown = () => undefined
  const side = new Echo(false, { state: (() => state()) as () => State })
  const next = new Echo()
  const talker = await new WsTalker(t, await side.listen(t), false).open()
  t.teardown(() => next.attachment.destroyAll())
  await eventually(() => side.wss.clients.size === 1, 'it is here')
  t.equal(side.moveAll(next), 0, 'undefined: not now')
  for (const [what, get, code] of [
    [
      'it throws',
      () => {
        throw new Error('a bug')
      },
      'BATON_ERR_STATE_FAILED',
    ],
    ['a promise', () => Promise.reject(new Error('later')), 'BATON_ERR_STATE_INVALID'],
    ['a function', () => () => 1, 'BATON_ERR_STATE_INVALID'],
    ['a bigint', () => 1n, 'BATON_ERR_STATE_INVALID'],
  ] as const) {
    state = get
    t.throws(() => side.moveAll(next), { code }, what)
    talker.say(10)
    await eventually(() => talker.isAnswered, 'it goes on')
  }
  state = () => ({ count: 4 })
  await eventually(() => side.moveAll(next) === 1, 'it moves')
  talker.say(10)
  await eventually(() => talker.isAnswered, 'it goes on there')
  t.same(talker.problems, [])
})

void t.test(
  'resume throws, or rejects, or knows the schema no more: the client is told 1012',
  { timeout: LIMIT },
  async (t) => {
    const side = new Echo()
    const port = await side.listen(t)
    const failing = [
      new Echo(false, {
        resume: () => {
          throw new Error('a bug')
        },
      }),
      new Echo(false, { resume: () => Promise.reject(new Error('later')) }),
      new Echo(false, { accepts: ['echo/2'] }),
    ]
    for (const next of failing) {
      const talker = await new WsTalker(t, port, false).open()
      await eventually(() => side.moveAll(next) === 1, 'it moves')
      talker.say(10)
      await eventually(() => talker.closeCode !== undefined, 'closed')
      t.equal(talker.closeCode, 1012)
      t.equal(next.logged[0]?.error?.code, 'BATON_ERR_RESUME_FAILED')
      t.ok(next.logged[0]?.cause)
      await eventually(() => next.attachment.live === 0, 'nothing is left')
    }
  },
)

void t.test(
  'the next process answers differently: the client is told 1012, and sees none of the answer',
  { timeout: LIMIT },
  async (t) => {
    const side = new Echo()
    const port = await side.listen(t)
    const differing = new Map<Echo, RegExp>([
      [new Echo(false, {}, () => false), /401, not 101/],
      [new Echo({ threshold: 0 }), /fields/],
    ])
    for (const [next, why] of differing) {
      const deflates = why.source === 'fields'
      const talker = await new WsTalker(t, port, deflates).open()
      await eventually(() => side.moveAll(next) === 1, 'it moves')
      await eventually(() => talker.closeCode !== undefined, 'closed')
      t.equal(talker.closeCode, 1012)
      t.same(talker.problems, [])
      t.equal(next.logged[0]?.error?.code, 'BATON_ERR_ANSWER_DIFFERS')
      t.match(next.logged[0]?.error?.message, why)
      await eventually(() => next.attachment.live === 0, 'nothing is left')
    }
  },
)

void t.test('messages wait for a resume that takes time', { timeout: LIMIT }, async (t) => {
  let go!: () => void
  const gate = new Promise<void>((resolve) => (go = resolve))
  const side = new Echo()
  const next: Echo = new Echo(false, {
    resume: async (ws, { count }) => {
      await gate
      const state = next.states.get(ws)
      if (state !== undefined) state.count = count
    },
  })
  const talker = await new WsTalker(t, await side.listen(t), false).open()
  t.teardown(() => next.attachment.destroyAll())
  for (let i = 0; i < 3; i++) talker.say(10)
  await eventually(() => talker.isAnswered, 'answered')
  await eventually(() => side.moveAll(next) === 1, 'it moves')
  talker.say(10)
  await eventually(() => next.wss.clients.size === 1, 'it has arrived')
  t.equal(next.moveAll(side), 0, 'it does not move while it is being resumed')
  t.equal(talker.heard, 3)
  go()
  await eventually(() => talker.isAnswered, 'answered')
  t.same(talker.problems, [])
})

void t.test('the request is replayed as it came', { timeout: LIMIT }, async (t) => {
  const requests: IncomingMessage[] = []
  const note = (request: IncomingMessage) => {
    requests.push(request)
    return true
  }
  const [side, next] = [new Echo(false, {}, note), new Echo(false, {}, note)]
  const port = await side.listen(t)
  t.teardown(() => next.attachment.destroyAll())
  const ws = new WebSocket(`ws://127.0.0.1:${port}/a%20b?x=1`, ['one', 'two'], {
    headers: { Cookie: 'sid=1', 'X-Name': 'caf\u00e9', 'X-Twice': ['1', '2'] },
  })
  t.teardown(() => ws.terminate())
  await once(ws, 'open')
  t.equal(ws.protocol, 'one')
  await eventually(() => side.moveAll(next) === 1, 'it moves')
  await eventually(() => requests.length === 2, 'it was replayed')
  const [before, after] = requests
  t.equal(after?.url, before?.url)
  t.same(after?.rawHeaders, before?.rawHeaders)
})

/** Bytes of a client's frame, masked with zeros. */
function frameOf(text: string): Buffer {
  return Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)])
}

/** Those that nothing catches from here on. */
function exceptions(t: Test): Error[] {
  const found: Error[] = []
  process.setUncaughtExceptionCaptureCallback((error) => void found.push(error))
  t.teardown(() => process.setUncaughtExceptionCaptureCallback(null))
  return found
}

/** Writes around the client's own framing. */
function rawOf({ ws }: WsTalker): Socket {
  return Reflect.get(ws, '_socket') as Socket
}

void t.test(
  'a listener of the app that throws while a connection leaves: what was read goes along',
  { timeout: LIMIT },
  async (t) => {
    // The half of a frame that had been read was lost, and the next process took the other half for the beginning of one.
    const thrown = exceptions(t)
    for (const event of ['pause', 'removeListener'] as const) {
      const [side, next] = [new Echo(), new Echo()]
      const talker = await new WsTalker(t, await side.listen(t), false).open()
      t.teardown(() => next.attachment.destroyAll())
      const answers: string[] = []
      talker.ws.removeAllListeners('message')
      talker.ws.on('message', (data: Buffer) => void answers.push(data.toString()))
      await eventually(() => side.sockets.length === 1, 'it is here')
      const socket = side.sockets[0] as Socket
      const frame = frameOf('whole')
      const { bytesRead } = socket
      rawOf(talker).write(frame.subarray(0, 8))
      await eventually(() => socket.bytesRead === bytesRead + 8, 'half of it is read')
      socket.on(event, () => {
        throw new Error(`in ${event}`)
      })
      t.equal(side.moveAll(next), 1)
      await eventually(() => thrown.length > 0, 'it is thrown')
      t.ok(thrown.splice(0).every(({ message }) => message === `in ${event}`))
      rawOf(talker).write(frame.subarray(8))
      await eventually(() => answers.length > 0 || talker.closeCode !== undefined, 'answered')
      t.same(answers, ['1 whole'])
    }
  },
)

void t.test(
  'an app that reads, pauses and resumes before it has resumed: bytes stay in order',
  { timeout: LIMIT },
  async (t) => {
    // `ws.resume()` in a `connection` listener let new bytes in, in front of those that had come along.
    const calls: ((ws: WebSocket, socket: Socket) => void)[] = [
      (ws) => ws.resume(),
      (ws) => {
        ws.pause()
        setImmediate(() => ws.resume())
      },
      (_ws, socket) => void socket.resume(),
      (_ws, socket) => void socket.read(),
      (_ws, socket) => void socket.on('data', () => undefined),
      (_ws, socket) => void setImmediate(() => socket.resume().pause().resume().read()),
    ]
    for (const [index, call] of calls.entries()) {
      let go!: () => void
      const gate = new Promise<void>((resolve) => (go = resolve))
      const side = new Echo()
      const next: Echo = new Echo(false, {
        resume: async (ws, { count }) => {
          await gate
          const state = next.states.get(ws)
          if (state !== undefined) state.count = count
        },
      })
      next.wss.on('connection', (ws, request) => call(ws, request.socket))
      const talker = await new WsTalker(t, await side.listen(t), false).open()
      t.teardown(() => next.attachment.destroyAll())
      const answers: string[] = []
      talker.ws.removeAllListeners('message')
      talker.ws.on('message', (data: Buffer) => void answers.push(data.toString()))
      talker.ws.send('first')
      await eventually(() => answers.length === 1, 'answered')
      const socket = side.sockets[0] as Socket
      const { bytesRead } = socket
      const frame = frameOf('second')
      rawOf(talker).write(frame.subarray(0, 8))
      await eventually(() => socket.bytesRead === bytesRead + 8, 'half of it is read')
      t.equal(side.moveAll(next), 1)
      rawOf(talker).write(Buffer.concat([frame.subarray(8), frameOf('third')]))
      await eventually(() => next.wss.clients.size === 1, 'it has arrived')
      for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
      t.same(answers, ['1 first'], `${index}: nothing is read before`)
      go()
      await eventually(() => answers.length === 3 || talker.closeCode !== undefined, 'answered')
      t.same(answers, ['1 first', '2 second', '3 third'], `${index}`)
    }
  },
)
