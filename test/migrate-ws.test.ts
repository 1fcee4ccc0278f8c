import { once } from 'node:events'
import net from 'node:net'
import { dup, type OwnedFd } from '@baton/native-sendmsg'
import type { HandBack, Offer } from '@baton/backend-sdk/protocol'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker, unaccounted } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { FalseBroker, type Registered } from './support/false-broker.ts'
import { LIMIT } from './support/limits.ts'
import { WebSocket } from 'ws'
import { Program, root } from './support/process.ts'
import { LineClient } from './support/line-client.ts'
import { PATIENT } from './support/service.ts'
import { below, WsTalker } from './support/ws-talker.ts'

// A WebSocket outlives the process that served it: its backend hands it back with the app's state, and another backend resumes it.

const PROGRAM = 'ws-backend.mjs'

/** test/slow/migrate-ws.test.ts, which CI runs, makes more of them. */
const DEPLOYS = Number(process.env['DEPLOYS'] ?? 5)
const TALKERS = 50

/** Longer than any test takes: nothing is cut at the deadline. */
const NEVER = { DRAIN_DEADLINE: '1h' }

/** Keeps talking at random moments until `stop`; resolves once everything is answered. */
function talkOn(talkers: readonly WsTalker[]): () => Promise<void> {
  const timer = setInterval(() => talkers[below(talkers.length)]?.sayAnything(), 2)
  return async () => {
    clearInterval(timer)
    for (const talker of talkers)
      await eventually(
        () => talker.isAnswered || talker.closeCode !== undefined,
        () => `${talker.sent} sent, ${talker.heard} answered`,
      )
  }
}

void t.test('one broker, and backends that move WebSockets', { timeout: DEPLOYS * LIMIT }, async (whole) => {
  const listen = '127.0.0.1:0'
  const broker = await startBroker(whole, {
    config: {
      listeners: [
        { name: 'web', listen, protocol: 'http', service: 'web' },
        { name: 'lines', listen, protocol: 'tcp', service: 'lines' },
      ],
      // An ACK that is late would make a relay, which does not move.
      services: { web: PATIENT, lines: PATIENT },
    },
  })
  const port = broker.port()
  /** Lives until it is drained, or all scenes are over. */
  const start = (env: NodeJS.ProcessEnv = {}) =>
    startBackend(whole, broker, PROGRAM, { env: { ...NEVER, ...env } })
  let current = await start()

  await whole.test(
    'deploys under traffic: nothing is lost, doubled or reordered, and no client reconnects',
    async (t) => {
      const talkers = await Promise.all(
        Array.from({ length: TALKERS }, (_, index) => new WsTalker(t, port, index % 2 === 0).open()),
      )
      const stop = talkOn(talkers)
      for (let deploy = 0; deploy < DEPLOYS; deploy++) {
        const next = await start()
        await broker.backends(2)
        current.kill('SIGTERM')
        const { code } = await current.exited
        t.equal(code, 0)
        const closed = current.messages().filter(({ msg }) => msg === 'closed')
        t.ok(
          closed.every(({ movedOn }) => movedOn === true),
          'all have moved',
        )
        current = next
      }
      await stop()
      t.same(
        talkers.map(({ problems, closeCode }) => ({ problems, closeCode })),
        talkers.map(() => ({ problems: [], closeCode: undefined })),
      )
      t.comment(`${talkers.reduce((sum, { sent }) => sum + sent, 0)} messages`)
      // Some have moved twice: as soon as a backend is ready, the broker wants the connections spread evenly.
      // A client may have its answer before the broker has read the ACK.
      const resumed = () => broker.metric('baton_connections_resumed_total{service="web",kind="replay"}')
      await eventually(async () => (await resumed()) >= DEPLOYS * TALKERS, 'each move is counted')
      for (const { ws } of talkers) ws.close()
      const status = await broker.until(({ services }) => services[0]?.inFlight === 0, 'at rest')
      t.equal(unaccounted(status), 0)
    },
  )

  await whole.test(
    'a resume that throws, or an answer that differs: the client is told to reconnect',
    async (t) => {
      const failing = await new WsTalker(t, port, false, '/resume-throws').open()
      const refused = await new WsTalker(t, port, false, '/refused').open()
      const next = await start()
      await broker.backends(2)
      current.kill('SIGTERM')
      await current.exited
      for (const talker of [failing, refused]) {
        await eventually(() => talker.closeCode !== undefined, 'closed')
        t.equal(talker.closeCode, 1012)
      }
      await next.line((line) => line.includes('could not be resumed'), 'the failed resume')
      await next.line((line) => line.includes('answers the request'), 'the answer that differs')
      current = next
    },
  )

  await whole.test('a schema that no backend takes stays until the drain deadline', async (t) => {
    const talker = await new WsTalker(t, port).open()
    const next = await start({ SCHEMA: 'echo/2' })
    await broker.backends(2)
    current.kill('SIGTERM')
    await current.message('draining')
    for (let turn = 0; turn < 10; turn++) {
      talker.say(20)
      await eventually(() => talker.isAnswered, 'it is served where it was')
    }
    t.same(
      next.messages().filter(({ msg }) => msg === 'resumed'),
      [],
    )
    t.same(talker.problems, [])
    talker.ws.close()
    await current.exited
    current = next
  })

  await whole.test('a successor that is killed before its ACK: the next one resumes', async (t) => {
    const first = await start({ SCHEMA: 'echo/2' })
    const talkers = await Promise.all(Array.from({ length: 20 }, () => new WsTalker(t, port).open()))
    const stop = talkOn(talkers)
    // Stopped: it reads no OFFER, so it sends no ACK.
    const victim = await start({ SCHEMA: 'echo/2' })
    await broker.backends(3)
    victim.kill('SIGSTOP')
    current.kill('SIGTERM')
    await current.message('draining')
    victim.kill('SIGKILL')
    await victim.exited
    await current.exited
    await stop()
    t.same(
      talkers.map(({ problems, closeCode }) => ({ problems, closeCode })),
      talkers.map(() => ({ problems: [], closeCode: undefined })),
    )
    for (const { ws } of talkers) ws.close()
    current = first
  })

  await whole.test('plain TCP: lines that are cut anywhere go on in the next process', async (t) => {
    const startLines = () =>
      startBackend(whole, broker, 'lines-backend.mjs', { service: 'lines', env: NEVER })
    let serving = await startLines()
    await broker.backends(1, 'lines')
    const clients = Array.from({ length: 10 }, () => new LineClient(t, broker.port('lines')))
    const timer = setInterval(() => clients[below(clients.length)]?.sayAnything(), 2)
    for (let deploy = 0; deploy < 3; deploy++) {
      const next = await startLines()
      await broker.backends(2, 'lines')
      serving.kill('SIGTERM')
      await serving.exited
      serving = next
    }
    clearInterval(timer)
    for (const client of clients) {
      client.finish()
      await eventually(() => client.received.length >= client.expected.length, 'all is answered')
      t.equal(client.received, client.expected)
      t.notOk(client.ended)
    }
    const resumed = () => broker.metric('baton_connections_resumed_total{service="lines",kind="raw"}')
    await eventually(async () => (await resumed()) >= 30, '30 moves are counted')
  })
})

/** `test/programs/ws-backend.mjs`, registered with a broker of the test. */
async function scripted(
  t: Test,
  broker: FalseBroker,
  env: NodeJS.ProcessEnv = {},
): Promise<{ app: Program; peer: Registered }> {
  const app = new Program(t, process.execPath, [`${root}/test/programs/${PROGRAM}`], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', ...env },
  })
  const peer = await broker.registered({ takesBack: { handBackWindow: 16, parkAfter: null } })
  await app.message('ready')
  return { app, peer }
}

/** A port whose connections the test offers to a backend. */
async function front(t: Test, peer: Registered): Promise<{ port: number; offers: Offer[] }> {
  const offers: Offer[] = []
  const server = net.createServer({ pauseOnConnect: true }, (socket) => {
    const copy = dup((Reflect.get(socket, '_handle') as { fd: number }).fd)
    socket.destroy()
    const offer = peer.offer()
    peer.post(offer.token, copy.fd)
    copy.close()
    peer.ring(offer)
    offers.push(offer)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { port: (server.address() as net.AddressInfo).port, offers }
}

/** Offers what was handed back to another backend. */
function offerOn(
  peer: Registered,
  entry: HandBack,
  fd: OwnedFd,
  over: Partial<Offer['resumed'] & object> = {},
): Offer {
  const { connection, listener, meta, kind, schema, prefix, requestHead, answerHead, state } = entry
  if (kind === 'idle') throw new Error('an idle connection')
  const resumed = { kind, schema, prefix, requestHead, answerHead, state, ...over }
  const offer = peer.offer({ kind: 'resumed', connection, listener, meta, resumed })
  peer.post(offer.token, fd.fd)
  fd.close()
  peer.ring(offer)
  return offer
}

function taken(peer: Registered, { sequence }: HandBack): void {
  peer.wire.write({ type: 'taken', sequences: [sequence] })
}

void t.test('a backend of WebSockets and a scripted broker', { timeout: LIMIT }, async (t) => {
  await t.test('what a WebSocket is handed back with is enough for another process', async (t) => {
    const broker = new FalseBroker(t)
    const giver = await scripted(t, broker)
    const next = await scripted(t, broker, { SCHEMA: 'echo/2', ACCEPTS: 'echo/1,echo/2' })
    t.same((await giver.peer.wire.frame('resumes')).schemas, ['echo/1'])
    t.same((await next.peer.wire.frame('resumes')).schemas, ['echo/1', 'echo/2'])
    const { port, offers } = await front(t, giver.peer)
    const talker = await new WsTalker(t, port).open()
    talker.say(20)
    await eventually(() => talker.isAnswered, 'answered')
    giver.app.say('drain')
    const [entry] = await giver.peer.handedBack(1)
    if (entry === undefined) throw new Error('none')
    t.match(entry, { kind: 'replay', schema: 'echo/1', keepAlive: 0, connection: offers[0]?.connection })
    t.equal(entry.state.toString(), '{"count":1}')
    t.match(
      entry.requestHead.toString(),
      /^GET \/chat\?room=1 HTTP\/1.1\r\n[^]*Sec-WebSocket-Key: [^]*\r\n\r\n$/,
    )
    t.match(entry.answerHead.toString(), /^HTTP\/1.1 101 [^]*\r\n\r\n$/)
    const [fd] = giver.peer.takeBack(1)
    if (fd === undefined) throw new Error('no descriptor')
    taken(giver.peer, entry)
    t.match(await giver.app.message('closed'), { movedOn: true, code: 1012 })
    talker.say(20)
    await next.peer.acked(offerOn(next.peer, entry, fd))
    talker.say(20)
    await eventually(() => talker.isAnswered, 'answered by the next')
    t.same(talker.problems, [])
  })

  await t.test('one that is given back goes on where it was, and is handed back again later', async (t) => {
    // A successor that was slow to answer for a moment left all connections where they were, until the drain deadline.
    // So did a listener of `adopt` that threw when the connection came back.
    const { app, peer } = await scripted(t, new FalseBroker(t), { ADOPT_FAULT: '1' })
    const { port } = await front(t, peer)
    const talker = await new WsTalker(t, port, true).open()
    talker.say(20)
    await eventually(() => talker.isAnswered, 'answered')
    app.say('drain')
    const [first] = await peer.handedBack(1)
    talker.say(20)
    for (const fd of peer.takeBack(1)) fd.close()
    peer.wire.write({ type: 'given_back', entries: [{ sequence: first?.sequence ?? 0, reason: 'NoTaker' }] })
    talker.say(20)
    await eventually(() => talker.isAnswered, 'answered')
    const [, second] = await peer.handedBack(2)
    t.match(second, { connection: first?.connection, kind: 'replay' })
    t.equal(second?.state.toString(), '{"count":3}')
    t.match(await app.message('uncaught'), { message: 'a bug in adopt' })
    for (const fd of peer.takeBack(1)) fd.close()
    peer.wire.write({
      type: 'given_back',
      entries: [{ sequence: second?.sequence ?? 0, reason: 'Stopping' }],
    })
    talker.say(20)
    await eventually(() => talker.isAnswered, 'answered')
    t.same(talker.problems, [])
    talker.ws.close()
    await app.exited
  })

  await t.test('a broker that dies before TAKEN leaves it to the backend', async (t) => {
    const { app, peer } = await scripted(t, new FalseBroker(t))
    const { port } = await front(t, peer)
    const talker = await new WsTalker(t, port).open()
    app.say('drain')
    await peer.handedBack(1)
    for (const fd of peer.takeBack(1)) fd.close()
    peer.die()
    await app.message('disconnected')
    talker.say(20)
    await eventually(() => talker.isAnswered, 'answered')
    t.same(talker.problems, [])
  })

  await t.test('a giver that is killed before TAKEN: the broker has no copy of it to offer', async (t) => {
    const { app, peer } = await scripted(t, new FalseBroker(t))
    const { port } = await front(t, peer)
    const talker = await new WsTalker(t, port).open()
    app.say('drain')
    await peer.handedBack(1)
    app.kill('SIGKILL')
    await app.exited
    for (const fd of peer.takeBack(1)) fd.close()
    await eventually(() => talker.closeCode !== undefined, 'closed')
    t.equal(talker.closeCode, 1006)
  })

  await t.test('a state that fails, is no JSON, is too large or not ready: it stays', async (t) => {
    const { app, peer } = await scripted(t, new FalseBroker(t))
    const { port } = await front(t, peer)
    const wrong = {
      '/state-throws': '`state` threw',
      '/state-bigint': 'did not return JSON',
      '/state-large': 'too much to hand back',
    }
    const talkers = await Promise.all(
      [...Object.keys(wrong), '/state-never'].map((path) => new WsTalker(t, port, false, path).open()),
    )
    const good = await new WsTalker(t, port).open()
    app.say('drain')
    for (const text of Object.values(wrong)) await app.line((line) => line.includes(text), text)
    await peer.handedBack(1)
    for (const talker of talkers) talker.say(20)
    for (const talker of talkers) await eventually(() => talker.isAnswered, 'answered')
    await peer.wire.more('stats', 2)
    t.equal((await peer.handedBack(1)).length, 1, 'only the one with a state')
    t.equal(good.closeCode, undefined)
    for (const text of Object.values(wrong))
      t.equal(app.lines.filter((line) => line.includes(text)).length, 1, 'logged once')
    app.say('count')
    t.same((await app.message('count'))['errors'], {
      BATON_ERR_STATE_FAILED: 1,
      BATON_ERR_STATE_INVALID: 1,
      BATON_ERR_STATE_TOO_LARGE: 1,
      BATON_ERR_RESUME_FAILED: 0,
      BATON_ERR_ANSWER_DIFFERS: 0,
    })
    for (const fd of peer.takeBack(1)) fd.close()
  })

  await t.test(
    'a state that writes to, or closes, connections of the same batch: these leave later',
    async (t) => {
      // They left with a state of before, and what `ws` still had to deflate was lost.
      const { app, peer } = await scripted(t, new FalseBroker(t))
      const { port } = await front(t, peer)
      const open = async (path: string, perMessageDeflate = false) => {
        const ws = new WebSocket(`ws://127.0.0.1:${port}${path}`, { perMessageDeflate })
        t.teardown(() => ws.terminate())
        const client = { path, messages: 0, closed: false }
        ws.on('message', () => (client.messages += 1))
        ws.on('close', () => (client.closed = true))
        await once(ws, 'open')
        return client
      }
      const told = [
        await open('/state-tells?1'),
        await open('/state-tells?2', true),
        await open('/state-tells?3'),
      ]
      const closing = await Promise.all([1, 2, 3].map((id) => open(`/state-closes?${id}`)))
      app.say('drain')
      const entries = await peer.handedBack(4)
      const entryOf = ({ path }: { path: string }) =>
        entries.find(({ requestHead }) => requestHead.toString().startsWith(`GET ${path} `))
      for (const client of told) {
        const { state } = entryOf(client) ?? {}
        t.ok(state, client.path)
        const sent = JSON.parse(String(state)) as { told: number }
        await eventually(() => client.messages >= sent.told, 'all has come')
        const closed = () => app.messages().find(({ msg, path }) => msg === 'closed' && path === client.path)
        await eventually(() => closed() !== undefined, 'it has left')
        t.match(closed(), { movedOn: true, told: sent.told }, 'nothing was sent after its state was taken')
        t.equal(client.messages, sent.told)
      }
      t.equal(closing.filter(entryOf).length, 1)
      for (const client of closing) {
        if (entryOf(client) === undefined) await eventually(() => client.closed, 'closed')
        else t.notOk(client.closed)
      }
      for (const fd of peer.takeBack(4)) fd.close()
    },
  )

  await t.test('states that are too much for one frame together go in several', async (t) => {
    // The frame could not be encoded once the descriptors were sent and the sockets closed, and the process ended.
    const { app, peer } = await scripted(t, new FalseBroker(t))
    const { port } = await front(t, peer)
    await Promise.all(Array.from({ length: 8 }, () => new WsTalker(t, port, false, '/state-big').open()))
    app.say('drain')
    t.equal((await peer.handedBack(8)).length, 8)
    t.ok(peer.wire.all('handback').length > 1)
    const descriptors = peer.takeBack(8)
    t.equal(descriptors.length, 8)
    for (const fd of descriptors) fd.close()
  })

  await t.test('a state that is not JSON on the wire: the client is told 1012', async (t) => {
    const broker = new FalseBroker(t)
    const giver = await scripted(t, broker)
    const next = await scripted(t, broker)
    const { port } = await front(t, giver.peer)
    const talker = await new WsTalker(t, port).open()
    giver.app.say('drain')
    const [entry] = await giver.peer.handedBack(1)
    const [fd] = giver.peer.takeBack(1)
    if (entry === undefined || fd === undefined) throw new Error('none')
    taken(giver.peer, entry)
    await next.peer.acked(offerOn(next.peer, entry, fd, { state: Buffer.from('{') }))
    await eventually(() => talker.closeCode !== undefined, 'closed')
    t.equal(talker.closeCode, 1012)
    await next.app.line((line) => line.includes('could not be resumed'), 'the reason')
    next.app.say('count')
    t.match(await next.app.message('count'), { errors: { BATON_ERR_RESUME_FAILED: 1 } })
  })
})
