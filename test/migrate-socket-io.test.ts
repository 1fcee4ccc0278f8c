import { once } from 'node:events'
import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker, unaccounted } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import type { Program } from './support/process.ts'
import { SioTalker } from './support/sio-talker.ts'
import { below } from './support/ws-talker.ts'

// A client of socket.io outlives the process that served it, with its ids, rooms and data.

const PROGRAM = 'socket-io-backend.mjs'

/** Longer than any test takes: nothing is cut at the deadline. */
const NEVER = { DRAIN_DEADLINE: '1h' }
const ROOMS = 4

void t.test('one broker, and backends of socket.io', { timeout: LIMIT }, async (whole) => {
  const broker = await startBroker(whole, {
    config: {
      listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }],
      services: { web: { holdTimeout: '10m' } },
    },
  })
  const port = broker.port()
  /** Lives until it is drained, or all scenes are over. */
  const start = (env: NodeJS.ProcessEnv = {}, program = PROGRAM) =>
    startBackend(whole, broker, program, { env: { ...NEVER, ...env } })
  /** Each process that runs hears all news, as from a bus. */
  const running = new Set<Program>()
  let current = await start()
  running.add(current)

  /** Replaces the current process, which ends once all connections have left it. */
  async function deploy(env: NodeJS.ProcessEnv = {}): Promise<Program> {
    const next = await start(env)
    running.add(next)
    await broker.backends(2)
    current.kill('SIGTERM')
    const { code } = await current.exited
    whole.equal(code, 0)
    running.delete(current)
    const gone = current
    current = next
    return gone
  }

  await whole.test('deploys under traffic: nothing is lost, doubled or reordered, no client reconnects', async (t) => {
    const talkers = await Promise.all(
      Array.from({ length: 40 }, (_, index) =>
        new SioTalker(t, port, {
          room: `r${index % ROOMS}`,
          ...(index % 4 === 3 && { transports: ['polling', 'websocket'] }),
        }).open(),
      ),
    )
    for (const { socket } of talkers)
      if (socket.io.engine.transport.name !== 'websocket') await once(socket.io.engine, 'upgrade')
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
    for (let round = 0; round < 5; round++) {
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
        () => `${talker.sent} sent, ${talker.answered} answered, ${talker.news} news: ${talker.problems}`,
      )
      await talker.checkNamespaces()
    }
    for (let room = 0; room < ROOMS; room++) current.say(`broadcast r${room} 1`)
    await eventually(() => talkers.every(({ broadcasts }) => broadcasts === 1), 'one broadcast each')
    const after = await Promise.all(talkers.map((talker) => talker.who()))
    t.same(
      after.map(({ id, rooms, data, auth, issued, transport, host }) => ({ id, rooms, room: data.room, auth, issued, transport, host })),
      before.map(({ id, rooms, data, auth, issued, transport, host }) => ({ id, rooms, room: data.room, auth, issued, transport, host })),
    )
    t.ok(after.every(({ marked, recovered }) => marked >= 5 && recovered))
    t.same(
      after.map(({ data }) => data.count),
      talkers.map(({ sent }) => sent),
    )
    await eventually(() => talkers.every(({ pings }) => pings > 0), 'each client gets pings')
    t.same(
      talkers.map(({ problems, reconnects }) => ({ problems, reconnects })),
      talkers.map(() => ({ problems: [], reconnects: 0 })),
    )
    t.comment(`${talkers.reduce((sum, { sent }) => sum + sent, 0)} events, ${published} news`)
    t.equal(current.messages().filter(({ msg }) => msg === 'recovered, and not resumed').length, 0)
    for (const { socket } of talkers) socket.io._close()
    const status = await broker.until(({ services }) => services[0]?.inFlight === 0, 'at rest')
    t.equal(unaccounted(status), 0)
  })
})
