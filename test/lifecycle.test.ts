import { connect } from 'node:net'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import { batonCommand, Broker, type Status } from './support/broker.ts'
import type { Answer, Client } from './support/client.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT, starts } from './support/limits.ts'
import {
  ackTimeouts,
  descriptorsAre,
  descriptorsOf,
  killUnderLoad,
  outcomesSince,
  restingDescriptors,
  stopUnderLoad,
} from './support/load-scenes.ts'
import { Program } from './support/process.ts'
import { Service, type ServiceState, startServices } from './support/service.ts'

/** Expires only for a stopped backend: a running one needs a thousandth of it. */
const ACK_DEADLINE = starts(0.1)
const STOPPED = { ackDeadline: ACK_DEADLINE, tokenTtl: 2 * ACK_DEADLINE }

const { broker, services } = await startServices(
  t,
  {
    order: { protocol: 'tcp' },
    leaving: {},
    later: {},
    /** Two backends that are kept from scene to scene (`keep`). */
    web: { config: { ...STOPPED, balance: 'round-robin' } },
    sooner: {},
    sigterm: {},
    crossing: {},
    /** Its connections stay with the process that adopted them. */
    staying: { config: { handBack: 'off' } },
  },
  { admin: { listen: `127.0.0.1:${await freePort()}` } },
)

void t.test(
  'clients wait for a backend, and are served in order of arrival',
  { timeout: LIMIT },
  async (t) => {
    const { order } = services
    const clients: Client[] = []
    // More clients than are offered to one backend at a time.
    for (let index = 0; index < 150; index++) clients.push(await order.open(t))
    const { outcomes } = await order.until(({ held }) => held === 150, '150 wait')
    t.match(outcomes, { handed_off: 0, rejected: 0 })
    t.ok(
      clients.every(({ open, received }) => open && received === ''),
      'in silence',
    )
    await order.start(t, 'tcp-backend.mjs')
    const turns = []
    for (const client of clients) turns.push((JSON.parse(await client.line()) as { turn: number }).turn)
    t.same(
      turns,
      clients.map((_, index) => index + 1),
    )
    t.equal((await order.state()).unaccounted, 0)
  },
)

void t.test(
  'a client that half-closes after its request is also held; one that leaves is dropped',
  { timeout: LIMIT },
  async (t) => {
    const { leaving } = services
    const asked = await leaving.visit(t, '/asked')
    asked.socket.end()
    const left = await leaving.open(t)
    await leaving.until(({ held }) => held === 2, 'both wait')
    left.socket.destroy()
    await leaving.until(({ outcomes }) => outcomes.client_gone === 1, 'one is gone')
    await leaving.start(t)
    const { status, body } = await asked.answer()
    t.equal(status, 200)
    t.match(JSON.parse(body), { path: '/asked' })
    t.equal((await leaving.state()).unaccounted, 0)
  },
)

void t.test('a backend that starts later receives connections', { timeout: LIMIT }, async (t) => {
  const { later } = services
  const early = await later.start(t)
  t.same(await later.answeredBy(t, 4), new Set([early.pid]))
  const late = await later.start(t)
  const both = new Set([early.pid, late.pid])
  const seen = new Set<number>()
  // The number depends on when the broker learns that the first connections have ended.
  while (seen.size < 2) for (const pid of await later.answeredBy(t, 1)) seen.add(pid)
  t.same(seen, both)
})

void t.test('drain of one backend by its operator', { timeout: LIMIT }, async (scene) => {
  const { web } = services
  const drains = {
    'by POST .../drain': async (slot: string) => {
      const answer = await fetch(`${broker.admin}/api/v1/services/web/backends/${slot}/drain`, {
        method: 'POST',
      })
      return [answer.status, await answer.json()]
    },
    'by baton drain SERVICE/BACKEND': async (slot: string) => {
      const args = [batonCommand, 'drain', `web/${slot}`, '--config', broker.configFile]
      const command = new Program(scene, process.execPath, args)
      return [(await command.exited).code, command.lines]
    },
  }
  const answers = {
    'by POST .../drain': () => [202, { draining: 1, deadlineMs: 600_000 }],
    'by baton drain SERVICE/BACKEND': (slot: string) => [
      0,
      [`web/${slot}: draining 1 backend, for at most 10m`],
    ],
  }
  for (const how of ['by POST .../drain', 'by baton drain SERVICE/BACKEND'] as const) {
    await scene.test(how, async (test) => {
      const both = await web.keep(t, 2)
      const before = await web.state()
      const inFlight = await web.visit(test, '/wait')
      const adoptedBefore = new Map(before.backends.map(({ slot, adopted }) => [slot, adopted]))
      const chosen = (await handedOff(web, before, 1)).backends.find(
        ({ slot, adopted }) => adopted > (adoptedBefore.get(slot) ?? 0),
      )
      const [drained, other] = both[0]?.pid === chosen?.pid ? both : both.toReversed()
      if (chosen === undefined || drained === undefined || other === undefined)
        throw new Error('no backend adopted it')
      await drained.message('waiting')

      test.same(await drains[how](chosen.slot), answers[how](chosen.slot))
      test.same(await web.answeredBy(test, 10), new Set([other.pid]), 'no new connection from then on')
      test.equal(inFlight.received, '', 'while the answer is still due')

      drained.say('answer')
      const answer = await inFlight.answer()
      test.match(answer, {
        status: 200,
        body: `waited ${drained.pid}`,
        headers: { connection: 'keep-alive' },
      })
      test.same(await drained.exited, { code: 0, signal: null }, 'nothing keeps the process alive')
      const after = await web.until(({ backends }) => backends.length === 1, 'it has left')
      test.match(after, { handedBack: before.handedBack + 1, parked: 1, unaccounted: 0 })
      const next = await inFlight.get()
      test.match(next, { status: 200, headers: { 'x-pid': `${other.pid}` } }, 'its client stays connected')
      inFlight.socket.destroy()
    })
  }
})

// The second one had no effect: `draining 0 backends`, and the processes kept the time of the first.
void t.test(
  'a drain with an earlier deadline counts, also after a drain of the operator or of the app',
  { timeout: LIMIT },
  async (t) => {
    const { sooner } = services
    const drain = async (deadline: string) => {
      const answer = await fetch(`${broker.admin}/api/v1/services/sooner/drain`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ deadline }),
      })
      return answer.json()
    }
    const first = await sooner.start(t)
    const cut = await sooner.visit(t, '/wait')
    await first.message('waiting')
    t.same(await drain('10m'), { draining: 1, deadlineMs: 600_000 })
    t.same(await drain('11m'), { draining: 0, deadlineMs: 660_000 }, 'a later one does not')
    t.same(await drain('20ms'), { draining: 1, deadlineMs: 20 })
    await cut.ended
    t.equal(cut.received, '')
    t.same(await first.exited, { code: 0, signal: null })
    await sooner.until(({ backends }) => backends.length === 0, 'it has left')

    const second = await sooner.start(t)
    const before = await sooner.visit(t, '/wait')
    await second.message('waiting')
    second.kill('SIGTERM')
    await sooner.until(({ backends }) => backends[0]?.state === 'draining', 'it drains by itself')
    t.same(await drain('20ms'), { draining: 1, deadlineMs: 20 })
    await before.ended
    t.equal(before.received, '')
    t.same(await second.exited, { code: 0, signal: null })
  },
)

void t.test('an app that drains at SIGTERM ends by itself', { timeout: LIMIT }, async (t) => {
  const { sigterm } = services
  const first = await sigterm.start(t)
  const before = await sigterm.state()
  const inFlight = await sigterm.visit(t, '/wait')
  const idle = await sigterm.open(t)
  t.notMatch((await idle.get()).headers, { connection: 'close' })
  await handedOff(sigterm, before, 2)
  await first.message('waiting')

  first.kill('SIGTERM')
  await sigterm.until(({ parked }) => parked === 1, 'the idle connection is handed back')
  t.equal((await sigterm.state()).backends[0]?.state, 'draining', 'while a request is in progress')
  const waiting = await sigterm.visit(t, '/waiting')
  await sigterm.until(({ held }) => held === 1, 'a new client waits for another backend')
  idle.request('/idle')
  await sigterm.until(({ held, parked }) => held === 2 && parked === 0, 'and so does the next request')
  first.say('answer')
  t.match(await inFlight.answer(), { status: 200, headers: { connection: 'keep-alive' } })
  t.same(await first.exited, { code: 0, signal: null }, 'without another backend')
  await sigterm.until(({ parked }) => parked === 1, 'the last connection is handed back')

  const second = await sigterm.start(t)
  for (const client of [waiting, idle]) {
    t.match(await client.answer(), { status: 200, headers: { 'x-pid': `${second.pid}` } })
  }
  t.match(await inFlight.get(), { status: 200, headers: { 'x-pid': `${second.pid}` } })
  t.match(await sigterm.state(), { handedBack: 2, givenBack: 0, parked: 0, unaccounted: 0 })
})

void t.test('no request that crosses a drain is lost', { timeout: LIMIT }, async (scene) => {
  const drains = {
    'by SIGTERM': (_: Service, backend: Program) => backend.kill('SIGTERM'),
    'by the operator': ({ name }: Service) =>
      fetch(`${broker.admin}/api/v1/services/${name}/drain`, { method: 'POST' }),
  }
  for (const [how, drain] of Object.entries(drains)) {
    /** 50 clients that have had an answer, and ask again as their backend is drained. */
    const cross = async (t: Test, service: Service) => {
      const backend = await service.start(t)
      const clients = await service.openMany(t, 50)
      await Promise.all(clients.map((client) => client.get()))
      // The drain and the requests are sent together: some are read before it, some after it.
      let begun: unknown
      for (const [index, client] of clients.entries()) {
        if (index === 25) begun = drain(service, backend)
        client.request('/crossing')
      }
      const answers = Promise.all(clients.map((client) => client.answer()))
      await begun
      return { backend, clients, answers }
    }
    const served = ({ status, body }: Answer) => status === 200 && body.includes('/crossing')

    await scene.test(how, async (t) => {
      const { crossing } = services
      const before = await crossing.state()
      const { backend, clients, answers } = await cross(t, crossing)
      t.same(await backend.exited, { code: 0, signal: null }, 'no client and no other backend is needed')
      const left = await crossing.until(({ backends }) => backends.length === 0, 'it has left')
      t.match(left, { handedBack: before.handedBack + 50, givenBack: 0, unaccounted: 0 })
      t.equal(left.parked + left.held, 50, 'each connection is with the broker')

      const next = await crossing.start(t)
      const all = await answers
      t.equal(all.filter(served).length, 50)
      const pids = new Set([`${backend.pid}`, `${next.pid}`])
      t.ok(
        all.every(
          ({ headers }) => headers['connection'] === 'keep-alive' && pids.has(headers['x-pid'] ?? ''),
        ),
      )
      const last = await Promise.all(clients.map((client) => client.get('/last')))
      t.ok(
        last.every(({ status, headers }) => status === 200 && headers['x-pid'] === `${next.pid}`),
        'all clients stay connected',
      )
      next.kill('SIGTERM')
      t.same(await next.exited, { code: 0, signal: null })
      for (const { socket } of clients) socket.destroy()
      const after = await crossing.until(({ parked }) => parked === 0, 'the clients have left')
      t.match(outcomesSince(before, after), {
        handed_off: 100,
        relayed: 0,
        rejected: 0,
        client_gone: 0,
        relinquished: 0,
        idle_closed: 50,
      })
      t.equal(after.unaccounted, 0)
    })

    await scene.test(`${how}, with handBack off`, async (t) => {
      const { backend, clients, answers } = await cross(t, services.staying)
      const all = await answers
      t.equal(all.filter(served).length, 50)
      await backend.message('draining')
      // Clients answered before the drain began were promised keep-alive, and use it once more.
      const promised = clients.filter((_, index) => all[index]?.headers['connection'] !== 'close')
      const last = await Promise.all(promised.map((client) => client.get('/last')))
      t.ok(
        last.every(({ headers }) => headers['connection'] === 'close'),
        `${promised.length} use their connection once more, and only once`,
      )
      t.same(new Set(await Promise.all(clients.map(({ ended }) => ended))), new Set(['end']))
      t.same(await backend.exited, { code: 0, signal: null })
      t.equal((await services.staying.state()).handedBack, 0)
    })
  }
})

void t.test(
  'a stopped backend costs the clients in its queue the ACK deadline, and nothing more',
  { timeout: LIMIT },
  async (test) => {
    const { web } = services
    const [stopped, other] = await pair()
    const before = await web.state()
    const late = await ackTimeouts(web)
    stopped.kill('SIGSTOP')

    const begun = performance.now()
    const clients = await web.openMany(test, 40)
    for (const client of clients) client.request()
    const answers = await Promise.all(clients.map((client) => client.answer()))
    const took = performance.now() - begun
    test.ok(answers.every(({ status, headers }) => status === 200 && headers['x-pid'] === `${other.pid}`))
    test.comment(`the last was served after ${Math.round(took)} ms`)
    test.ok(took >= ACK_DEADLINE, 'not before the deadline')
    test.ok(took < ACK_DEADLINE + starts(1), 'but then')

    const state = ({ backends }: ServiceState) => backends.find(({ pid }) => pid === stopped.pid)?.state
    await web.until((service) => state(service) === 'unresponsive', 'it is no longer chosen')
    test.equal(
      (await ackTimeouts(web)) - late,
      20,
      'each client in its queue had one deadline, and no second one',
    )
    test.same(await web.answeredBy(test, 10), new Set([other.pid]))
    test.equal((await ackTimeouts(web)) - late, 20, 'and it costs no client anything from then on')

    stopped.kill('SIGCONT')
    await web.until((service) => state(service) === 'ready', 'it is back')
    test.ok((await web.answeredBy(test, 10)).has(stopped.pid))
    const after = await web.state()
    test.equal(after.unaccounted, 0)
    test.match(outcomesSince(before, after), { relayed: 0, rejected: 0, client_gone: 0, relinquished: 0 })
  },
)

void t.test('a backend that is stopped under load loses no clients', { timeout: LIMIT }, async (test) => {
  await stopUnderLoad(test, services.web, await pair(), { fresh: 16, pause: 50, apart: 100 })
})

void t.test(
  'with both backends stopped, clients wait, and the broker recovers',
  { timeout: LIMIT },
  async (test) => {
    const { web } = services
    const backends = await pair()
    await web.answeredBy(test, 4)
    const descriptors = await restingDescriptors(web)

    for (const backend of backends) backend.kill('SIGSTOP')
    const clients = await web.openMany(test, 100)
    for (const client of clients) client.request()
    const waiting = await web.until(({ held }) => held === 100, 'all wait')
    test.match(waiting, { inFlight: 0, stuck: 0 })
    test.ok(clients.every(({ open, received }) => open && received === ''))
    test.equal(await descriptorsOf(web), descriptors + 100)

    for (const backend of backends) backend.kill('SIGCONT')
    test.ok((await Promise.all(clients.map((client) => client.answer()))).every(served))
    const after = await web.until(
      ({ backends, inFlight }) => backends.every(({ state }) => state === 'ready') && inFlight === 0,
      'both are back',
    )
    test.equal(after.unaccounted, 0)
    await descriptorsAre(web, descriptors)

    // A backend that dies and its replacement leave nothing behind either.
    backends[0].kill('SIGKILL')
    await backends[0].exited
    await web.until(({ backends }) => backends.length === 1, 'it is gone')
    await pair()
    await descriptorsAre(web, descriptors)
  },
)

void t.test('a backend at SIGKILL takes only its own clients with it', { timeout: LIMIT }, async (test) => {
  await killUnderLoad(test, services.web, await pair(), 800)
})

// A broker of its own that is killed, and the next one in its folder, which is told to stop.
void t.test('a broker that ends', { timeout: LIMIT }, async (t) => {
  const first = await startServices(t, { web: {}, stopping: { config: STOPPED } })
  let next: Broker | undefined

  await t.test(
    'the broker at SIGKILL: adopted connections do not notice, and the next broker finds the backends',
    async (test) => {
      const { broker } = first
      const { web } = first.services
      const backends = [await web.start(t), await web.start(t)]
      const start = await web.backends(2)
      const inFlight = await web.visit(test, '/wait')
      await handedOff(web, start, 1)
      const idle = await web.open(test)
      const asked = await idle.get()
      const before = await handedOff(web, start, 2)

      await broker.die()
      test.match(
        await idle.get(),
        { status: 200, headers: { 'x-pid': asked.headers['x-pid'] } },
        'without a broker',
      )
      for (const backend of backends) backend.say('answer')
      test.match(await inFlight.answer(), { status: 200 })

      const program = new Program(t, process.execPath, [batonCommand, 'start', '--config', broker.configFile])
      next = new Broker(
        program,
        broker.folder,
        broker.configFile,
        await program.message('accepting connections'),
      )
      const begun = performance.now()
      const found = new Service(next, 'web')
      const after = await found.backends(2)
      test.ok(performance.now() - begun < starts(1), 'not long after the longest pause between two dials')
      test.same(new Set(idsOf(after)), new Set(idsOf(before)), 'under their old names')
      const held = await found.until(
        ({ backends }) => backends.reduce((sum, { load }) => sum + load, 0) === 2,
        'it knows of the connections from before',
      )
      test.same(
        held.backends.map(({ load }) => load),
        [1, 1],
      )
      test.match(
        await idle.get(),
        { status: 200, headers: { 'x-pid': asked.headers['x-pid'] } },
        'with another broker',
      )
      test.same(await found.answeredBy(test, 6), new Set(backends.map(({ pid }) => pid)))
    },
  )

  await t.test('the broker at SIGTERM', async (test) => {
    if (next === undefined) throw new Error('there is no next broker')
    const broker = next
    const stopping = new Service(broker, 'stopping')
    const backend = await stopping.start(test)
    const before = await stopping.state()
    const inFlight = await stopping.visit(test, '/wait')
    const idle = await stopping.open(test)
    await idle.get()
    await handedOff(stopping, before, 2)

    backend.kill('SIGSTOP')
    const waiting = await stopping.openMany(test, 20)
    for (const client of waiting) client.request('/waiting')
    await stopping.until(({ held }) => held === 20, 'they wait')
    broker.program.kill('SIGTERM')
    await broker.until(
      ({ broker, listeners }: Status) =>
        broker.state === 'draining' && listeners.every(({ accepting }) => !accepting),
      'it drains',
    )
    test.equal(await refused(stopping.port), 'ECONNREFUSED', 'no client can connect')
    test.ok(broker.program.running, 'it waits for held clients')

    backend.kill('SIGCONT')
    const answers = await Promise.all(waiting.map((client) => client.answer()))
    test.ok(answers.every(served), 'held clients are served')
    test.same(await broker.program.exited, { code: 0, signal: null })
    backend.say('answer')
    test.match(
      await inFlight.answer(),
      { status: 200, body: `waited ${backend.pid}` },
      'adopted connections continue',
    )
    test.match(await idle.get('/afterwards'), { status: 200 })
    test.ok(backend.running)
  })
})

/** The two backends of `web`. A scene may leave them dead, but otherwise unchanged. */
async function pair(): Promise<[Program, Program]> {
  const [one, other] = await services.web.keep(t, 2)
  if (one === undefined || other === undefined) throw new Error('there are not two')
  return [one, other]
}

function served({ status }: Answer): boolean {
  return status === 200
}

function idsOf({ backends }: ServiceState): string[] {
  return backends.map(({ id }) => id)
}

/** Resolves once the broker has read `count` ACKs since `before`. */
function handedOff(service: Service, before: ServiceState, count: number): Promise<ServiceState> {
  return service.until(
    (state) => outcomesSince(before, state).handed_off === count,
    `${count} more handed off`,
  )
}

async function refused(port: number): Promise<string | undefined> {
  const socket = connect(port, '127.0.0.1')
  const [error] = (await once(socket, 'close').then(
    () => [undefined],
    (reason: unknown) => [reason],
  )) as [NodeJS.ErrnoException | undefined]
  return error?.code
}
