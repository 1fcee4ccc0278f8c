import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker, unaccounted } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { Program, root } from './support/process.ts'
import { PATIENT } from './support/service.ts'
import { SioTalker } from './support/sio-talker.ts'
import { below } from './support/ws-talker.ts'

// A client of socket.io outlives the process that served it, with its ids, rooms and data.

/** Longer than any test takes: nothing is cut at the deadline. */
const NEVER = { DRAIN_DEADLINE: '1h' }
const ROOMS = 4

void t.test('one broker, and backends of socket.io', { timeout: LIMIT }, async (whole) => {
  const broker = await startBroker(whole, {
    config: {
      listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }],
      // An ACK that is late would make a relay, which does not move.
      services: { web: PATIENT },
    },
  })
  const port = broker.port()
  /** Each process that runs gets all news, as from a bus. */
  const running = new Set<Program>()
  /** Lives until it is drained, or all scenes are over. */
  const start = async (env: NodeJS.ProcessEnv = {}) => {
    const program = new Program(whole, process.execPath, [`${root}/test/programs/socket-io-backend.mjs`], {
      env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', ...NEVER, ...env },
    })
    // News may come while it ends. It may take connections over as soon as it is registered, and must have had them before.
    program.child.stdin?.on('error', () => undefined)
    running.add(program)
    await program.message('ready')
    return program
  }
  let current = await start()

  /** Replaces the current process, which ends once all connections have left it. */
  async function deploy(env: NodeJS.ProcessEnv = {}): Promise<Program> {
    const next = await start(env)
    await broker.backends(2)
    current.kill('SIGTERM')
    const { code } = await current.exited
    whole.equal(code, 0)
    running.delete(current)
    const gone = current
    current = next
    return gone
  }

  await whole.test(
    'deploys under traffic: nothing is lost, doubled or reordered, no client reconnects',
    async (t) => {
      const talkers = await Promise.all(
        Array.from({ length: 40 }, (_, index) =>
          new SioTalker(t, port, {
            room: `r${index % ROOMS}`,
            ...(index % 4 === 3 && { transports: ['polling', 'websocket'] }),
          }).open(),
        ),
      )
      await eventually(
        () => talkers.every(({ socket }) => socket.io.engine.transport.name === 'websocket'),
        'all use WebSockets',
      )
      const before = await Promise.all(talkers.map((talker) => talker.who()))
      const published = Array.from({ length: ROOMS }, () => 0)
      const timer = setInterval(() => {
        const room = below(ROOMS)
        const number = (published[room] = (published[room] ?? 0) + 1)
        for (const program of running) program.say(`news r${room} ${number}`)
        for (let index = 0; index < 4; index++) talkers[below(talkers.length)]?.sayAnything()
        talkers[below(talkers.length)]?.sayMany(5)
      }, 3)
      // Deploys come sooner than pings do: the time of the next ping goes along.
      for (let round = 0; round < 3; round++) {
        const gone = await deploy()
        const closed = gone.messages().filter(({ msg }) => msg === 'closed')
        t.ok(closed.length >= 40, `${closed.length} have left`)
        t.ok(
          closed.every(({ movedOn }) => movedOn === true),
          'none of them as a user who leaves',
        )
      }
      clearInterval(timer)
      for (const talker of talkers) {
        await eventually(
          () => talker.isAnswered && talker.news === published[Number(talker.room[1])],
          () =>
            `${talker.sent} sent, ${talker.answered} answered, ${talker.news} news: ${talker.problems.join()}`,
        )
        await talker.checkNamespaces()
      }
      for (let room = 0; room < ROOMS; room++) current.say(`broadcast r${room} 1`)
      await eventually(() => talkers.every(({ broadcasts }) => broadcasts === 1), 'one broadcast each')
      const after = await Promise.all(talkers.map((talker) => talker.who()))
      const kept = ({ id, rooms, data, auth, issued, transport, host }: (typeof after)[number]) => ({
        id,
        rooms,
        room: data.room,
        auth,
        issued,
        transport,
        host,
      })
      t.same(after.map(kept), before.map(kept))
      t.ok(after.every(({ marked, recovered }) => marked >= 3 && recovered))
      t.same(
        after.map(({ data }) => data.count),
        talkers.map(({ sent }) => sent),
      )
      await eventually(() => talkers.every(({ pings }) => pings > 0), 'each client gets pings')
      t.same(
        talkers.map(({ problems, reconnects }) => ({ problems, reconnects })),
        talkers.map(() => ({ problems: [], reconnects: 0 })),
      )
      t.comment(`${talkers.reduce((sum, { sent }) => sum + sent, 0)} events, ${published.join()} news`)
      t.equal(current.messages().filter(({ msg }) => msg === 'recovered, and not resumed').length, 0)
      for (const talker of talkers) talker.close()
      const status = await broker.until(({ services }) => services[0]?.inFlight === 0, 'at rest')
      t.equal(unaccounted(status), 0)
    },
  )

  const talkersOf = async (faults: readonly (string | undefined)[]) =>
    await Promise.all(
      faults.map((fault) => new SioTalker(whole, port, fault === undefined ? {} : { fault }).open()),
    )

  await whole.test(
    'a client that cannot move stays, and is told to reconnect if it could not be taken up',
    async (t) => {
      const wrong = {
        'state-throws': '`state` threw',
        'data-date': 'socket.data.since is not JSON: Date',
        'data-cycle': 'socket.data.self is not JSON: an object that contains itself',
      }
      const [good, owed, owing, ...staying] = await talkersOf([
        undefined,
        undefined,
        undefined,
        'state-never',
        ...Object.keys(wrong),
      ])
      const refused = await talkersOf(['resume-throws', 'auth-expires'])
      const polling = await new SioTalker(t, port, { fault: 'polling', transports: ['polling'] }).open()
      if (good === undefined || owed === undefined || owing === undefined) throw new Error('none')
      owed.socket.emit('never', () => undefined)
      owing.socket.emit('ask-me', -1)
      await Promise.all([owed.who(), owing.who()])
      const giver = current
      const next = await start()
      await broker.backends(2)
      giver.kill('SIGTERM')
      for (const text of Object.values(wrong)) await giver.line((line) => line.includes(text), text)
      for (const talker of refused)
        await eventually(
          () => talker.reconnects > 0,
          () => `reconnects: ${talker.problems.join()}`,
        )
      await next.line((line) => line.includes('could not be resumed'), 'the reason')
      await next.line((line) => line.includes('the namespace / was refused: expired'), 'the other reason')
      await eventually(async () => (await good.who()).pid === next.child.pid, 'it has moved')
      t.same(good.problems, [])
      for (const talker of [owed, owing, ...staying]) {
        t.equal((await talker.who()).pid, giver.child.pid, 'it is served where it was')
        t.same(talker.problems, [])
      }
      // Its next request reaches another process, which does not know its session.
      await eventually(() => polling.reconnects > 0, 'a client that polls reconnects by itself')
      t.equal((await polling.who()).pid, next.child.pid)
      for (const talker of [good, owed, owing, polling, ...staying, ...refused]) talker.close()
      const closed = () =>
        giver.messages().filter(({ msg, fault }) => msg === 'closed' && String(fault) in wrong)
      await eventually(() => closed().length === 3, 'all have left')
      t.ok(
        closed().every(({ movedOn }) => movedOn === false),
        'users who leave',
      )
      // It would wait for the client that polls until the ping timeout.
      giver.kill('SIGKILL')
      await giver.exited
      running.delete(giver)
      current = next
    },
  )

  await whole.test('no backend takes it: it stays until it leaves', async (t) => {
    const talkers = await talkersOf([undefined, undefined])
    const giver = current
    await startBackend(t, broker)
    await broker.backends(2)
    giver.kill('SIGTERM')
    await giver.message('draining')
    for (let turn = 0; turn < 5; turn++)
      for (const talker of talkers) t.equal((await talker.who()).pid, giver.child.pid)
    // Without this namespace, it cannot be what it was to its client.
    const less = await start({ REFUSES: 'yes' })
    for (const talker of talkers) await eventually(() => talker.problems.length > 0, 'it ends')
    await less.line((line) => line.includes('the namespace /admin was refused'), 'the reason')
    for (const talker of talkers) talker.close()
    await giver.exited
    less.kill('SIGTERM')
    await less.exited
    running.clear()
  })

  await whole.test('compressed, and with the recovery of connection state', async (t) => {
    const env = { DEFLATE: 'yes', RECOVERY: 'yes' }
    current = await start(env)
    const talkers = await talkersOf([undefined, undefined, undefined])
    const timer = setInterval(() => talkers[below(3)]?.sayAnything(), 2)
    for (let round = 0; round < 2; round++) await deploy(env)
    clearInterval(timer)
    for (const talker of talkers) {
      await eventually(
        () => talker.isAnswered,
        () => `${talker.sent} sent, ${talker.answered} answered`,
      )
      await talker.checkNamespaces()
      const { marked, recovered } = await talker.who()
      t.ok(marked >= 2 && recovered)
      t.same(talker.problems, [])
    }
  })
})
