import type { Offer } from '@baton/backend-sdk/protocol'
import { type OwnedFd, poll, POLLHUP } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker, type Status, unaccounted } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { openDescriptors } from './support/proc.ts'
import type { Program } from './support/process.ts'
import { servedBy, visit } from './support/visit.ts'
import { LIMIT } from './support/limits.ts'

// Health checks: what an operator configures, what the backends see of it, and that clients and counts do not.

const PATH = '/healthz?deep=1'

const HEALTHY = 'backend is healthy'
const UNHEALTHY = 'backend is unhealthy and not chosen'

function start(
  t: Test,
  service: Record<string, unknown> = {},
  check: Record<string, unknown> = {},
): Promise<Broker> {
  const healthCheck = { path: PATH, interval: 50, timeout: '5s', ...check }
  return startBroker(t, { config: { services: { web: { healthCheck, ...service } } } })
}

function startApp(t: Test, broker: Broker, health = 'well'): Promise<Program> {
  return startBackend(t, broker, 'health-backend.mjs', { env: { HEALTH: health } })
}

function tell(app: Program, health: string): void {
  app.child.stdin?.write(`${health}\n`)
}

function checksOf(app: Program): number {
  return app.messages().filter(({ msg }) => msg === 'checked').length
}

function stateOf({ services }: Status, pid: number): string | undefined {
  return services[0]?.backends.find((each) => each.pid === pid)?.state
}

function untilState(broker: Broker, { pid }: { pid: number }, state: string): Promise<Status> {
  return broker.until((status) => stateOf(status, pid) === state, `${pid} is ${state}`)
}

/** What the broker has said of changes, without whom they were of; once there are `count` of them. */
async function changes(broker: Broker, count: number): Promise<Record<string, unknown>[]> {
  const found = () =>
    broker.program
      .messages()
      .filter(({ msg }) => msg === HEALTHY || msg === UNHEALTHY)
      .map(({ level, msg, reason }) => ({ level, msg, reason }))
  await eventually(() => found().length >= count, `${count} changes in the log`)
  return found()
}

async function stop(broker: Broker): Promise<void> {
  broker.program.kill('SIGTERM')
  await broker.program.exited
}

/** The fewest open at any of some moments: between two checks, when there is such a moment. */
async function restingDescriptors(pid: number, port?: number): Promise<number> {
  let fewest = Number.POSITIVE_INFINITY
  for (let look = 0; look < 40; look++) {
    fewest = Math.min(fewest, openDescriptors(pid, port))
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  return fewest
}

void t.test(
  'a backend that fails its checks is not chosen until one succeeds',
  { timeout: LIMIT },
  async (t) => {
    const broker = await start(t)
    const [app, other] = [await startApp(t, broker), await startApp(t, broker)]
    await broker.backends(2)
    t.match(await app.message('checked'), { listener: 'baton:health', agent: 'baton-health-check' })
    t.same(await changes(broker, 2), [
      { level: 30, msg: HEALTHY, reason: 'status 200' },
      { level: 30, msg: HEALTHY, reason: 'status 200' },
    ])

    tell(app, 'ill')
    const checked = checksOf(app)
    await untilState(broker, app, 'unhealthy')
    t.ok(checksOf(app) >= checked + 3, 'three in a row')
    t.same((await changes(broker, 3)).at(-1), { level: 40, msg: UNHEALTHY, reason: 'status 503' })
    t.equal(await broker.metric('baton_backends{service="web",state="unhealthy"}'), 1)
    t.equal(await broker.metric('baton_backends{service="web",state="ready"}'), 1)
    for (let each = 0; each < 6; each++) t.equal(await servedBy(t, broker), other.pid)

    tell(app, 'moved')
    await untilState(broker, app, 'ready')
    t.same((await changes(broker, 4)).at(-1), { level: 30, msg: HEALTHY, reason: 'status 307' })
    const served = new Set<number>()
    while (!served.has(app.pid)) served.add(await servedBy(t, broker))
  },
)

void t.test('one failure is a hiccup', { timeout: LIMIT }, async (t) => {
  const broker = await start(t)
  const app = await startApp(t, broker)
  await broker.backends(1)
  for (let round = 0; round < 3; round++) {
    const failed = () => app.messages().filter(({ health }) => health === 'ill').length
    const before = failed()
    tell(app, 'ill')
    await eventually(() => failed() > before, 'a failed check')
    tell(app, 'well')
    const checked = checksOf(app)
    await eventually(() => checksOf(app) > checked + 1, 'checks that succeed')
  }
  const failures = app.messages().filter(({ health }) => health === 'ill').length
  t.ok(failures >= 3)
  await stop(broker)
  t.equal((await changes(broker, 1)).length, 1, 'it was never out of choice')
})

void t.test('an answer that does not come in time is a failure', { timeout: LIMIT }, async (t) => {
  const broker = await start(t, {}, { timeout: 100 })
  const app = await startApp(t, broker)
  await broker.backends(1)
  tell(app, 'silent')
  await untilState(broker, app, 'unhealthy')
  t.same((await changes(broker, 2))[1], { level: 40, msg: UNHEALTHY, reason: 'no answer within 100 ms' })
  tell(app, 'well')
  await broker.backends(1)
})

void t.test(
  'nobody is ready before the first success, and clients wait for it',
  { timeout: LIMIT },
  async (t) => {
    const broker = await start(t)
    const app = await startApp(t, broker, 'silent')
    await app.message('checked')
    t.equal(stateOf(await broker.status(), app.pid), 'starting')
    t.equal(await broker.metric('baton_backends{service="web",state="starting"}'), 1)
    t.equal((await fetch(`${broker.admin}/readyz`)).status, 503)
    const client = await visit(t, broker)
    await broker.until(({ services }) => services[0]?.held === 1, 'the client waits')

    const ill = await startApp(t, broker, 'ill')
    await untilState(broker, ill, 'unhealthy')
    t.same(await changes(broker, 1), [{ level: 40, msg: UNHEALTHY, reason: 'status 503' }])
    t.equal((await broker.status()).services[0]?.held, 1)
    tell(ill, 'well')
    t.equal(
      (await client.answer()).headers['x-pid'],
      `${ill.pid}`,
      'it is served as soon as somebody is well',
    )
    t.equal(stateOf(await broker.status(), app.pid), 'starting')
  },
)

for (const handoff of ['auto', 'off']) {
  void t.test(`handoff ${handoff}: checks are in no count`, { timeout: LIMIT }, async (t) => {
    const broker = await start(t, { handoff }, { interval: 10 })
    const app = await startApp(t, broker)
    await broker.backends(1)
    // The process that makes the checks: the command's own only keeps the sockets.
    const { pid } = (await broker.status()).broker
    const port = Number(new URL(broker.admin).port)
    const descriptors = [await restingDescriptors(pid, port), await restingDescriptors(app.pid)]
    for (let each = 0; each < 3; each++) {
      const response = await fetch(broker.url(), { headers: { connection: 'close' } })
      t.equal(response.headers.get('x-pid'), `${app.pid}`)
      await response.arrayBuffer()
    }
    await eventually(() => checksOf(app) > 100, 'a hundred checks')
    tell(app, 'ill')
    await untilState(broker, app, 'unhealthy')

    const status = await broker.status()
    t.equal(unaccounted(status), 0)
    t.equal(status.listeners[0]?.accepted, 3)
    const [relayed, handedOff] = handoff === 'off' ? [3, 0] : [0, 3]
    t.same(status.services[0]?.outcomes, {
      handed_off: handedOff,
      relayed,
      rejected: 0,
      client_gone: 0,
      relinquished: 0,
    })
    const counted = (await broker.metrics())
      .split('\n')
      .filter((line) => /^baton_(handoff_failures|tokens_rejected)_total/.test(line))
    t.ok(counted.length > 0 && counted.every((line) => line.endsWith(' 0')))
    t.equal(await broker.metric('baton_handoff_duration_seconds_count{service="web"}'), handedOff)
    await eventually(
      () => openDescriptors(pid, port) <= (descriptors[0] as number),
      'the broker has no descriptor more than before',
    )
    await eventually(() => openDescriptors(app.pid) <= (descriptors[1] as number), 'nor has the backend')
  })
}

void t.test(
  'handoff off: a check that fails takes the backend out of choice',
  { timeout: LIMIT },
  async (t) => {
    const broker = await start(t, { handoff: 'off' })
    const [app, other] = [await startApp(t, broker), await startApp(t, broker)]
    await broker.backends(2)
    tell(app, 'ill')
    await untilState(broker, app, 'unhealthy')
    for (let each = 0; each < 4; each++) t.equal(await servedBy(t, broker), other.pid)
    tell(app, 'well')
    await broker.backends(2)
  },
)

void t.test('a check is never offered to anybody else', { timeout: LIMIT }, async (t) => {
  const broker = await start(t, { ackDeadline: 100 })
  const app = await startApp(t, broker)
  await broker.backends(1)
  const backend = ({ services }: Status, { welcome }: FalseBackend) =>
    services[0]?.backends.find(({ id }) => id === welcome.backend)

  await t.test('refused', async (t) => {
    const peer = await FalseBackend.register(t, broker.control, hello('web'))
    for (let count = 1; count <= 3; count++) {
      const offer = (await peer.offers(count)).at(-1) as Offer
      peer.take(1)[0]?.fd.close()
      peer.nack(offer)
      t.equal(offer.listener, 'baton:health')
    }
    await broker.until((status) => backend(status, peer)?.state === 'unhealthy', 'it is unhealthy')
    t.same((await changes(broker, 2))[1], { level: 40, msg: UNHEALTHY, reason: 'TokenNotPending' })
    peer.die()
    await broker.until((status) => backend(status, peer) === undefined, 'it is gone')
  })

  await t.test('left on the lane', async (t) => {
    const peer = await FalseBackend.register(t, broker.control, hello('web'))
    await peer.wire.frame('revoke')
    const status = await broker.status()
    t.equal(backend(status, peer)?.state, 'unresponsive', 'a missed deadline counts as any other')
    t.match(status.services[0], { inFlight: 0, stuck: 0, held: 0 })
    t.equal(peer.restOfLane().count, 0)
    peer.die()
  })

  await t.test('taken, and acknowledged when nobody waits for it any more', async (t) => {
    const peer = await FalseBackend.register(t, broker.control, hello('web'))
    const [offer] = (await peer.offers(1)) as [Offer]
    const fd = peer.take(1)[0]?.fd as OwnedFd
    await broker.until((status) => backend(status, peer)?.state === 'unresponsive', 'the deadline is over')
    t.match((await broker.status()).services[0], { inFlight: 0, stuck: 0, outcomes: { relinquished: 0 } })
    await eventually(() => (poll(fd.fd, 0) & POLLHUP) !== 0, 'the broker has closed both ends')
    peer.ack(offer)
    await peer.probe()
    t.equal(peer.wire.ended, false, 'a late answer is no violation')
    peer.die()
  })

  const status = await broker.backends(1)
  t.equal(unaccounted(status), 0)
  t.equal(
    Object.values(status.services[0]?.outcomes ?? {}).reduce((sum, each) => sum + each, 0),
    0,
  )
  const adopted = status.services[0]?.backends[0]?.adopted ?? 0
  await eventually(() => checksOf(app) >= adopted, 'and it was asked nothing but its own questions')
  await stop(broker)
  t.equal((await changes(broker, 2)).length, 2, 'the one that is well was not troubled')
})

void t.test('a broker that ends does not wait for a check', { timeout: LIMIT }, async (t) => {
  const broker = await start(t)
  const app = await startApp(t, broker, 'silent')
  await app.message('checked')
  broker.program.kill('SIGTERM')
  t.same(await broker.program.exited, { code: 0, signal: null })
})

void t.test('a tcp service is asked in HTTP all the same', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: {
      listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'tcp', service: 'web' }],
      services: { web: { healthCheck: { path: PATH, interval: 20, timeout: '5s' } } },
    },
  })
  const lines = await startBackend(t, broker, 'tcp-backend.mjs')
  await untilState(broker, lines, 'unhealthy')
  t.match(await changes(broker, 1), [{ msg: UNHEALTHY, reason: /^HPE_/ }])
  await startApp(t, broker)
  await broker.backends(1)
})
