import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker, unaccounted } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { EventReader } from './support/event-reader.ts'
import { LIMIT } from './support/limits.ts'
import { PATIENT } from './support/service.ts'

// An open answer outlives the process that began it: its backend hands it back with the app's state, and another backend goes on with it.

const FLAVOURS = ['http', 'express', 'fastify']

void t.test('one broker, and backends that move event streams', { timeout: LIMIT }, async (whole) => {
  const broker = await startBroker(whole, {
    config: {
      listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }],
      services: { web: PATIENT },
    },
  })
  const port = broker.port()
  const epoch = String(Date.now() - 1000)
  let started = 0
  /** Lives until it is drained, or all scenes are over. Never cut at the deadline. */
  const start = () =>
    startBackend(whole, broker, 'event-stream-backend.mjs', {
      env: { DRAIN_DEADLINE: '1h', EPOCH: epoch, FLAVOUR: FLAVOURS[started++ % FLAVOURS.length] },
    })
  let current = await start()
  /**
   * Another backend, which then has all streams, and has taken them up: an earlier `end` would not reach all. A stream may have left more than once, and
   * come back: as soon as a backend is ready, the broker wants them spread evenly.
   *
   * @param streams that are open
   */
  const deploy = async (streams: number) => {
    const next = await start()
    await broker.backends(2)
    const before = current
    current = next
    before.kill('SIGTERM')
    const { code } = await before.exited
    whole.equal(code, 0)
    const has = () => {
      const said = next.messages()
      return (
        said.filter(({ msg }) => msg === 'resumed').length - said.filter(({ msg }) => msg === 'closed').length
      )
    }
    await eventually(
      () => has() === streams,
      () => `${has()} of ${streams} have been taken up`,
    )
    return before
  }

  await whole.test(
    'three deploys, over three frameworks: no event is lost, doubled or reordered, and no client reconnects',
    async (t) => {
      const readers = await Promise.all(
        Array.from({ length: 30 }, () => new EventReader(t, port).open('/events?room=1')),
      )
      for (let turn = 0; turn < 3; turn++) {
        const before = await deploy(30)
        const closed = before.messages().filter(({ msg }) => msg === 'closed')
        t.ok(closed.length >= 30 && closed.every(({ movedOn }) => movedOn === true), 'all have moved')
      }
      const seen = readers.map(({ events }) => events)
      await eventually(() => readers.every(({ events }, index) => events > (seen[index] ?? 0)), 'they go on')
      current.say('end')
      await eventually(() => readers.every(({ ended }) => ended), 'all have ended')
      t.same(
        readers.map(({ problems, aborted, greetings, ports }) => [problems, aborted, greetings, ports.size]),
        readers.map(() => [[], false, 1, 1]),
      )
      t.equal(new Set(readers.map(({ last }) => last)).size, 1, 'all have the same events')
      // A client may have an event before the broker has read the ACK.
      const resumed = () => broker.metric('baton_connections_resumed_total{service="web",kind="replay"}')
      await eventually(async () => (await resumed()) >= 90, '90 moves are counted')
      t.comment(`${readers.reduce((sum, { events }) => sum + events, 0)} events`)

      // An ordinary connection again: for a request, for a stream of its own that moves too.
      for (const reader of readers) t.equal(await reader.text('/pid'), String(current.pid))
      const [reader] = readers
      if (reader === undefined) throw new Error('none')
      await reader.open()
      await eventually(() => reader.greetings === 2, 'greeted as a new client')
      await deploy(1)
      current.say('end')
      await eventually(() => reader.ended, 'ended')
      t.equal(await reader.text('/pid'), String(current.pid))
      t.same([reader.problems, reader.greetings, reader.ports.size], [[], 2, 1])
    },
  )

  await whole.test(
    'what is compressed, has a length or no usable state stays, and is served to its end',
    async (t) => {
      const paths = ['/gzip', '/sized', '/state-throws', '/state-bigint', '/state-large', '/state-never']
      const readers = await Promise.all(
        paths.map(async (path) => {
          const reader = new EventReader(t, port)
          const response = await reader.open(path)
          return { path, reader, response: response.response }
        }),
      )
      const moving = await new EventReader(t, port).open()
      const next = await start()
      await broker.backends(2)
      const before = current
      current = next
      before.kill('SIGTERM')
      await next.message('resumed')
      for (const text of ['`state` threw', 'did not return JSON', 'too much to hand back'])
        await before.line((line) => line.includes(text), text)
      before.say('count')
      t.match((await before.message('count'))['errors'], {
        BATON_ERR_STATE_FAILED: 1,
        BATON_ERR_STATE_INVALID: 1,
        BATON_ERR_STATE_TOO_LARGE: 1,
      })
      for (const { path, reader } of readers.slice(1)) {
        const { events } = reader
        await eventually(() => reader.events > events, `${path} goes on`)
        t.same(reader.problems, [])
      }
      before.say('end')
      const { code } = await before.exited
      t.equal(code, 0, 'it has ended by itself', { lines: before.lines })
      const closed = (path: string) =>
        before.messages().find((each) => each['msg'] === 'closed' && each['path'] === path)
      for (const path of paths) t.match(closed(path), { movedOn: false }, path)
      t.notOk(moving.ended)
      next.say('end')
      await eventually(() => moving.ended, 'ended')
      t.same(moving.problems, [])
    },
  )

  await whole.test('a resume that throws, or an answer that differs: the connection ends', async (t) => {
    const readers = await Promise.all(
      ['/resume-throws', '/refused'].map((path) => new EventReader(t, port).open(path)),
    )
    const before = current
    const next = await start()
    await broker.backends(2)
    before.kill('SIGTERM')
    await before.exited
    for (const reader of readers) {
      await eventually(() => reader.aborted, 'cut before its end')
      t.same(reader.problems, [])
    }
    await next.line((line) => line.includes('could not be resumed'), 'the failed resume')
    await next.line((line) => line.includes('answers the request'), 'the answer that differs')
    next.say('count')
    t.match((await next.message('count'))['errors'], {
      BATON_ERR_RESUME_FAILED: 1,
      BATON_ERR_ANSWER_DIFFERS: 1,
    })
    const status = await broker.until(({ services }) => services[0]?.inFlight === 0, 'at rest')
    t.equal(unaccounted(status), 0)
  })
})
