import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type Offer, ulidFromBytes } from '@baton/backend-sdk/protocol'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, type Broker, startBroker, type Status } from './support/broker.ts'
import { Client } from './support/client.ts'
import { EventStream } from './support/event-stream.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { configure, parseAnswer, reload, say } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { LIMIT, SOON } from './support/limits.ts'

// Flight records compared with what really happened; the event stream; and who requested each change.

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

/** For the broker with a token. */
const authorization = 'Bearer open-sesame'

async function ask<Answer>(broker: Broker, path: string): Promise<Answer> {
  return (await (await fetch(`${broker.admin}${path}`, { headers: { authorization } })).json()) as Answer
}

function statusOf(broker: Broker): Promise<Status> {
  return ask(broker, '/api/v1/status')
}

async function records(broker: Broker, query = ''): Promise<FlightRecord[]> {
  return (await ask<{ connections: FlightRecord[] }>(broker, `/api/v1/connections${query}`)).connections
}

function find(broker: Broker, id: string): Promise<FlightRecord> {
  return ask(broker, `/api/v1/connections/${id}`)
}

/** The record of this client, once `holds`: the client may see a step before or after the broker has recorded it. */
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

/** Times never decrease, from accept on, and the outcome's is among them. */
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

/** A client of this listener that has sent a request. */
async function visit(t: Test, broker: Broker, listener = 'web'): Promise<Client> {
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port(listener) })
  client.request()
  return client
}

/** A log line of the master or a worker that names the requester. */
async function logged(broker: Broker, msg: string): Promise<Record<string, unknown>> {
  await broker.program.message(msg)
  return broker.program.messages().findLast((each) => each['msg'] === msg) as Record<string, unknown>
}

/** No deadline expires by itself, even on a busy machine. */
const LONG = { ackDeadline: '10m', tokenTtl: '20m', holdTimeout: '10m' }

void t.test('records of connections, and the requester of each change', { timeout: LIMIT }, async (t) => {
  const plain = http.createServer((_request, response) => response.end('plain')).listen(0, '127.0.0.1')
  await once(plain, 'listening')
  t.teardown(() => plain.close())
  const upstream = `127.0.0.1:${(plain.address() as AddressInfo).port}`
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'token'), 'open-sesame\n', { mode: 0o600 })
  const services = {
    web: LONG,
    waiting: LONG,
    soon: { holdTimeout: '150ms' },
    full: { maxHeld: 0 },
    killed: LONG,
    refusing: LONG,
    silent: { ...LONG, ackDeadline: '300ms' },
    lost: LONG,
    carried: { ...LONG, handoff: 'off' },
    old: { upstreams: [{ address: upstream }] },
  }
  const managed = {
    command: [process.execPath, join(root, 'test/programs/http-backend.mjs')],
    // So that there is still a deploy to abort, however slowly the `abort` command starts.
    minHealthy: '10m',
  }
  const broker = await startBroker(t, {
    config: {
      admin: { listen: '127.0.0.1:0', tokenFile: join(folder, 'token') },
      listeners: Object.keys(services).map((name) => ({ name, listen: '127.0.0.1:0', service: name })),
      services: { ...services, managed },
    },
  })
  const whole = t
  const listener = await EventStream.open(t, broker, { authorization })
  await listener.event('status', () => true, 'the first status')

  await t.test('held, then handed off', async (t) => {
    const client = await visit(t, broker)
    const waiting = await recordOf(broker, client.port, ({ steps }) => steps.length === 2)
    t.match(waiting, { service: 'web', listener: 'web', outcome: null, backend: null, durationMs: null })
    t.same(stepsOf(waiting), ['accepted', 'held NoReadyBackend'])
    t.same(await find(broker, waiting.id), waiting)

    const backend = await startBackend(whole, broker)
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
    // Not the time of the response: the backend may send it before the broker has read its ACK.
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

  await t.test('rejected, by timeout or because the queue was full', async (t) => {
    const late = await visit(t, broker, 'soon')
    t.equal((await late.answer()).status, 503)
    const timedOut = await recordOf(broker, late.port, isOver)
    t.match(timedOut, { outcome: 'rejected', reason: 'hold_timeout', service: 'soon', backend: null })
    t.same(stepsOf(timedOut), ['accepted', 'held NoReadyBackend', 'rejected hold_timeout'])
    t.ok((timedOut.durationMs ?? 0) >= 149)
    checkTimes(t, timedOut)
    const many = await visit(t, broker, 'full')
    t.equal((await many.answer()).status, 503)
    const refused = await recordOf(broker, many.port, isOver)
    t.same(stepsOf(refused), ['accepted', 'rejected hold_full'])
  })

  await t.test('gone while held', async (t) => {
    const client = await Client.open(t, { host: '127.0.0.1', port: broker.port('waiting') })
    const { port } = client
    await recordOf(broker, port, ({ steps }) => steps.length === 2)
    client.socket.destroy()
    const record = await recordOf(broker, port, isOver)
    t.match(record, { outcome: 'client_gone', reason: null, backend: null })
  })

  await t.test('the list is filtered, and agrees with the counters', async (t) => {
    const { services } = await statusOf(broker)
    for (const outcome of ['handed_off', 'rejected', 'client_gone', 'relayed', 'relinquished'] as const) {
      const counted = services.reduce((sum, { outcomes }) => sum + outcomes[outcome], 0)
      t.equal((await records(broker, `?outcome=${outcome}`)).length, counted, outcome)
    }
    t.equal((await records(broker, '?service=web')).length, 2)
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

  await t.test('a backend that is killed between the offer and its ACK', async (t) => {
    const first = await startBackend(t, broker, 'http-backend.mjs', { service: 'killed' })
    first.kill('SIGSTOP')
    const client = await visit(t, broker, 'killed')
    const offered = await recordOf(broker, client.port, ({ steps }) => steps.length === 3)
    t.same(stepsOf(offered), ['accepted', 'chosen killed-1', 'offered killed-1'])
    t.match(offered, { outcome: null, backend: { slot: 'killed-1' } })
    const second = await startBackend(t, broker, 'http-backend.mjs', { service: 'killed' })
    first.kill('SIGKILL')
    const { connection, pid } = await served(client)
    t.equal(pid, second.pid)
    const record = await recordOf(broker, client.port, isOver)
    t.equal(record.id, connection)
    t.same(stepsOf(record), [
      'accepted',
      'chosen killed-1',
      'offered killed-1',
      'returned killed-1 BackendGone',
      'chosen killed-2',
      'offered killed-2',
      'acknowledged killed-2',
      'released killed-2',
    ])
    t.match(record.backend, { slot: 'killed-2' })
    checkTimes(t, record)
  })

  await t.test('refused, revoked, and relinquished', async (t) => {
    // It refuses the first offer, and does not read the next one, for the same client.
    const unwilling = await FalseBackend.register(t, broker.control, hello('refusing'))
    unwilling.wire.answersProbes = true
    const client = await visit(t, broker, 'refusing')
    const [offer] = (await unwilling.offers(1)) as [Offer]
    for (const { fd } of unwilling.take(1)) fd.close()
    unwilling.nack(offer)
    const again = await recordOf(broker, client.port, ({ steps }) => steps.length === 7)
    t.equal(again.id, ulidFromBytes(offer.connection))
    const { slot } = unwilling.welcome
    t.same(stepsOf(again), [
      'accepted',
      `chosen ${slot}`,
      `offered ${slot}`,
      `returned ${slot} TokenNotPending`,
      'held TokenNotPending',
      `chosen ${slot}`,
      `offered ${slot}`,
    ])
    t.match(again, { outcome: null, backend: { slot } })

    const silent = await FalseBackend.register(t, broker.control, hello('silent'))
    const forgotten = await visit(t, broker, 'silent')
    const back = await recordOf(broker, forgotten.port, ({ steps }) =>
      steps.some(({ reason }) => reason === 'BackendAckTimeout'),
    )
    t.same(stepsOf(back).slice(0, 4), [
      'accepted',
      `chosen ${silent.welcome.slot}`,
      `offered ${silent.welcome.slot}`,
      `returned ${silent.welcome.slot} BackendAckTimeout`,
    ])
    t.match(back, { outcome: null, backend: null })

    // It takes a client, sends nothing, and violates the protocol: there is no way to know whether it touched the client.
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
    for (const record of [again, back, lost]) checkTimes(t, record)

    // Both would be held until the broker ends: a client that has sent a request and FIN still wants the response.
    for (const [backend, waits] of [
      [unwilling, client],
      [silent, forgotten],
    ] as const) {
      backend.die()
      const { port } = waits
      waits.socket.resetAndDestroy()
      t.match(await recordOf(broker, port, isOver), { outcome: 'client_gone' })
    }
  })

  await t.test('relays: of a backend with its ACK, to an upstream without', async (t) => {
    await startBackend(t, broker, 'http-backend.mjs', { service: 'carried' })
    const client = await visit(t, broker, 'carried')
    const { connection } = await served(client)
    const running = await recordOf(broker, client.port, isOver)
    t.match(running, { id: connection, outcome: 'relayed', backend: { slot: 'carried-1' } })
    t.same(stepsOf(running), [
      'accepted',
      'relay_offered carried-1',
      'acknowledged carried-1',
      'relayed carried-1',
    ])
    client.socket.end()
    const over = await recordOf(broker, client.port, ({ steps }) => steps.at(-1)?.step === 'closed')
    t.equal(over.durationMs, running.durationMs, 'to the relay, not to its end')
    checkTimes(t, over)

    const other = await visit(t, broker, 'old')
    t.equal((await other.answer()).body, 'plain')
    const record = await recordOf(broker, other.port, isOver)
    t.match(record, { outcome: 'relayed', backend: null })
    t.same(stepsOf(record), ['accepted', `relay_offered ${upstream}`, `relayed ${upstream}`])
  })

  // Every change is in the log and in the stream, with its requester.
  const uid = process.getuid?.()
  const own = `uid ${uid} (pid ${process.pid})`
  const address = /^127\.0\.0\.1:\d+ with a token$/

  await t.test('a deploy, and an abort of it', async (t) => {
    const baton = (...args: string[]) =>
      new Program(t, process.execPath, [batonCommand, ...args, '--config', broker.configFile])
    await eventually(
      async () =>
        (await statusOf(broker)).services.some(
          ({ name, backends }) => name === 'managed' && backends.some(({ state }) => state === 'ready'),
        ),
      'the managed backend is ready',
    )
    const deploy = baton('deploy', 'managed')
    await deploy.line((line) => line.startsWith('started'), 'the first step')
    const by = `uid ${uid} (pid ${deploy.pid})`
    t.match(await logged(broker, 'deploying'), { service: 'managed', abort: false, by })
    t.match(await listener.change(({ kind }) => kind === 'deploy', 'deploy'), {
      data: { service: 'managed', by, text: `${by} deploys service managed` },
    })
    const abort = baton('deploy', 'managed', '--abort')
    await Promise.all([deploy.exited, abort.exited])
    const aborter = `uid ${uid} (pid ${abort.pid})`
    t.match(await logged(broker, 'aborting deploy'), { service: 'managed', by: aborter })
    await listener.change(({ text }) => text === `${aborter} aborts the deploy of service managed`, 'abort')
    await listener.change(
      ({ text }) => String(text).startsWith('service managed could not be deployed: '),
      'its end',
    )
    t.equal(parseAnswer(await say(t, broker, 'deploy wbe at-once=1')).success, false)
    t.notOk(listener.changes.some(({ service }) => service === 'wbe'))
  })

  await t.test('a drain, without the token and with it', async (t) => {
    const path = `${broker.admin}/api/v1/services/managed/drain`
    t.equal((await fetch(path, { method: 'POST' })).status, 401)
    t.notOk(broker.program.messages().some(({ msg }) => msg === 'drain requested'))
    t.equal((await fetch(path, { method: 'POST', headers: { authorization } })).status, 202)
    t.match(await logged(broker, 'drain requested'), { service: 'managed', by: address })
    const { data } = await listener.change(({ kind }) => kind === 'drain', 'drain')
    t.match(data, { service: 'managed', by: address, text: /drains service managed$/ })
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

  await t.test(
    'a reload: a held client keeps its id and its deadline, and streams move to the next worker',
    async (t) => {
      const client = await visit(t, broker, 'waiting')
      const before = await recordOf(broker, client.port, ({ steps }) => steps.length === 2)

      configure(broker, { recorder: 3 })
      t.equal((await reload(t, broker)).success, true)
      await listener.ended
      t.ok(listener.response.complete)
      t.match(await listener.change(({ kind, by }) => kind === 'reload' && by === own, 'who asked'), {
        data: { text: /reloads the broker$/ },
      })
      t.ok(listener.changes.some(({ kind, to }) => kind === 'broker_state' && to === 'draining'))

      await startBackend(whole, broker, 'http-backend.mjs', { service: 'waiting' })
      const { connection } = await served(client)
      t.equal(connection, before.id)
      const record = await recordOf(broker, client.port, isOver)
      t.equal(record.id, before.id)
      t.equal(record.acceptedAt, before.acceptedAt)
      t.same(stepsOf(record), [
        'accepted',
        'moved',
        'held NoReadyBackend',
        'chosen waiting-1',
        'offered waiting-1',
        'acknowledged waiting-1',
        'released waiting-1',
      ])
      checkTimes(t, record)
    },
  )

  await t.test('a small ring forgets', async (t) => {
    const ids: string[] = []
    for (let each = 0; each < 5; each++)
      ids.push((await served(await visit(t, broker, 'waiting'))).connection)
    t.same(
      (await records(broker)).map(({ id }) => id),
      ids.slice(-3).toReversed(),
    )
    t.match(await find(broker, ids[0] as string), { error: { code: 'BATON_ERR_ADMIN_NO_CONNECTION' } })
  })

  await t.test('a stop', async (t) => {
    t.equal(parseAnswer(await say(t, broker, 'stop')).success, true)
    t.match(await logged(broker, 'draining'), { by: own })
  })
})

void t.test(
  'the stream reports the load, and backends that come, drain and go; a disabled recorder records nothing',
  { timeout: LIMIT },
  async (t) => {
    // A stop waits for clients, but not for listeners of the stream.
    const broker = await startBroker(t, { config: { recorder: 0, drainDeadline: '10m' } })
    const listener = await EventStream.open(t, broker)
    const other = await EventStream.open(t, broker)
    const status = await listener.event('status', () => true, 'the first status')
    // Without what only the configuration changes.
    const { listeners, ...rest } = await broker.status()
    const changing = listeners.map((each) => ({ ...each, routes: undefined, limits: undefined }))
    t.same(status.data['status'], JSON.parse(JSON.stringify({ listeners: changing, ...rest })))
    const backend = await startBackend(t, broker)
    const registered = await listener.change(({ kind }) => kind === 'backend_registered', 'registered')
    t.match(registered.data, { service: 'web', to: 'ready', backend: { slot: 'web-1', pid: backend.pid } })

    // Slow visits may be accepted in one second and handed off in the next.
    const loaded = () =>
      listener.events
        .filter(({ event }) => event === 'status')
        .map(({ data }) => Object(data['services']).web as Record<string, unknown>)
        .find((web) => Number(web['handoffsPerSecond']) > 0 && Number(web['acceptedPerSecond']) > 0)
    const ids: string[] = []
    while (ids.length < 20 || loaded() === undefined) {
      const client = await visit(t, broker)
      ids.push((await served(client)).connection)
      // An idle connection would hold up the backend's drain below until its deadline.
      client.socket.destroy()
    }
    const web = loaded()
    const latency = web?.['latencyMs'] as Record<'p50' | 'p90' | 'p99', number> | undefined
    const { p50 = 0, p90 = 0, p99 = 0 } = latency ?? {}
    t.ok(p50 > 0 && p50 <= p90 && p90 <= p99 && p99 < SOON, JSON.stringify(web))
    t.same(await records(broker), [])
    t.match(await find(broker, ids[0] as string), { error: { code: 'BATON_ERR_ADMIN_NO_CONNECTION' } })

    backend.kill('SIGSTOP')
    const stuck = await listener.change(({ to }) => to === 'unresponsive', 'it is stuck')
    t.match(stuck.data, { kind: 'backend_state', from: 'ready', backend: { slot: 'web-1' } })
    backend.kill('SIGCONT')
    await listener.change(({ from, to }) => from === 'unresponsive' && to === 'ready', 'it continues')
    backend.kill('SIGTERM')
    for (const each of [listener, other])
      await each.change(({ kind }) => kind === 'backend_deregistered', 'it has gone')
    t.same(
      other.changes.map(({ text }) => text),
      listener.changes.map(({ text }) => text),
      'both receive the same',
    )
    const events = listener.events.map(({ id }) => id)
    t.equal(new Set(events).size, events.length)

    await t.test('open streams do not delay the end', async (t) => {
      const from = performance.now()
      broker.program.kill('SIGTERM')
      await broker.program.exited
      t.ok(performance.now() - from < SOON, `${performance.now() - from} ms`)
      await Promise.all([listener.ended, other.ended])
      t.ok(listener.response.complete)
      t.equal(listener.changes.at(-1)?.['kind'], 'broker_state')
    })
  },
)
