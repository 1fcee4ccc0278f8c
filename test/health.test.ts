import { join } from 'node:path'
import type { Offer } from '@baton/backend-sdk/protocol'
import { type OwnedFd, poll, POLLHUP } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { LIMIT, starts } from './support/limits.ts'
import { openDescriptors } from './support/proc.ts'
import { Program, root } from './support/process.ts'
import { type Service, type ServiceState, startServices } from './support/service.ts'

// Health checks: the configuration, what backends see of them, and that clients and counters do not.

const HEALTHY = 'backend is healthy'
const UNHEALTHY = 'backend is unhealthy and not chosen'

/** Expires only for a backend that does not answer. */
const SHORT = starts(0.05)

/** Even the slowest machine answers this check in time. */
const check = { path: '/healthz?deep=1', interval: 50, timeout: '10m' }

const { broker, services } = await startServices(t, {
  chosen: { config: { healthCheck: check } },
  hiccup: { config: { healthCheck: check } },
  late: { config: { healthCheck: { ...check, timeout: SHORT } } },
  starting: { config: { healthCheck: check } },
  auto: { config: { healthCheck: { ...check, interval: 10 } } },
  off: { config: { healthCheck: { ...check, interval: 10 }, handoff: 'off' } },
  carried: { config: { healthCheck: check, handoff: 'off' } },
  offered: { config: { healthCheck: check, ackDeadline: SHORT } },
  lines: { protocol: 'tcp', config: { healthCheck: { ...check, interval: 20 } } },
  ending: { config: { healthCheck: check } },
})
const apps = new Program(t, process.execPath, [join(root, 'test/programs/health-backends.mjs')], {
  env: { BATON_SOCKET: broker.control },
})
await apps.message('started')

/** One app: a backend in the process shared by all apps; it leaves at the end of its scene. */
class App {
  readonly #service: Service
  readonly name: string
  readonly id: string

  private constructor(service: Service, name: string, id: string) {
    this.#service = service
    this.name = name
    this.id = id
  }

  static async join(t: Test, service: Service, health = 'well'): Promise<App> {
    const name = `${service.name}-${apps.messages().filter(({ msg }) => String(msg).endsWith(' joined')).length}`
    apps.say(`join ${name} ${service.name} ${health}`)
    const { id } = await apps.message(`${name} joined`)
    t.teardown(async () => {
      apps.say(`leave ${name}`)
      await apps.message(`${name} left`)
    })
    return new App(service, name, String(id))
  }

  tell(health: string): void {
    apps.say(`tell ${this.name} ${health}`)
  }

  /** The checks that it has received so far. */
  checks(health?: string): Record<string, unknown>[] {
    return apps
      .messages()
      .filter(
        (message) =>
          message['msg'] === 'checked' &&
          message['app'] === this.name &&
          (health === undefined || message['health'] === health),
      )
  }

  async checked(count: number, health?: string): Promise<void> {
    await eventually(
      () => this.checks(health).length >= count,
      () => `${count} checks of ${this.name}; there were ${this.checks(health).length}`,
    )
  }

  stateIn({ backends }: ServiceState): string | undefined {
    return backends.find(({ id }) => id === this.id)?.state
  }

  untilState(state: string): Promise<ServiceState> {
    return this.#service.until((service) => this.stateIn(service) === state, `${this.name} is ${state}`)
  }

  changes(count: number): Promise<Record<string, unknown>[]> {
    return changes(this.id, count)
  }

  /** All its health changes so far. Makes it fail first, so that a known last line is in the log. */
  async changesBefore(last = 'ill'): Promise<Record<string, unknown>[]> {
    this.tell(last)
    await this.untilState('unhealthy')
    const found = () => changesIn(this.id)
    await eventually(() => found().at(-1)?.['msg'] === UNHEALTHY, 'the last change in the log')
    return found().slice(0, -1)
  }
}

function changesIn(id: string): Record<string, unknown>[] {
  return broker.program
    .messages()
    .filter(({ msg, backend }) => (msg === HEALTHY || msg === UNHEALTHY) && backend === id)
    .map(({ level, msg, reason }) => ({ level, msg, reason }))
}

/** Logged health changes of one backend, once there are `count` of them. */
async function changes(id: string, count: number): Promise<Record<string, unknown>[]> {
  await eventually(() => changesIn(id).length >= count, `${count} changes in the log`)
  return changesIn(id)
}

/** The name of the app that answers a new client. */
async function servedBy(t: Test, service: Service): Promise<string | undefined> {
  const client = await service.visit(t)
  const { headers } = await client.answer()
  client.socket.destroy()
  return headers['x-app']
}

/** The smallest of several counts of open descriptors: the count between two checks, if one was taken then. */
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
    const service = services.chosen
    const [app, other] = [await App.join(t, service), await App.join(t, service)]
    await service.backends(2)
    await app.checked(1)
    t.match(app.checks()[0], { listener: 'baton:health', agent: 'baton-health-check' })
    for (const each of [app, other]) {
      t.same(await each.changes(1), [{ level: 30, msg: HEALTHY, reason: 'status 200' }])
    }

    app.tell('ill')
    await app.untilState('unhealthy')
    await app.checked(3, 'ill')
    t.same((await app.changes(2)).at(-1), { level: 40, msg: UNHEALTHY, reason: 'status 503' })
    t.equal(await service.metric('baton_backends', 'state="unhealthy"'), 1)
    t.equal(await service.metric('baton_backends', 'state="ready"'), 1)
    for (let each = 0; each < 6; each++) t.equal(await servedBy(t, service), other.name)

    app.tell('moved')
    await app.untilState('ready')
    t.same((await app.changes(3)).at(-1), { level: 30, msg: HEALTHY, reason: 'status 307' })
    while ((await servedBy(t, service)) !== app.name);
    t.equal((await other.changes(1)).length, 1, 'the other one was well all the time')
  },
)

void t.test('one failure is a hiccup', { timeout: LIMIT }, async (t) => {
  const app = await App.join(t, services.hiccup)
  await services.hiccup.backends(1)
  for (let round = 1; round <= 3; round++) {
    app.tell('hiccup')
    await app.checked(round, 'hiccup')
    await app.checked(app.checks('well').length + 2, 'well')
  }
  t.equal(app.checks('hiccup').length, 3)
  t.same(
    await app.changesBefore(),
    [{ level: 30, msg: HEALTHY, reason: 'status 200' }],
    'it was never out of choice',
  )
})

void t.test('a response that is late is a failure', { timeout: LIMIT }, async (t) => {
  const app = await App.join(t, services.late)
  await services.late.backends(1)
  app.tell('silent')
  await app.untilState('unhealthy')
  t.same((await app.changes(2))[1], {
    level: 40,
    msg: UNHEALTHY,
    reason: `no response within ${SHORT} ms`,
  })
  app.tell('well')
  await services.late.backends(1)
})

void t.test(
  'no backend is ready before the first success, and clients wait for it',
  { timeout: LIMIT },
  async (t) => {
    const service = services.starting
    const readiness = async () => {
      const answer = await fetch(`${broker.admin}/readyz`)
      return { status: answer.status, text: await answer.text() }
    }
    const app = await App.join(t, service, 'silent')
    await app.checked(1)
    t.equal(app.stateIn(await service.state()), 'starting')
    t.equal(await service.metric('baton_backends', 'state="starting"'), 1)
    t.match(await readiness(), { status: 503, text: /service starting has no ready backend/ })
    const client = await service.visit(t)
    await service.until(({ held }) => held === 1, 'the client waits')

    const ill = await App.join(t, service, 'ill')
    await ill.untilState('unhealthy')
    t.same(await ill.changes(1), [{ level: 40, msg: UNHEALTHY, reason: 'status 503' }])
    t.equal((await service.state()).held, 1)
    ill.tell('well')
    t.equal((await client.answer()).headers['x-app'], ill.name, 'it is served as soon as one is healthy')
    t.equal(app.stateIn(await service.state()), 'starting')
    t.notMatch(await readiness(), { text: /service starting has/ })
  },
)

for (const handoff of ['auto', 'off'] as const) {
  void t.test(`handoff ${handoff}: checks are not counted`, { timeout: LIMIT }, async (t) => {
    const service = services[handoff]
    const app = await App.join(t, service)
    await service.backends(1)
    const { pid } = broker
    const port = Number(new URL(broker.admin).port)
    const descriptors = [await restingDescriptors(pid, port), await restingDescriptors(apps.pid)]
    for (let each = 0; each < 3; each++) {
      const response = await fetch(service.url(), { headers: { connection: 'close' } })
      t.equal(response.headers.get('x-app'), app.name)
      await response.arrayBuffer()
    }
    await app.checked(101)
    app.tell('ill')
    await app.untilState('unhealthy')

    const state = await service.state()
    t.equal(state.unaccounted, 0)
    t.equal(state.accepted, 3)
    const [relayed, handedOff] = handoff === 'off' ? [3, 0] : [0, 3]
    t.same(state.outcomes, {
      handed_off: handedOff,
      relayed,
      rejected: 0,
      client_gone: 0,
      relinquished: 0,
      idle_closed: 0,
    })
    const counted = (await broker.metrics())
      .split('\n')
      .filter(
        (line) =>
          /^baton_(handoff_failures|tokens_rejected)_total/.test(line) &&
          line.includes(`service="${service.name}"`),
      )
    t.ok(counted.length > 0 && counted.every((line) => line.endsWith(' 0')))
    t.equal(await service.metric('baton_handoff_duration_seconds_count'), handedOff)
    await eventually(
      () => openDescriptors(pid, port) <= (descriptors[0] as number),
      'the broker has no descriptor more than before',
    )
    await eventually(() => openDescriptors(apps.pid) <= (descriptors[1] as number), 'nor has the backend')
  })
}

void t.test('handoff off: a failed check makes the backend ineligible', { timeout: LIMIT }, async (t) => {
  const service = services.carried
  const [app, other] = [await App.join(t, service), await App.join(t, service)]
  await service.backends(2)
  app.tell('ill')
  await app.untilState('unhealthy')
  for (let each = 0; each < 4; each++) t.equal(await servedBy(t, service), other.name)
  app.tell('well')
  await service.backends(2)
})

void t.test('a check is never offered to another backend', { timeout: LIMIT }, async (t) => {
  const service = services.offered
  const app = await App.join(t, service)
  await service.backends(1)
  const backend = ({ backends }: ServiceState, { welcome }: FalseBackend) =>
    backends.find(({ id }) => id === welcome.backend)
  const register = (t: Test) => FalseBackend.register(t, broker.control, hello(service.name))

  await t.test('refused', async (t) => {
    const peer = await register(t)
    for (let count = 1; count <= 3; count++) {
      const offer = (await peer.offers(count)).at(-1) as Offer
      peer.take(1)[0]?.fd.close()
      peer.nack(offer)
      t.equal(offer.listener, 'baton:health')
    }
    await service.until((state) => backend(state, peer)?.state === 'unhealthy', 'it is unhealthy')
    t.same(await changes(peer.welcome.backend, 1), [{ level: 40, msg: UNHEALTHY, reason: 'TokenNotPending' }])
    peer.die()
    await service.until((state) => backend(state, peer) === undefined, 'it is gone')
  })

  await t.test('left on the lane', async (t) => {
    const peer = await register(t)
    await peer.wire.frame('revoke')
    const state = await service.state()
    t.equal(backend(state, peer)?.state, 'unresponsive', 'a missed deadline counts as any other')
    t.match(state, { inFlight: 0, stuck: 0, held: 0 })
    t.equal(peer.restOfLane().count, 0)
    peer.die()
  })

  await t.test('taken, and ACKed after the broker has stopped waiting', async (t) => {
    const peer = await register(t)
    const [offer] = (await peer.offers(1)) as [Offer]
    const fd = peer.take(1)[0]?.fd as OwnedFd
    await service.until((state) => backend(state, peer)?.state === 'unresponsive', 'the deadline is over')
    t.match(await service.state(), { inFlight: 0, stuck: 0, outcomes: { relinquished: 0 } })
    await eventually(() => (poll(fd.fd, 0) & POLLHUP) !== 0, 'the broker has closed both ends')
    peer.ack(offer)
    await peer.probe()
    t.equal(peer.wire.ended, false, 'a late answer is no violation')
    peer.die()
  })

  const state = await service.backends(1)
  t.equal(state.unaccounted, 0)
  t.equal(
    Object.values(state.outcomes).reduce((sum, each) => sum + each, 0),
    0,
  )
  await app.checked(state.backends.find(({ id }) => id === app.id)?.adopted ?? Number.NaN)
  t.pass('and it received only its own checks')
  t.same(
    await app.changesBefore(),
    [{ level: 30, msg: HEALTHY, reason: 'status 200' }],
    'the one that is well was not troubled',
  )
})

void t.test('a tcp service is also checked over HTTP', { timeout: LIMIT }, async (t) => {
  const service = services.lines
  const lines = await service.start(t, 'tcp-backend.mjs')
  const state = await service.until(({ backends }) => backends[0]?.state === 'unhealthy', 'it is unhealthy')
  const [backend] = state.backends
  t.equal(backend?.pid, lines.pid)
  t.match(await changes(backend?.id ?? '', 1), [{ msg: UNHEALTHY, reason: /^HPE_/ }])
  await App.join(t, service)
  await service.backends(1)
})

// Last: it stops the shared broker.
void t.test('a broker that ends does not wait for a check', { timeout: LIMIT }, async (t) => {
  const app = await App.join(t, services.ending, 'silent')
  await app.checked(1)
  broker.program.kill('SIGTERM')
  t.same(await broker.program.exited, { code: 0, signal: null })
})
