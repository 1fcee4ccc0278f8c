import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { connect as connectTls } from 'node:tls'
import { encodeProxyHeader } from '@baton/backend-sdk/protocol'
import { poll, POLLHUP } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { FalseBroker, Registered } from './support/false-broker.ts'
import { LIMIT } from './support/limits.ts'
import { PassedClient } from './support/passed-client.ts'
import { openSockets } from './support/proc.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { servedBy, visit, visitors } from './support/visit.ts'

// Past bugs of the SDK, each with its story.

/** No deadline expires during a story. */
const PATIENT = { ackDeadline: '10m', tokenTtl: '20m', holdTimeout: '20m' }

/** `test/programs/told-backend.mjs`, not yet registered. */
function toldBackend(t: Test, control: string, env: NodeJS.ProcessEnv = {}): Program {
  return new Program(t, process.execPath, [join(root, 'test/programs/told-backend.mjs')], {
    env: { BATON_SOCKET: control, BATON_SERVICE: 'web', ...env },
  })
}

function tell(program: Program, word: string): void {
  program.child.stdin?.write(`${word}\n`)
}

function said(program: Program, msg: string): Record<string, unknown>[] {
  return program.messages().filter((message) => message['msg'] === msg)
}

void t.test('a backend and a real broker', { timeout: LIMIT }, async (whole) => {
  const folder = temporaryFolder(whole)
  const runtimeDir = join(folder, 'run')
  const path = join(folder, 'tls.sock')
  const broker = await startBroker(whole, {
    config: {
      runtimeDir,
      listeners: [
        { name: 'web', listen: '127.0.0.1:0', service: 'web' },
        { name: 'tls', listen: `unix:${path}`, protocol: 'tls', service: 'tls' },
      ],
      services: { web: PATIENT, scarce: PATIENT, tls: PATIENT },
    },
  })
  const { control } = broker

  /** Each ends as it began: without a backend or a client. */
  const story = async (title: string, act: (t: Test) => Promise<void>) => {
    await whole.test(title, { timeout: LIMIT }, act)
    await broker.until(
      ({ services }) =>
        services.every(({ held, inFlight, backends }) => held + inFlight + backends.length === 0),
      'all have left',
    )
  }

  for (const [fault, served] of [
    ['connection', 4],
    ['adopt', 5],
  ] as const) {
    await story(`a '${fault}' listener that throws does not affect the rest of its batch`, async (t) => {
      // Five clients came in one batch, and the app's listener threw on the first. The exception aborted the loop that
      // adopted them: four were ACKed, closed at the broker, and neither passed to the server nor closed.
      const before = (await broker.status()).services[0]?.outcomes.handed_off ?? 0
      const clients = await visitors(t, broker, 5)
      await broker.until(({ services }) => services[0]?.held === 5, 'they wait')
      const app = toldBackend(t, control, { FAULT: fault })
      let answers = 0
      for (const each of clients) {
        each.answer().then(
          () => (answers += 1),
          () => undefined,
        )
      }
      await eventually(
        () => answers === served,
        () => `${served} answers; there are ${answers}`,
      )
      t.match(
        await app.message('uncaught'),
        { message: `a bug in a ${fault} listener` },
        'the app is notified',
      )
      t.equal(said(app, 'uncaught').length, 1)
      const status = await broker.until(
        ({ services }) => services[0]?.outcomes.handed_off === before + 5,
        'all are its',
      )
      t.equal(unaccounted(status), 0)
      t.equal(await servedBy(t, broker), app.pid)
    })
  }

  await story("a 'connected' listener that throws does not undo the registration", async (t) => {
    // The exception propagated into the registration loop, which took it for a failed dial and registered again and again;
    // each time another backend of the same process stayed registered at the broker.
    const app = toldBackend(t, control, { FAULT: 'connected' })
    await app.message('ready')
    const pids = new Set<number>()
    // Longer than the loop's delay before it redials: 25 to 50 ms.
    for (const end = performance.now() + 300; performance.now() < end;) {
      pids.add(await servedBy(t, broker))
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    t.same([...pids], [app.pid])
    const registered = () =>
      said(broker.program, 'backend registered').filter(({ peerPid }) => peerPid === app.pid)
    await eventually(() => registered().length > 0, 'its registration is in the log')
    t.equal(registered().length, 1)
    t.equal((await broker.status()).services[0]?.backends.length, 1)
    await app.message('uncaught')
    t.match(said(app, 'uncaught'), [{ message: 'a bug in a connected listener' }], 'the app is notified')
  })

  await story('a drain may take a month', async (t) => {
    // setTimeout is limited to 24.8 days, and turns longer times into one millisecond: a deadline of 720 hours cut every
    // request in flight at once.
    const app = toldBackend(t, control, { DRAIN_DEADLINE: '720h' })
    const waiting = await visit(t, broker, '/wait')
    // Adopted is not enough: a connection whose request is still unread is handed back, and held until there is another backend.
    await app.message('waiting')
    tell(app, 'drain')
    await app.message('draining')
    await broker.until(({ services }) => services[0]?.backends[0]?.state === 'draining', 'the broker knows')
    t.ok(waiting.open, 'the request is not cut')
    tell(app, 'answer')
    const { body, headers } = await waiting.answer()
    t.same({ body, connection: headers['connection'] }, { body: 'waited', connection: 'keep-alive' })
    await broker.until(({ services }) => services[0]?.backends.length === 0, 'then it deregisters')
  })

  await story("a 'drain' listener that drains does not recurse", async (t) => {
    // An app called backend.drain() in its 'drain' listener, so that one handler serves the operator's drain and its own. The
    // event was emitted before the drain was recorded, each call began another, and the process died of a stack overflow.
    const app = toldBackend(t, control)
    await app.message('ready')
    tell(app, 'drain')
    await app.message('draining')
    await broker.until(({ services }) => services[0]?.backends.length === 0, 'drained and gone')
    tell(app, 'anything')
    await app.message('did anything')
    t.equal(said(app, 'draining').length, 1)
    t.same(said(app, 'uncaught'), [])
  })

  await story('out of descriptors, a backend neither leaks nor stays registered', async (t) => {
    // Registered, and then no descriptor was left to duplicate its control connection: the SDK dropped both descriptors
    // without closing them. The broker still considered the backend registered, and sent it clients.
    const program = join(root, 'test/programs/scarce-backend.mjs')
    const app = new Program(t, 'prlimit', ['--nofile=128', process.execPath, program], {
      env: { BATON_SOCKET: control, BATON_SERVICE: 'scarce' },
    })
    await app.message('started')
    const before = openSockets(app.pid)
    // A first round with descriptors to spare, so that what the process opens permanently is open.
    tell(app, 'all')
    await app.message('tried with all')
    const outcomes: unknown[] = []
    for (let spare = 0; spare < 8; spare++) {
      tell(app, String(spare))
      outcomes.push((await app.message(`tried with ${spare}`))['outcome'])
      await broker.backends(0, 'scarce')
      await eventually(
        () => openSockets(app.pid) === before,
        () => `${openSockets(app.pid)} sockets, not ${before}, after it had ${spare}`,
      )
    }
    t.equal(outcomes[0], 'EMFILE')
    t.equal(outcomes.at(-1), 'registered', 'each step of a registration has failed once')
    const { services } = await broker.status()
    t.equal(services.find(({ name }) => name === 'scarce')?.backends.length, 0)
  })

  await story('over a Unix listener, a TLS socket has its own id', async (t) => {
    // The TLS socket seen by the app was matched to the adopted one by its peer address. Clients of a Unix socket
    // have none: if their handshakes overlapped, all of them matched the last one.
    const env = { KEY: join(folder, 'key.pem'), CERTIFICATE: join(folder, 'certificate.pem') }
    const key =
      'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost'
    const args = [...key.split(' '), '-keyout', env.KEY, '-out', env.CERTIFICATE]
    execFileSync('openssl', args, { stdio: 'pipe' })
    const backend = await startBackend(t, broker, 'tls-backend.mjs', { service: 'tls', env })

    const raw: Client[] = []
    for (let adopted = 1; adopted <= 3; adopted++) {
      raw.push(await Client.open(t, { path }))
      await eventually(() => said(backend, 'adopt').length === adopted, `${adopted} are adopted`)
    }
    const ids = await Promise.all(
      raw.map(async ({ socket }) => {
        const secure = connectTls({ socket, ca: readFileSync(env.CERTIFICATE), servername: 'localhost' })
        const [id] = (await once(createInterface({ input: secure }), 'line')) as [string]
        secure.destroy()
        return id
      }),
    )
    t.same(
      ids,
      said(backend, 'adopt').map(({ id }) => id),
    )
    t.equal(new Set(ids).size, 3)
  })

  await whole.test(
    "a 'disconnected' listener that throws does not stop redialling",
    { timeout: LIMIT },
    async (t) => {
      // The broker died, the app's listener threw, and the code after it never ran: the backend stayed alive, and no
      // broker ever saw it again.
      const app = toldBackend(t, control, { FAULT: 'disconnected' })
      await app.message('ready')
      await broker.die()
      await app.message('uncaught')
      const second = await startBroker(whole, { config: { runtimeDir, services: { web: PATIENT } } })
      await second.backends(1)
      t.equal(await servedBy(t, second), app.pid)
      await eventually(() => said(app, 'connected').length === 2, 'the app is notified')
    },
  )
})

void t.test('a backend and a dishonest broker', { timeout: LIMIT }, async (whole) => {
  const story = (title: string, act: (t: Test) => Promise<void>) => whole.test(title, { timeout: LIMIT }, act)

  await story('a broker that sends WELCOME and disconnects is dialled with backoff', async (t) => {
    // WELCOME reset the backoff. A broker that crashed just after it (out of descriptors, for example) was dialled a thousand
    // times a second by each of its backends, and could not recover.
    const broker = new FalseBroker(t)
    toldBackend(t, broker.control)
    const times: number[] = []
    for (let registration = 0; registration < 6; registration++) {
      const peer = await broker.registered()
      times.push(performance.now())
      await peer.wire.frame('stats')
      peer.die()
    }
    // At least half of 50, 100, 200, 400 and 800 ms.
    const taken = (times.at(-1) as number) - (times[0] as number)
    t.ok(taken >= 775, `six registrations took ${Math.round(taken)} ms`)
  })

  await story('a relay that arrives before WELCOME is read waits for it', async (t) => {
    // The endpoint listened from HELLO on, and dropped connections until the session had begun. A client held for
    // this very backend was relayed to it at once, lost a whole ACK deadline, and the backend was marked unresponsive.
    const broker = new FalseBroker(t)
    const app = toldBackend(t, broker.control)
    const { wire, hello } = await broker.dialled()
    const { path = '' } = hello.reconnect ?? {}
    const token = randomBytes(16)
    const relay = await Client.open(t, { path })
    relay.socket.write(encodeProxyHeader({ addresses: undefined, token }))
    const stranger = await Client.open(t, { path })
    stranger.send('no header at all')
    await stranger.ended
    // The relay connected before the stranger, who was read and rejected.
    const peer = new Registered(t, wire, hello, 1, 600_000)
    const offer = peer.offer({ kind: 'relay', token })
    peer.ring(offer)
    await peer.acked(offer)
    t.equal((await relay.get()).headers['x-pid'], String(app.pid))
  })

  await story('a relay that has ended before it is adopted is closed', async (t) => {
    // Its worker was killed between the two. Node emits `end` although the socket is paused; the app's server, which got the socket then, kept it until its time for a first request was over.
    const broker = new FalseBroker(t)
    const app = toldBackend(t, broker.control)
    const { wire, hello } = await broker.dialled()
    const { path = '' } = hello.reconnect ?? {}
    const peer = new Registered(t, wire, hello, 1, 600_000)
    await app.message('connected')
    /** Everything that came before is read. */
    const read = async () => {
      const stranger = await Client.open(t, { path })
      stranger.send('no header at all')
      await stranger.ended
    }
    const token = randomBytes(16)
    const relay = await Client.open(t, { path })
    relay.socket.write(encodeProxyHeader({ addresses: undefined, token }))
    await read()
    relay.socket.end()
    await read()
    const offer = peer.offer({ kind: 'relay', token })
    peer.ring(offer)
    await peer.acked(offer)
    await app.message('adopt')
    t.equal(await relay.ended, 'end')
    t.equal(relay.received, '', "not by the server's time for a first request, after a minute")
  })

  await story('a closed backend adopts nothing that a dead broker left on its lane', async (t) => {
    // The broker died with an offer in flight, and the SDK waited for the end of its lane to adopt it. close() did not
    // know about that wait: a second after the app was told that everything was closed, it was given a client.
    const broker = new FalseBroker(t)
    const app = toldBackend(t, broker.control)
    const peer = await broker.registered({ tokenTtl: 600_000 })
    await app.message('ready')
    const passed = new PassedClient(t)
    const offer = peer.offer()
    // Stopped, so that its ACK finds no broker.
    app.kill('SIGSTOP')
    peer.post(offer.token, passed.fd)
    peer.ring(offer)
    peer.receiveEnd.close()
    peer.wire.close()
    app.kill('SIGCONT')
    await app.message('disconnected')
    tell(app, 'close')
    await app.message('did close')
    t.ok(passed.untouched)
    t.not(poll(peer.lane.fd, 0) & POLLHUP, 0, 'its end of the lane is closed')
    peer.lane.close()
    tell(app, 'nothing')
    await app.message('did nothing')
    t.equal(await passed.closed(), '', 'so is every copy of the client, and it got nothing')
    t.same(said(app, 'adopt'), [])
  })
})
