import { fstatSync, readFileSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { EventStream } from './support/event-stream.ts'
import { encodeFrame } from '@baton/backend-sdk/protocol'
import { FalseBroker, type Registered } from './support/false-broker.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { onlyWorker, reload } from './support/operator.ts'
import { PassedClient } from './support/passed-client.ts'
import { Program, root } from './support/process.ts'
import { PATIENT } from './support/service.ts'
import { exists, signal } from './support/signal.ts'
import { visit, visitors } from './support/visit.ts'

// An idle HTTP connection outlives the process that served it: the backend hands it back, and the broker offers it again with its next request.

interface FlightRecord {
  outcome: string | null
  backend: { slot: string } | null
  steps: { step: string }[]
}

async function recordOf({ admin }: Broker, id: string): Promise<FlightRecord> {
  return (await (await fetch(`${admin}/api/v1/connections/${id}`)).json()) as FlightRecord
}

void t.test('one broker, and backends that hand idle connections back', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: {
      // Known before it starts, so that commands find it.
      admin: { listen: `127.0.0.1:${await freePort()}` },
      // A deadline that expires would be in the records, and in the counts.
      services: { web: PATIENT },
    },
  })
  const events = await EventStream.open(t, broker)
  await events.event('status', () => true, 'the first status')
  // By its weight it keeps its clients beside the next one, and hands them back only in its drain.
  const first = await startBackend(t, broker, 'http-backend.mjs', { env: { WEIGHT: '1000' } })
  await broker.backends(1)

  await t.test(
    'a drain moves idle connections to the next backend; their clients do not notice',
    async (t) => {
      const clients = await visitors(t, broker, 100)
      const ids: string[] = []
      for (const client of clients) {
        const { headers, body } = await client.answer()
        t.equal(headers['x-pid'], String(first.pid))
        ids.push((JSON.parse(body) as { connection: string }).connection)
      }
      const [id = ''] = ids
      const next = await startBackend(t, broker)
      await broker.backends(2)
      first.kill('SIGTERM')
      await first.exited

      // One line for the drain, wherever the operator looks.
      const { data } = await events.event('change', ({ kind }) => kind === 'handed_back', 'the drain')
      t.match(data, {
        service: 'web',
        backend: { slot: 'web-1', pid: first.pid },
        count: 100,
        text: 'web-1 of service web has handed back 100 connections in its drain',
      })
      t.equal(events.changes.filter(({ kind }) => kind === 'handed_back').length, 1)
      const logged = 'drained backend handed connections back'
      t.match(await broker.program.message(logged), {
        service: 'web',
        slot: 'web-1',
        handedBack: 100,
        givenBack: 0,
      })
      t.match(await recordOf(broker, id), { outcome: null, backend: null, steps: { 6: { step: 'parked' } } })

      for (const client of clients) {
        client.request('/again')
        const { status, headers } = await client.answer()
        t.match({ status, pid: headers['x-pid'] }, { status: 200, pid: String(next.pid) })
        t.notMatch(headers['connection'] ?? '', 'close')
      }
      // The last client may have its answer before the broker has read the ACK.
      const { services } = await broker.until(
        (status) => status.services[0]?.outcomes.handed_off === 200,
        'all are handed off twice',
      )
      t.match(services[0], {
        handedBack: 100,
        givenBack: 0,
        parked: 0,
        outcomes: { idle_closed: 0, handed_off: 200 },
      })
      t.match(
        new Map(services[0]?.backends.map(({ slot, handedBack }) => [slot, handedBack])),
        new Map([['web-2', 0]]),
      )
      const whole = ['chosen', 'offered', 'acknowledged', 'released']
      const record = await recordOf(broker, id)
      t.same(
        record.steps.map(({ step }) => step),
        ['accepted', ...whole, 'handed_back', 'parked', 'awake', ...whole],
        'one record, over both processes',
      )
      t.match(record.backend, { slot: 'web-2' })
      const baton = [process.execPath, batonCommand] as const
      const trace = new Program(t, baton[0], [baton[1], 'trace', id, '--config', broker.configFile])
      await trace.exited
      const shown = trace.lines.join('\n')
      t.match(shown, /released +web-1\n.* handed_back +web-1\n.* parked\n.* awake\n.* chosen +web-2\n/)
      t.match(shown, new RegExp(`connection ${id}: handed_off after `))
      const summary = new Program(t, baton[0], [baton[1], 'status', '--config', broker.configFile])
      await summary.exited
      t.match(summary.lines.join('\n'), /PARKED [^]* HANDED BACK [^]*\nweb .* 200 +100 +0 +0\n/)
      t.equal(broker.program.messages().filter(({ msg }) => msg === logged).length, 1, 'one line')
      next.kill('SIGTERM')
      await next.exited
      for (const client of clients) client.socket.destroy()
      await broker.until(({ services }) => services[0]?.parked === 0, 'the clients have left')
    },
  )

  await t.test('a process that exits once its server has closed loses no idle connection', async (t) => {
    // 'close' came when the last socket had gone, and the process exited before the broker had taken the last window of connections.
    // A server that listens, too, waited for its own idle connections, because closeIdleConnections() did nothing.
    const closing = await startBackend(t, broker, 'closing-backend.mjs')
    const clients = await visitors(t, broker, 100)
    for (const client of clients) t.equal((await client.answer()).headers['x-pid'], String(closing.pid))
    const { port } = await closing.message('ready')
    const direct = await Client.open(t, { host: '127.0.0.1', port: Number(port) })
    t.equal((await direct.get()).status, 200)
    closing.kill('SIGTERM')
    await closing.exited
    t.equal(await direct.ended, 'end', 'an idle connection of its own listener is closed')
    const next = await startBackend(t, broker)
    for (const client of clients) {
      client.request('/again')
      t.equal((await client.answer()).headers['x-pid'], String(next.pid))
    }
    next.kill('SIGTERM')
    await next.exited
    const status = await broker.until(({ services }) => services[0]?.parked === 100, 'they are parked')
    t.equal(unaccounted(status), 0, 'each is accounted for, however often it was handed back')
  })
})

void t.test(
  'parkAfter: each request of a kept connection is offered like a new client',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: { services: { web: { ...PATIENT, parkAfter: '0ms' } } } })
    await startBackend(t, broker)
    await startBackend(t, broker)
    await broker.backends(2)
    const client = await visit(t, broker)
    await client.answer()
    let id = ''
    for (let turn = 1; turn <= 20; turn++) {
      const status = await broker.until(({ services }) => services[0]?.parked === 1, `parked ${turn} times`)
      // It counted as a connection of the backend for another 50 ms, and so the next one went to the wrong backend.
      t.same(
        status.services[0]?.backends.map(({ load }) => load),
        [0, 0],
      )
      client.request('/')
      t.equal((await client.answer()).status, 200)
    }

    await t.test('parked connections move to the next worker', async (t) => {
      await broker.until(({ services }) => services[0]?.parked === 1, 'parked')
      t.match(await reload(t, broker), { success: true })
      await onlyWorker(t, broker)
      t.equal((await broker.status()).services[0]?.parked, 1)
      client.request('/')
      const { status, body } = await client.answer()
      t.equal(status, 200)
      id = (JSON.parse(body) as { connection: string }).connection
      await broker.until(({ services }) => services[0]?.parked === 1, 'parked')
      t.match(
        (await recordOf(broker, id)).steps.map(({ step }) => step).slice(0, 5),
        ['accepted', 'moved', 'parked', 'awake', 'chosen'],
        'the record of the new worker begins there',
      )
    })

    await t.test('a client that leaves while it is parked is counted', async () => {
      await broker.until(({ services }) => services[0]?.parked === 1, 'parked')
      client.socket.destroy()
      await broker.until(({ services }) => services[0]?.outcomes.idle_closed === 1, 'idle_closed')
      const record = await recordOf(broker, id)
      t.match(record, { id, outcome: 'idle_closed', backend: null })
      t.match(
        record.steps.slice(-3).map(({ step }) => step),
        ['handed_back', 'parked', 'idle_closed'],
      )
    })
  },
)

void t.test('parkAfter: hundreds that become due together are parked', { timeout: LIMIT }, async (t) => {
  // Only one window of them left at each look at the idle connections.
  const config = { services: { web: { parkAfter: '4s', handBackWindow: 8 } } }
  const broker = await startBroker(t, { config })
  await startBackend(t, broker)
  const clients = await visitors(t, broker, 300)
  for (const client of clients) t.equal((await client.answer()).status, 200)
  await broker.until(({ services }) => services[0]?.parked === 300, 'all are parked')
})

void t.test(
  "a reload that changes a listener's address cuts no backend off",
  { timeout: LIMIT },
  async (t) => {
    // The new worker has no listener at the address of connections that its predecessor accepted, and took that for a breach of protocol.
    const listener = { name: 'web', protocol: 'http', service: 'web' }
    const broker = await startBroker(t, {
      config: {
        listeners: [{ ...listener, listen: `127.0.0.1:${await freePort()}` }],
        workerTimeout: '1h',
      },
    })
    const backend = await startBackend(t, broker)
    const [client, other] = await visitors(t, broker, 2)
    for (const each of [client, other]) t.equal((await each?.answer())?.status, 200)
    const config = JSON.parse(readFileSync(broker.configFile, 'utf8')) as Record<string, unknown>
    config['listeners'] = [{ ...listener, listen: `127.0.0.1:${await freePort()}` }]
    writeFileSync(broker.configFile, JSON.stringify(config))
    t.match(await reload(t, broker), { success: true })
    const worker = await onlyWorker(t, broker)
    await broker.backends(1)
    // Its request is there when the worker gives it back: from then on, a draining backend keeps an idle connection for one second.
    signal(worker, 'SIGSTOP')
    backend.kill('SIGTERM')
    await backend.message('draining')
    client?.request()
    signal(worker, 'SIGCONT')
    const answer = await client?.answer()
    t.match(answer?.headers, { 'x-pid': String(backend.pid), connection: 'close' }, 'it goes on where it was')
    other?.socket.destroy()
    await backend.exited
    t.notOk(broker.program.lines.some((line) => line.includes('broke the protocol')))
  },
)

/** `test/programs/told-backend.mjs`, or another program, registered with a broker of the test that takes connections back, and clients that have had an answer. */
async function told(
  t: Test,
  count: number,
  env: NodeJS.ProcessEnv = {},
  file = 'told-backend.mjs',
): Promise<{ app: Program; broker: FalseBroker; peer: Registered; clients: PassedClient[]; ids: Buffer[] }> {
  const broker = new FalseBroker(t)
  const app = new Program(t, process.execPath, [`${root}/test/programs/${file}`], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', ...env },
  })
  const peer = await broker.registered({ takesBack: { handBackWindow: 16, parkAfter: null } })
  const clients: PassedClient[] = []
  const ids: Buffer[] = []
  for (let index = 0; index < count; index++) {
    const client = new PassedClient(t)
    const offer = peer.offer()
    ids.push(offer.connection)
    peer.post(offer.token, client.fd)
    peer.ring(offer)
    clients.push(client)
  }
  for (const client of clients) t.equal(await client.servedBy(), app.pid)
  return { app, broker, peer, clients, ids }
}

void t.test('a backend and a scripted broker', { timeout: LIMIT }, async (t) => {
  await t.test('REBALANCE is done to its end, however small the window', async (t) => {
    // Only what fitted into the window was handed back.
    const { peer } = await told(t, 50)
    peer.wire.write({ type: 'rebalance', count: 40 })
    for (let settled = 0; settled < 40;) {
      const entries = (await peer.handedBack(settled + 1)).slice(settled)
      t.ok(entries.length <= 16, 'within the window')
      for (const fd of peer.takeBack(entries.length)) fd.close()
      const sequences = entries.map(({ sequence }) => sequence)
      peer.wire.write({ type: 'taken', sequences })
      peer.wire.write({
        type: 'settled',
        entries: sequences.map((sequence) => ({ sequence, outcome: 'parked' })),
      })
      settled += entries.length
    }
    await peer.sweeps(1)
    t.equal((await peer.handedBack(40)).length, 40, 'and no more')
  })

  await t.test('new clients whose request is on its way are not what REBALANCE asks for', async (t) => {
    // Under load some of them were: each was handed over twice.
    const { app, peer } = await told(t, 2)
    const fresh: PassedClient[] = []
    for (let index = 0; index < 3; index++) {
      const client = new PassedClient(t, '/', false)
      const offer = peer.offer()
      peer.post(offer.token, client.fd)
      peer.ring(offer)
      await peer.acked(offer)
      fresh.push(client)
    }
    peer.wire.write({ type: 'rebalance', count: 5 })
    await peer.handedBack(2)
    await peer.sweeps(1)
    t.equal((await peer.handedBack(2)).length, 2, 'those that have had an answer')
    for (const client of fresh) {
      client.again()
      t.equal(await client.servedBy(), app.pid)
    }
  })

  await t.test('one that is given back goes on where it was', async (t) => {
    const { app, peer, clients } = await told(t, 1)
    const [client] = clients as [PassedClient]
    peer.wire.write({ type: 'rebalance', count: 1 })
    const [entry] = await peer.handedBack(1)
    for (const fd of peer.takeBack(1)) fd.close()
    peer.wire.write({ type: 'given_back', entries: [{ sequence: entry?.sequence ?? 0, reason: 'NoTaker' }] })
    client.again()
    t.equal(await client.servedBy(), app.pid)
    client.again()
    t.equal(await client.servedBy(), app.pid)
    // It was adopted before the server had it.
    const adoptions = () => app.messages().filter(({ msg }) => msg === 'adopt')
    await eventually(() => adoptions().length === 2, 'adopted twice')
    t.ok(
      adoptions().every(({ given }) => given === true),
      'each when the server had it',
    )
    app.say('drain')
    await app.message('did drain')
    await peer.sweeps(1)
    t.equal((await peer.handedBack(1)).length, 1, 'it is not handed back again')
    client.again()
    t.match(await client.closed(), /connection: close/i)
    app.child.stdin?.end()
    await app.exited
  })

  await t.test('a listener that throws when one comes back harms no other, nor the session', async (t) => {
    // The others' descriptors were lost, and the backend cut off its broker.
    const { app, peer, clients } = await told(t, 4)
    app.say('break-adopt')
    await app.message('did break-adopt')
    peer.wire.write({ type: 'rebalance', count: 2 })
    const some = await peer.handedBack(2)
    for (const fd of peer.takeBack(2)) fd.close()
    peer.wire.write({
      type: 'given_back',
      entries: some.map(({ sequence }) => ({ sequence, reason: 'NoTaker' })),
    })
    const answered = async () => {
      for (const client of clients) {
        client.again()
        t.equal(await client.servedBy(), app.pid)
      }
    }
    await answered()
    await app.message('uncaught')
    await peer.sweeps(1)
    t.notOk(app.messages().some(({ msg }) => msg === 'disconnected'))

    // The other two come back together.
    app.say('break-adopt')
    await eventually(
      () => app.messages().filter(({ msg }) => msg === 'did break-adopt').length === 2,
      'again',
    )
    peer.wire.write({ type: 'rebalance', count: 2 })
    await peer.handedBack(4)
    for (const fd of peer.takeBack(2)) fd.close()
    peer.die()
    await app.message('disconnected')
    await answered()
  })

  await t.test('one that the broker cannot keep is kept by a backend, and not answered', async (t) => {
    // A worker that ends without a successor passes its idle connections on. The next server took each for a new client that did not
    // speak, and answered 408 after its headersTimeout, although the client had done nothing wrong.
    const broker = new FalseBroker(t)
    const app = new Program(t, process.execPath, [`${root}/test/programs/told-backend.mjs`], {
      env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', HEADERS_TIMEOUT: '100' },
    })
    const peer = await broker.registered()
    const pass = (meta?: Record<string, unknown>) => {
      const client = new PassedClient(t, '/', false)
      const offer = peer.offer({ meta })
      peer.post(offer.token, client.fd)
      peer.ring(offer)
      return client
    }
    const kept = pass({ idleFor: 600_000 })
    const unlimited = pass({ idleFor: 0xffff_ffff })
    const late = pass({ idleFor: 1 })
    const fresh = pass()
    t.match(await fresh.closed(), /^HTTP\/1\.1 408 /, 'a new client that does not speak')
    t.equal(await late.closed(), '', 'the rest of its time is over: closed without an answer')
    for (const client of [kept, unlimited]) {
      t.equal(client.answer, '')
      client.again()
      t.equal(await client.servedBy(), app.pid)
    }
  })

  await t.test('one that the app has sent to another process is passed over', async (t) => {
    // None behind it was handed back.
    const { app, peer } = await told(t, 2)
    app.say('give-away')
    await app.message('did give-away')
    // It counted as one that the broker wanted.
    peer.wire.write({ type: 'rebalance', count: 1 })
    t.equal((await peer.handedBack(1)).length, 1)
    for (const fd of peer.takeBack(1)) fd.close()
  })

  await t.test('a broker that dies without an answer leaves the connection to the backend', async (t) => {
    const { app, peer, clients } = await told(t, 1)
    const [client] = clients as [PassedClient]
    peer.wire.write({ type: 'rebalance', count: 1 })
    await peer.handedBack(1)
    for (const fd of peer.takeBack(1)) fd.close()
    peer.die()
    await app.message('disconnected')
    client.again()
    t.equal(await client.servedBy(), app.pid)
  })

  await t.test(
    'answers that nothing was asked for, or that contradict each other, change nothing',
    async (t) => {
      const { app, peer, clients, ids } = await told(t, 3)
      const never = [1, 2, 999]
      const answers = (sequences: number[]) => {
        peer.wire.write({ type: 'taken', sequences })
        peer.wire.write({
          type: 'settled',
          entries: sequences.map((sequence) => ({ sequence, outcome: 'ended' })),
        })
        peer.wire.write({
          type: 'given_back',
          entries: sequences.map((sequence) => ({ sequence, reason: 'NoTaker' })),
        })
      }
      answers(never)
      const reached = async (client: PassedClient) => {
        client.again()
        t.equal(await client.servedBy(), app.pid)
      }
      for (const client of clients) await reached(client)
      peer.wire.write({ type: 'rebalance', count: Number.MAX_SAFE_INTEGER })
      const entries = await peer.handedBack(3)
      const fds = peer.takeBack(3)
      const [first, second, third] = entries.map(({ sequence }) => sequence) as [number, number, number]
      // In whatever order they have left.
      const [taken, given, other] = entries.map(
        ({ connection }) => clients[ids.findIndex((id) => id.equals(connection))],
      ) as [PassedClient, PassedClient, PassedClient]
      // The first is the broker's, whatever follows; the others are the backend's again.
      answers([first])
      for (const fd of fds.slice(1)) fd.close()
      peer.wire.write({
        type: 'given_back',
        entries: [second, third].map((sequence) => ({ sequence, reason: 'NoTaker' as const })),
      })
      answers([second, third])
      await reached(given)
      await reached(other)
      const before = taken.answer
      fds[0]?.close()
      t.equal(await taken.closed(), before, 'it has no copy of the one that was taken')
      t.notOk(app.messages().some(({ msg }) => msg === 'uncaught' || msg === 'disconnected'))
    },
  )

  await t.test('connections with much metadata leave in several frames', async (t) => {
    // They went into one frame, which was too large: they had left, and the broker was not told.
    const broker = new FalseBroker(t)
    const app = new Program(t, process.execPath, [`${root}/test/programs/told-backend.mjs`], {
      env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
    })
    const peer = await broker.registered({ takesBack: { handBackWindow: 64, parkAfter: null } })
    const meta = { note: 'x'.repeat(65_000) }
    for (let index = 0; index < 20; index++) {
      const client = new PassedClient(t)
      const offer = peer.offer({ meta })
      peer.post(offer.token, client.fd)
      peer.ring(offer)
      t.equal(await client.servedBy(), app.pid)
    }
    app.say('drain')
    const entries = await peer.handedBack(20)
    t.ok(peer.wire.all('handback').length > 1)
    t.same(
      entries.map((entry) => entry.meta),
      entries.map(() => meta),
    )
    const fds = peer.takeBack(20)
    t.equal(fds.length, 20)
    for (const fd of fds) fd.close()
    peer.wire.write({ type: 'taken', sequences: entries.map(({ sequence }) => sequence) })
    await peer.wire.frame('drained')
    t.notOk(app.messages().some(({ msg }) => msg === 'uncaught'))
  })

  await t.test('what this process resumes is taken back when its server of WebSockets closes', async (t) => {
    // An empty list was not sent.
    const { app, peer } = await told(t, 0, {}, 'ws-backend.mjs')
    t.same((await peer.wire.frame('resumes')).schemas, ['echo/1'])
    await app.message('ready')
    app.say('close-server')
    await peer.wire.frame('resumes', ({ schemas }) => schemas.length === 0)
    t.equal(peer.wire.all('resumes').length, 2)
  })

  await t.test('a broker that dies in a drain: it registers with the next one, and says so', async (t) => {
    // It never dialled again, and served what it had until its deadline.
    const { app, broker, peer, clients } = await told(t, 1, { DRAIN_DEADLINE: '1h' })
    const [client] = clients as [PassedClient]
    app.say('drain')
    await peer.handedBack(1)
    for (const fd of peer.takeBack(1)) fd.close()
    peer.die()
    await app.message('disconnected')
    const next = await broker.registered({ takesBack: { handBackWindow: 16, parkAfter: null } })
    t.match(next.hello, { backend: peer.id, draining: true })
    const { deadline } = await next.wire.frame('drain')
    t.ok(deadline !== null && deadline > 0 && deadline < 3_600_000, 'with the rest of its time')
    const [entry] = await next.handedBack(1)
    for (const fd of next.takeBack(1)) fd.close()
    next.wire.write({ type: 'taken', sequences: [entry?.sequence ?? 0] })
    await next.wire.frame('drained')
    const before = client.answer
    t.equal(await client.closed(), before, 'no answer said `Connection: close`')
    app.child.stdin?.end()
    await app.exited
  })

  await t.test("the app's own `destroy` may throw: the connection has left all the same", async (t) => {
    // The descriptors were sent, and the broker was not told.
    const { app, peer, clients } = await told(t, 2)
    app.say('break-destroy')
    await app.message('did break-destroy')
    peer.wire.write({ type: 'rebalance', count: 2 })
    const entries = await peer.handedBack(2)
    await app.message('uncaught')
    for (const fd of peer.takeBack(2)) fd.close()
    peer.wire.write({ type: 'taken', sequences: entries.map(({ sequence }) => sequence) })
    for (const client of clients) await client.closed()
    t.notOk(app.messages().some(({ msg }) => msg === 'disconnected'))
  })

  await t.test('a broker that dies after TAKEN has taken the connection with it', async (t) => {
    const { app, peer, clients } = await told(t, 1)
    const [client] = clients as [PassedClient]
    peer.wire.write({ type: 'rebalance', count: 1 })
    const [entry] = await peer.handedBack(1)
    const before = client.answer
    peer.wire.write({ type: 'taken', sequences: [entry?.sequence ?? 0] })
    peer.die()
    await app.message('disconnected')
    t.equal(await client.closed(), before, 'the backend has no copy')
  })

  await t.test('a TAKEN that is cut off halfway is none: the backend goes on', async (t) => {
    // The broker closes its copies then: it offers nothing on before the whole of it is in the kernel.
    const { app, peer, clients } = await told(t, 2)
    peer.wire.write({ type: 'rebalance', count: 2 })
    const entries = await peer.handedBack(2)
    const inodes = peer.takeBack(2).map((fd) => {
      const { ino } = fstatSync(fd.fd)
      fd.close()
      return ino
    })
    const [first, second] = entries.map(({ sequence }) =>
      encodeFrame({ type: 'taken', sequences: [sequence] }),
    ) as [Buffer, Buffer]
    peer.wire.write(first, second.subarray(0, second.length - 1))
    peer.die()
    await app.message('disconnected')
    // In the order of the server's list, which is not that of arrival.
    const [taken, other] = inodes.map((inode) =>
      clients.find((client) => fstatSync(client.fd).ino === inode),
    ) as [PassedClient, PassedClient]
    const before = taken.answer
    t.equal(await taken.closed(), before, 'the whole one counts')
    other.again()
    t.equal(await other.servedBy(), app.pid)
  })

  await t.test("a drain's deadline counts when the server was closed before", async (t) => {
    // The drain of server.close() has no deadline, and the first drain decided.
    const { app, clients, peer } = await told(t, 0, { DRAIN_DEADLINE: '100ms' })
    t.same(clients, [])
    const client = new PassedClient(t, '/wait')
    const offer = peer.offer()
    peer.post(offer.token, client.fd)
    peer.ring(offer)
    await app.message('waiting')
    app.say('close-server')
    await app.message('draining')
    app.say('drain')
    t.equal(await client.closed(), '')
  })

  await t.test('the drain deadline ends what the broker has not answered', async (t) => {
    const { app, peer, clients } = await told(t, 1, { DRAIN_DEADLINE: '100ms' })
    const [client] = clients as [PassedClient]
    app.say('drain')
    await peer.handedBack(1)
    for (const fd of peer.takeBack(1)) fd.close()
    await peer.wire.end()
    await client.closed()
    app.child.stdin?.end()
    t.match(await app.exited, { code: 0, signal: null })
    t.notOk(app.messages().some(({ msg }) => msg === 'uncaught'))
  })

  await t.test("a server's close waits for a broker that hangs until the drain deadline", async (t) => {
    // It waited without limit, because the drain of server.close() has no deadline, and the first drain decides.
    const { app, peer } = await told(t, 1, { DRAIN_DEADLINE: '100ms' }, 'closing-backend.mjs')
    app.kill('SIGTERM')
    await peer.handedBack(1)
    t.same(await app.exited, { code: 0, signal: null })
  })

  await t.test('a connection that came through another worker may be handed back, too', async (t) => {
    // At a reload it arrives after the registration with the new worker, which accepts no more hand-backs than it knows adoptions of.
    const broker = new FalseBroker(t)
    const app = new Program(t, process.execPath, [`${root}/test/programs/told-backend.mjs`], {
      env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
    })
    const takesBack = { handBackWindow: 16, parkAfter: null }
    const old = await broker.registered({ takesBack })
    old.wire.write({ type: 'reconnect', reason: 'a reload' })
    const peer = await broker.registered({ takesBack })
    await peer.wire.frame('stats')
    const client = new PassedClient(t)
    const offer = old.offer({ token: randomBytes(16) })
    old.post(offer.token, client.fd)
    old.ring(offer)
    t.equal(await client.servedBy(), app.pid)
    peer.wire.write({ type: 'rebalance', count: 1 })
    await peer.handedBack(1)
    const frames = peer.wire.frames.map(({ frame }) => frame)
    const before = frames.slice(
      0,
      frames.findIndex(({ type }) => type === 'handback'),
    )
    const stats = before.findLast((frame) => frame.type === 'stats')
    t.equal(stats?.adopted, 1, 'the broker knows of it')
    t.same(old.wire.all('handback'), [], 'not to the worker that leaves')
  })
})

void t.test(
  'a worker that loses its master and cannot go on leaves its idle connections to the backends',
  { timeout: LIMIT },
  async (t) => {
    // More listeners than an estate has room for: this worker drains.
    const others = Array.from({ length: 44 }, (_, index) => ({
      name: `other-${index}`,
      listen: '127.0.0.1:0',
      service: 'web',
    }))
    const web = { name: 'web', listen: '127.0.0.1:0', service: 'web' }
    const broker = await startBroker(t, {
      config: { listeners: [web, ...others], services: { web: { parkAfter: '0ms' } } },
    })
    const backend = await startBackend(t, broker)
    await broker.backends(1)
    const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
    t.equal((await client.get()).status, 200)
    const before = client.received
    await broker.until(({ services }) => services[0]?.parked === 1, 'it is parked')
    broker.program.kill('SIGKILL')
    await eventually(() => !exists(broker.pid), 'the worker has drained')
    t.equal(client.received, before, 'nothing came without a request')
    t.equal((await client.get()).headers['x-pid'], String(backend.pid))
  },
)
