import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type Offer, ulidFromBytes } from '@baton/backend-sdk/protocol'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { EventStream } from './support/event-stream.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { reload } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { visit } from './support/visit.ts'
import { LIMIT } from './support/limits.ts'

// What the API says of connections, beside what happened to them; what the stream of events tells; and who asked for what.

interface FlightRecord {
  id: string
  service: string
  listener: string
  peer: string
  acceptedAt: string
  outcome: string | null
  reason: string | null
  backend: { id: string; slot: string } | null
  durationMs: number | null
  steps: { at: number; step: string; backend?: string; reason?: string }[]
}

async function ask<Answer>(broker: Broker, path: string): Promise<Answer> {
  return (await (await fetch(`${broker.admin}${path}`)).json()) as Answer
}

async function records(broker: Broker, query = ''): Promise<FlightRecord[]> {
  return (await ask<{ connections: FlightRecord[] }>(broker, `/api/v1/connections${query}`)).connections
}

function find(broker: Broker, id: string): Promise<FlightRecord> {
  return ask(broker, `/api/v1/connections/${id}`)
}

/** The record of this client, once `holds`: what a client sees of the broker comes before or after the broker has noted it. */
async function recordOf(
  broker: Broker,
  port: number,
  holds: (record: FlightRecord) => boolean,
): Promise<FlightRecord> {
  let record: FlightRecord | undefined
  await eventually(
    async () => {
      record = (await records(broker, '?limit=1000')).find(({ peer }) => peer === `127.0.0.1:${port}`)
      return record !== undefined && holds(record)
    },
    () => `the record of ${port}: ${JSON.stringify(record)}`,
  )
  return record as FlightRecord
}

const isOver = ({ outcome }: FlightRecord) => outcome !== null

function stepsOf({ steps }: FlightRecord): string[] {
  return steps.map(({ step, backend, reason }) =>
    [step, backend, reason].filter((part) => part !== undefined).join(' '),
  )
}

/** Times go forward, from accept on; the outcome lies among them. */
function checkTimes(t: Test, { steps, durationMs, id }: FlightRecord): void {
  const times = steps.map(({ at }) => at)
  t.equal(times[0], 0, id)
  t.same(
    times,
    times.toSorted((a, b) => a - b),
    id,
  )
  if (durationMs !== null) t.ok(times.includes(durationMs), `${id}: ${durationMs} of ${times.join(', ')}`)
}

interface Served {
  pid: number
  connection: string
}

async function served(client: Client): Promise<Served> {
  return JSON.parse((await client.answer()).body) as Served
}

void t.test(
  'records of clients that were handed over, waited, or were rejected',
  { timeout: LIMIT },
  async (t) => {
    const start = () => startBackend(t, broker)
    const listeners = ['web', 'soon', 'full'].map((name) => ({ name, listen: '127.0.0.1:0', service: name }))
    const broker = await startBroker(t, {
      config: { listeners, services: { web: {}, soon: { holdTimeout: '150ms' }, full: { maxHeld: 0 } } },
    })
    const to = async (listener: string) => {
      const client = await Client.open(t, { host: '127.0.0.1', port: broker.port(listener) })
      client.request()
      return client
    }

    await t.test('held, then handed off', async (t) => {
      const client = await visit(t, broker)
      const waiting = await recordOf(broker, client.port, ({ steps }) => steps.length === 2)
      t.match(waiting, { service: 'web', listener: 'web', outcome: null, backend: null, durationMs: null })
      t.same(stepsOf(waiting), ['accepted', 'held NoReadyBackend'])
      t.same(await find(broker, waiting.id), waiting)

      const backend = await start()
      const { connection, pid } = await served(client)
      t.equal(connection, waiting.id, 'the id that was shown while it waited')
      t.equal(pid, backend.pid)
      const record = await recordOf(broker, client.port, isOver)
      const registered = (await backend.message('ready')) as { id?: string; slot?: string }
      t.match(record, { outcome: 'handed_off', reason: null, backend: { id: registered.id, slot: 'web-1' } })
      t.same(stepsOf(record), [
        'accepted',
        'held NoReadyBackend',
        'chosen web-1',
        'offered web-1',
        'acknowledged web-1',
        'released web-1',
      ])
      checkTimes(t, record)
      t.ok((record.durationMs ?? 0) > 50, 'a process does not start faster')
    })

    await t.test('handed off at once', async (t) => {
      const before = Date.now()
      const from = performance.now()
      const client = await visit(t, broker)
      const { connection } = await served(client)
      const record = await recordOf(broker, client.port, isOver)
      // Not when the client was answered: the backend may do that before the broker has read its ACK.
      const took = performance.now() - from
      t.equal(record.id, connection)
      t.same(stepsOf(record), [
        'accepted',
        'chosen web-1',
        'offered web-1',
        'acknowledged web-1',
        'released web-1',
      ])
      checkTimes(t, record)
      t.ok((record.durationMs ?? Infinity) < took, `${record.durationMs} of ${took} ms`)
      const acceptedAt = Date.parse(record.acceptedAt)
      t.ok(acceptedAt >= before - 1 && acceptedAt <= Date.now(), record.acceptedAt)
    })

    await t.test('rejected, because its time was over or there was no room', async (t) => {
      const late = await to('soon')
      t.equal((await late.answer()).status, 503)
      const timedOut = await recordOf(broker, late.port, isOver)
      t.match(timedOut, { outcome: 'rejected', reason: 'hold_timeout', service: 'soon', backend: null })
      t.same(stepsOf(timedOut), ['accepted', 'held NoReadyBackend', 'rejected hold_timeout'])
      t.ok((timedOut.durationMs ?? 0) >= 149)
      checkTimes(t, timedOut)
      const many = await to('full')
      t.equal((await many.answer()).status, 503)
      const refused = await recordOf(broker, many.port, isOver)
      t.same(stepsOf(refused), ['accepted', 'rejected hold_full'])
    })

    await t.test('gone while it waited', async (t) => {
      const client = await Client.open(t, { host: '127.0.0.1', port: broker.port('soon') })
      const { port } = client
      await recordOf(broker, port, ({ steps }) => steps.length === 2)
      client.socket.destroy()
      const record = await recordOf(broker, port, isOver)
      t.match(record, { outcome: 'client_gone', reason: null, backend: null })
    })

    await t.test('the list is filtered, and agrees with what is counted', async (t) => {
      const { services } = await broker.status()
      for (const outcome of ['handed_off', 'rejected', 'client_gone', 'relayed', 'relinquished'] as const) {
        const counted = services.reduce((sum, { outcomes }) => sum + outcomes[outcome], 0)
        t.equal((await records(broker, `?outcome=${outcome}`)).length, counted, outcome)
      }
      t.equal((await records(broker, '?service=soon')).length, 2)
      const slowest = (await records(broker, '?slowest=true')).map(({ durationMs }) => durationMs ?? 0)
      t.same(
        slowest,
        slowest.toSorted((a, b) => b - a),
      )
      const { connections, recorded, capacity } = await ask<{
        connections: unknown[]
        recorded: number
        capacity: number
      }>(broker, '/api/v1/connections?limit=2')
      t.same([connections.length, recorded, capacity], [2, 5, 4096])
    })
  },
)

void t.test('a backend that is killed between the offer and its ACK', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: { services: { web: { ackDeadline: '20s', tokenTtl: '40s' } } },
  })
  const first = await startBackend(t, broker)
  first.kill('SIGSTOP')
  const client = await visit(t, broker)
  const offered = await recordOf(broker, client.port, ({ steps }) => steps.length === 3)
  t.same(stepsOf(offered), ['accepted', 'chosen web-1', 'offered web-1'])
  t.match(offered, { outcome: null, backend: { slot: 'web-1' } })
  const second = await startBackend(t, broker)
  first.kill('SIGKILL')
  const { connection, pid } = await served(client)
  t.equal(pid, second.pid)
  const record = await recordOf(broker, client.port, isOver)
  t.equal(record.id, connection)
  t.same(stepsOf(record), [
    'accepted',
    'chosen web-1',
    'offered web-1',
    'returned web-1 BackendGone',
    'chosen web-2',
    'offered web-2',
    'acknowledged web-2',
    'released web-2',
  ])
  t.match(record.backend, { slot: 'web-2' })
  checkTimes(t, record)
})

void t.test('refused, revoked, and relinquished', { timeout: LIMIT }, async (t) => {
  const listeners = ['web', 'lost'].map((name) => ({ name, listen: '127.0.0.1:0', service: name }))
  const broker = await startBroker(t, {
    config: {
      listeners,
      services: { web: { ackDeadline: '300ms' }, lost: { ackDeadline: '20s', tokenTtl: '40s' } },
    },
  })

  // It refuses the first offer, and does not even look at the next one, of the same client.
  const unwilling = await FalseBackend.register(t, broker.control, hello('web'))
  const { slot } = unwilling.welcome
  const client = await visit(t, broker)
  const [offer] = (await unwilling.offers(1)) as [Offer]
  for (const { fd } of unwilling.take(1)) fd.close()
  unwilling.nack(offer)
  const back = await recordOf(broker, client.port, ({ steps }) =>
    steps.some(({ reason }) => reason === 'BackendAckTimeout'),
  )
  t.equal(back.id, ulidFromBytes(offer.connection))
  t.same(stepsOf(back).slice(0, 8), [
    'accepted',
    `chosen ${slot}`,
    `offered ${slot}`,
    `returned ${slot} TokenNotPending`,
    'held TokenNotPending',
    `chosen ${slot}`,
    `offered ${slot}`,
    `returned ${slot} BackendAckTimeout`,
  ])
  t.match(back, { outcome: null, backend: null })

  // It takes a client, says nothing of it, and breaks the protocol: nobody can know whether it has touched it.
  const liar = await FalseBackend.register(t, broker.control, hello('lost'))
  const victim = await Client.open(t, { host: '127.0.0.1', port: broker.port('lost') })
  const [taken] = (await liar.offers(1)) as [Offer]
  liar.take(1)
  liar.wire.write(Buffer.from([1, 0, 0, 0, 0x7f]))
  const lost = await recordOf(broker, victim.port, isOver)
  t.match(lost, {
    id: ulidFromBytes(taken.connection),
    outcome: 'relinquished',
    backend: { id: liar.welcome.backend, slot: liar.welcome.slot },
  })
  t.equal(lost.steps.at(-1)?.step, 'relinquished')
  t.same(await records(broker, '?outcome=relinquished'), [lost])
  for (const record of [back, lost]) checkTimes(t, record)
})

void t.test('relays: of a backend with its ACK, to an upstream without', { timeout: LIMIT }, async (t) => {
  const plain = http.createServer((_request, response) => response.end('plain')).listen(0, '127.0.0.1')
  await once(plain, 'listening')
  t.teardown(() => plain.close())
  const upstream = `127.0.0.1:${(plain.address() as AddressInfo).port}`
  const broker = await startBroker(t, {
    config: {
      listeners: ['web', 'old'].map((name) => ({ name, listen: '127.0.0.1:0', service: name })),
      services: { web: { handoff: 'off' }, old: { upstreams: [{ address: upstream }] } },
    },
  })
  await startBackend(t, broker)
  const client = await visit(t, broker)
  const { connection } = await served(client)
  const running = await recordOf(broker, client.port, isOver)
  t.match(running, { id: connection, outcome: 'relayed', backend: { slot: 'web-1' } })
  t.same(stepsOf(running), ['accepted', 'relay_offered web-1', 'acknowledged web-1', 'relayed web-1'])
  client.socket.end()
  const over = await recordOf(broker, client.port, ({ steps }) => steps.at(-1)?.step === 'closed')
  t.equal(over.durationMs, running.durationMs, 'to the relay, not to its end')
  checkTimes(t, over)

  const other = await Client.open(t, { host: '127.0.0.1', port: broker.port('old') })
  t.equal((await (other.request(), other.answer())).body, 'plain')
  const record = await recordOf(broker, other.port, isOver)
  t.match(record, { outcome: 'relayed', backend: null })
  t.same(stepsOf(record), ['accepted', `relay_offered ${upstream}`, `relayed ${upstream}`])
})

void t.test('a small ring forgets, and one that is off records nothing', { timeout: LIMIT }, async (t) => {
  for (const capacity of [3, 0]) {
    const broker = await startBroker(t, { config: { recorder: capacity } })
    await startBackend(t, broker)
    const ids: string[] = []
    for (let each = 0; each < 5; each++) ids.push((await served(await visit(t, broker))).connection)
    await broker.until(({ services }) => services[0]?.outcomes.handed_off === 5, 'five handed over')
    t.same(
      (await records(broker)).map(({ id }) => id),
      capacity === 0 ? [] : ids.slice(-3).toReversed(),
    )
    t.match(await find(broker, ids[0] as string), { error: { code: 'BATON_ERR_ADMIN_NO_CONNECTION' } })
  }
})

void t.test(
  'a reload: a held client keeps its id and its time, and listeners are sent to the next worker',
  {
    timeout: LIMIT,
  },
  async (t) => {
    const broker = await startBroker(t)
    const client = await visit(t, broker)
    const before = await recordOf(broker, client.port, ({ steps }) => steps.length === 2)
    const listener = await EventStream.open(t, broker)
    await listener.event('status', () => true, 'the first status')

    t.equal((await reload(t, broker)).success, true)
    await listener.ended
    t.ok(listener.response.complete)
    t.match(await listener.change(({ kind }) => kind === 'reload', 'who asked'), {
      data: { by: `uid ${process.getuid?.()} (pid ${process.pid})`, text: /reloads the broker$/ },
    })
    t.ok(listener.changes.some(({ kind, to }) => kind === 'broker_state' && to === 'draining'))

    await startBackend(t, broker)
    const { connection } = await served(client)
    t.equal(connection, before.id)
    const record = await recordOf(broker, client.port, isOver)
    t.equal(record.id, before.id)
    t.equal(record.acceptedAt, before.acceptedAt)
    t.same(stepsOf(record), [
      'accepted',
      'moved',
      'held NoReadyBackend',
      'chosen web-1',
      'offered web-1',
      'acknowledged web-1',
      'released web-1',
    ])
    checkTimes(t, record)
  },
)

void t.test(
  'the stream tells of the load, and of backends that come, drain and go',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const listener = await EventStream.open(t, broker)
    const other = await EventStream.open(t, broker)
    const status = await listener.event('status', () => true, 'the first status')
    t.same(status.data['status'], await broker.status())
    const backend = await startBackend(t, broker)
    const registered = await listener.change(({ kind }) => kind === 'backend_registered', 'registered')
    t.match(registered.data, { service: 'web', to: 'ready', backend: { slot: 'web-1', pid: backend.pid } })

    for (let each = 0; each < 20; each++) await served(await visit(t, broker))
    const loaded = await listener.event(
      'status',
      ({ services }) => Number(Object(services).web.handoffsPerSecond) > 0,
      'a rate',
    )
    const { web } = loaded.data['services'] as Record<string, Record<string, unknown>>
    t.ok(Number(web?.['acceptedPerSecond']) > 0)
    const latency = web?.['latencyMs'] as Record<'p50' | 'p90' | 'p99', number> | undefined
    const { p50 = 0, p90 = 0, p99 = 0 } = latency ?? {}
    t.ok(p50 > 0 && p50 <= p90 && p90 <= p99 && p99 < 10_000, JSON.stringify(web))

    backend.kill('SIGSTOP')
    const stuck = await listener.change(({ to }) => to === 'unresponsive', 'it is stuck')
    t.match(stuck.data, { kind: 'backend_state', from: 'ready', backend: { slot: 'web-1' } })
    backend.kill('SIGCONT')
    await listener.change(({ from, to }) => from === 'unresponsive' && to === 'ready', 'it goes on')
    backend.kill('SIGTERM')
    await listener.change(({ kind }) => kind === 'backend_deregistered', 'it has gone')
    t.same(
      other.changes.map(({ text }) => text),
      listener.changes.map(({ text }) => text),
      'everybody hears the same',
    )
    const ids = listener.events.map(({ id }) => id)
    t.equal(new Set(ids).size, ids.length)

    await t.test('who listens does not delay the end', async (t) => {
      const from = performance.now()
      broker.program.kill('SIGTERM')
      await broker.program.exited
      t.ok(performance.now() - from < 5000, `${performance.now() - from} ms`)
      await Promise.all([listener.ended, other.ended])
      t.ok(listener.response.complete)
      t.equal(listener.changes.at(-1)?.['kind'], 'broker_state')
    })
  },
)

/** A record of who asked, on the log of the master or of a worker. */
async function logged(broker: Broker, msg: string): Promise<Record<string, unknown>> {
  await broker.program.message(msg)
  return broker.program.messages().findLast((each) => each['msg'] === msg) as Record<string, unknown>
}

void t.test('every change is on the log and in the stream, with who asked', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'token'), 'open-sesame\n', { mode: 0o600 })
  const program = join(root, 'test/programs/http-backend.mjs')
  const broker = await startBroker(t, {
    config: {
      admin: { listen: '127.0.0.1:0', tokenFile: join(folder, 'token') },
      // Long, so that there is a deploy to be aborted, however slowly the command starts that asks for it.
      services: { web: { command: [process.execPath, program], minHealthy: '60s' } },
    },
  })
  const authorization = 'Bearer open-sesame'
  const listener = await EventStream.open(t, broker, { authorization })
  await eventually(
    () => JSON.stringify(listener.events).includes('"state":"ready"'),
    'the managed backend is ready',
  )
  const address = /^127\.0\.0\.1:\d+ with a token$/

  const baton = (...args: string[]) =>
    new Program(t, process.execPath, [batonCommand, ...args, '--config', broker.configFile])

  await t.test('a deploy, and an abort of it', async (t) => {
    const uid = process.getuid?.()
    const deploy = baton('deploy', 'web')
    await deploy.line((line) => line.startsWith('started'), 'the first step')
    const by = `uid ${uid} (pid ${deploy.pid})`
    t.match(await logged(broker, 'deploying'), { service: 'web', abort: false, by })
    t.match(await listener.change(({ kind }) => kind === 'deploy', 'deploy'), {
      data: { service: 'web', by, text: `${by} deploys service web` },
    })
    const abort = baton('deploy', 'web', '--abort')
    await Promise.all([deploy.exited, abort.exited])
    const aborter = `uid ${uid} (pid ${abort.pid})`
    t.match(await logged(broker, 'deploy is aborted'), { service: 'web', by: aborter })
    await listener.change(({ text }) => text === `${aborter} aborts the deploy of service web`, 'abort')
    await listener.change(
      ({ text }) => String(text).startsWith('service web could not be deployed: '),
      'its end',
    )
    const refused = baton('deploy', 'wbe')
    t.equal((await refused.exited).code, 1)
    t.notOk(listener.changes.some(({ service }) => service === 'wbe'))
  })

  await t.test('a drain, without the token and with it', async (t) => {
    const path = `${broker.admin}/api/v1/services/web/drain`
    t.equal((await fetch(path, { method: 'POST' })).status, 401)
    t.notOk(broker.program.messages().some(({ msg }) => msg === 'drain asked for'))
    t.equal((await fetch(path, { method: 'POST', headers: { authorization } })).status, 202)
    t.match(await logged(broker, 'drain asked for'), { service: 'web', by: address })
    const { data } = await listener.change(({ kind }) => kind === 'drain', 'drain')
    t.match(data, { service: 'web', by: address, text: /drains service web$/ })
    t.notOk(broker.program.lines.some((line) => line.includes('sesame')))
  })

  await t.test('a reload that fails', async (t) => {
    const right = readFileSync(broker.configFile)
    writeFileSync(broker.configFile, '{')
    const post = (): Promise<Response> =>
      fetch(`${broker.admin}/api/v1/reload`, { method: 'POST', headers: { authorization } })
    t.equal((await post()).status, 409)
    t.match(await logged(broker, 'reloading'), { by: address })
    const { data } = await listener.change(({ text }) => /nothing has changed/.test(String(text)), 'failure')
    t.match(data, { kind: 'reload', by: address })
    writeFileSync(broker.configFile, right)
  })

  await t.test('a stop', async (t) => {
    const stop = baton('stop')
    await stop.exited
    t.match(await logged(broker, 'draining'), { by: `uid ${process.getuid?.()} (pid ${stop.pid})` })
  })
})
