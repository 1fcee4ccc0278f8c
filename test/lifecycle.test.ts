import { connect } from 'node:net'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, Broker, startBroker, type Status, unaccounted } from './support/broker.ts'
import { type Answer, Client } from './support/client.ts'
import { startLoad, sum } from './support/load.ts'
import { openDescriptors } from './support/proc.ts'
import { Program } from './support/process.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'

const tcp = { listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'tcp', service: 'web' }] }

void t.test(
  'clients wait for a backend, and are served in the order in which they came',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: tcp })
    const clients: Client[] = []
    // More than are offered to one backend at a time.
    for (let index = 0; index < 150; index++) clients.push(await Client.open(t, { port: broker.port() }))
    const { services } = await broker.until(({ services }) => services[0]?.held === 150, '150 wait')
    t.match(services[0]?.outcomes, { handed_off: 0, rejected: 0 })
    t.ok(
      clients.every(({ open, received }) => open && received === ''),
      'in silence',
    )
    await startBackend(t, broker, 'tcp-backend.mjs')
    const turns = []
    for (const client of clients) turns.push((JSON.parse(await client.line()) as { turn: number }).turn)
    t.same(
      turns,
      clients.map((_, index) => index + 1),
    )
    t.equal(unaccounted(await broker.status()), 0)
  },
)

void t.test(
  'a client that half-closes behind its request waits as well; one that leaves is let go',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const asked = await Client.open(t, { port: broker.port() })
    asked.request('/asked')
    asked.socket.end()
    const left = await Client.open(t, { port: broker.port() })
    await broker.until(({ services }) => services[0]?.held === 2, 'both wait')
    left.socket.destroy()
    await broker.until(({ services }) => services[0]?.outcomes.client_gone === 1, 'one is gone')
    await startBackend(t, broker)
    const { status, body } = await asked.answer()
    t.equal(status, 200)
    t.match(JSON.parse(body), { path: '/asked' })
    t.equal(unaccounted(await broker.status()), 0)
  },
)

void t.test('a backend that starts later begins to receive', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const early = await startBackend(t, broker)
  t.same(await pidsOf(t, broker, 4), new Set([early.pid]))
  const late = await startBackend(t, broker)
  t.same(await pidsOf(t, broker, 6), new Set([early.pid, late.pid]))
})

void t.test('drain of one backend by its operator', { timeout: LIMIT }, async (t) => {
  const drains = {
    'by POST .../drain': async (broker: Broker, slot: string) => {
      const answer = await fetch(`${broker.admin}/api/v1/services/web/backends/${slot}/drain`, {
        method: 'POST',
      })
      return [answer.status, await answer.json()]
    },
    'by baton drain SERVICE/BACKEND': async (broker: Broker, slot: string, t: Test) => {
      const args = [batonCommand, 'drain', `web/${slot}`, '--config', broker.configFile]
      const command = new Program(t, process.execPath, args)
      return [(await command.exited).code, command.lines]
    },
  }
  const answers = {
    'by POST .../drain': () => [202, { draining: 1, deadlineMs: 30_000 }],
    'by baton drain SERVICE/BACKEND': (slot: string) => [
      0,
      [`web/${slot}: draining 1 backend, for at most 30s`],
    ],
  }
  for (const how of ['by POST .../drain', 'by baton drain SERVICE/BACKEND'] as const) {
    await t.test(how, async (t) => {
      const broker = await startBroker(t, { config: { admin: { listen: `127.0.0.1:${await freePort()}` } } })
      const both = [await startBackend(t, broker), await startBackend(t, broker)]
      await broker.backends(2)
      const inFlight = await Client.open(t, { port: broker.port() })
      inFlight.request('/slow?ms=2000')
      const chosen = (await adopted(broker, 1)).services[0]?.backends.find(({ adopted }) => adopted === 1)
      const [drained, other] = both[0]?.pid === chosen?.pid ? both : both.toReversed()
      if (chosen === undefined || drained === undefined || other === undefined)
        throw new Error('nobody adopted it')

      t.same(await drains[how](broker, chosen.slot, t), answers[how](chosen.slot))
      t.same(await pidsOf(t, broker, 10), new Set([other.pid]), 'no new connection from then on')
      t.equal(inFlight.received, '', 'while the answer is still due')

      const answer = await inFlight.answer()
      t.match(answer, { status: 200, body: `slow ${drained.pid}`, headers: { connection: 'close' } })
      t.equal(await inFlight.ended, 'end')
      t.same(await drained.exited, { code: 0, signal: null }, 'nothing keeps the process any more')
      const after = await broker.until(({ services }) => services[0]?.backends.length === 1, 'it has gone')
      t.equal(unaccounted(after), 0)
    })
  }
})

void t.test('an app that drains at SIGTERM ends by itself', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const first = await startBackend(t, broker)
  const inFlight = await Client.open(t, { port: broker.port() })
  inFlight.request('/wait')
  const idle = await Client.open(t, { port: broker.port() })
  t.notMatch((await idle.get()).headers, { connection: 'close' })
  await adopted(broker, 2)

  first.kill('SIGTERM')
  await broker.until(({ services }) => services[0]?.backends[0]?.state === 'draining', 'it drains')
  const waiting = await Client.open(t, { port: broker.port() })
  waiting.request('/waiting')
  await broker.until(({ services }) => services[0]?.held === 1, 'a new client waits for somebody else')
  t.match(await idle.get(), { status: 200, headers: { connection: 'close' } }, 'let go after its next answer')
  t.equal(await idle.ended, 'end')
  first.say('answer')
  t.match(await inFlight.answer(), { status: 200, headers: { connection: 'close' } })
  t.same(await first.exited, { code: 0, signal: null })

  const second = await startBackend(t, broker)
  t.equal((await waiting.answer()).headers['x-pid'], `${second.pid}`)
  t.equal(unaccounted(await broker.status()), 0)
})

void t.test('no request that crosses a drain is lost', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const drains = {
    'by SIGTERM': (backend: Program) => backend.kill('SIGTERM'),
    'by the operator': () => fetch(`${broker.admin}/api/v1/services/web/drain`, { method: 'POST' }),
  }
  for (const [how, drain] of Object.entries(drains)) {
    await t.test(how, async (t) => {
      const backend = await startBackend(t, broker)
      const clients = await Promise.all(
        Array.from({ length: 50 }, () => Client.open(t, { port: broker.port() })),
      )
      await Promise.all(clients.map((client) => client.get()))
      // The drain and the requests leave together: some are read before it, some behind it.
      let begun: unknown
      for (const [index, client] of clients.entries()) {
        if (index === 25) begun = drain(backend)
        client.request('/crossing')
      }
      const answers = await Promise.all(clients.map((client) => client.answer()))
      t.equal(answers.filter(({ status, body }) => status === 200 && body.includes('/crossing')).length, 50)
      await begun
      await backend.message('draining')
      // Who was answered before the drain began was promised a kept connection, and uses it once more.
      const promised = clients.filter((_, index) => answers[index]?.headers['connection'] !== 'close')
      const last = await Promise.all(promised.map((client) => client.get('/last')))
      t.ok(
        last.every(({ headers }) => headers['connection'] === 'close'),
        `${promised.length} use their connection once more, and only once`,
      )
      t.same(new Set(await Promise.all(clients.map(({ ended }) => ended))), new Set(['end']))
      t.same(await backend.exited, { code: 0, signal: null })
    })
  }
})

void t.test('the broker at SIGTERM', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { config: { services: { web: { ackDeadline: '100ms' } } } })
  const backend = await startBackend(t, broker)
  const inFlight = await Client.open(t, { port: broker.port() })
  inFlight.request('/slow?ms=2000')
  const idle = await Client.open(t, { port: broker.port() })
  await idle.get()
  await adopted(broker, 2)

  backend.kill('SIGSTOP')
  const waiting = await Promise.all(Array.from({ length: 20 }, () => Client.open(t, { port: broker.port() })))
  for (const client of waiting) client.request('/waiting')
  await broker.until(({ services }) => services[0]?.held === 20, 'they wait')
  broker.program.kill('SIGTERM')
  await broker.until(
    ({ broker, listeners }) => broker.state === 'draining' && listeners[0]?.accepting === false,
    'it drains',
  )
  t.equal(await refused(broker.port()), 'ECONNREFUSED', 'nobody can connect any more')
  t.ok(broker.program.running, 'it waits for those who wait')

  backend.kill('SIGCONT')
  const answers = await Promise.all(waiting.map((client) => client.answer()))
  t.ok(answers.every(served), 'who waited is served')
  t.same(await broker.program.exited, { code: 0, signal: null })
  t.match(await inFlight.answer(), { status: 200, body: `slow ${backend.pid}` }, 'what was adopted goes on')
  t.match(await idle.get('/afterwards'), { status: 200 })
  t.ok(backend.running)
})

void t.test(
  'the broker at SIGKILL: adopted connections do not notice, and the next broker finds the backends',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const backends = [await startBackend(t, broker), await startBackend(t, broker)]
    await broker.backends(2)
    const inFlight = await Client.open(t, { port: broker.port() })
    inFlight.request('/slow?ms=1500')
    await adopted(broker, 1)
    const idle = await Client.open(t, { port: broker.port() })
    const first = await idle.get()
    const before = await adopted(broker, 2)

    await broker.die()
    t.match(
      await idle.get(),
      { status: 200, headers: { 'x-pid': first.headers['x-pid'] } },
      'without a broker',
    )
    t.match(await inFlight.answer(), { status: 200 })

    const program = new Program(t, process.execPath, [batonCommand, 'start', '--config', broker.configFile])
    const next = new Broker(
      program,
      broker.folder,
      broker.configFile,
      await program.message('accepting connections'),
    )
    const begun = performance.now()
    const after = await next.backends(2)
    t.ok(performance.now() - begun < 4000, 'within the longest pause between two dials, and some time for it')
    t.same(new Set(idsOf(after)), new Set(idsOf(before)), 'under the names that they had')
    const held = await next.until(
      ({ services }) => loads(services[0]) === 2,
      'it knows of the connections from before',
    )
    t.same(
      held.services[0]?.backends.map(({ load }) => load),
      [1, 1],
    )
    t.match(
      await idle.get(),
      { status: 200, headers: { 'x-pid': first.headers['x-pid'] } },
      'with another broker',
    )
    t.same(await pidsOf(t, next, 6), new Set(backends.map(({ pid }) => pid)))
  },
)

void t.test('a backend at SIGKILL takes only its own clients with it', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const [doomed, survivor] = [await startBackend(t, broker), await startBackend(t, broker)]
  await broker.backends(2)
  const descriptors = await restingDescriptors(broker)
  const total = 6000
  const load = startLoad(t, broker, { total, concurrency: 64, path: '/slow?ms=10' })
  await broker.until(
    ({ services }) => (services[0]?.outcomes.handed_off ?? 0) > 1500,
    'the load is under way',
  )
  doomed.kill('SIGKILL')
  const { answers, failures } = await load
  t.comment(`failures: ${JSON.stringify(failures)}`)

  const status = await broker.until(
    ({ services }) => services[0]?.held === 0 && services[0].inFlight === 0,
    'nothing in flight',
  )
  const [service] = status.services
  t.equal(unaccounted(status), 0)
  t.match(service?.outcomes, { handed_off: total, rejected: 0, client_gone: 0, relinquished: 0 })
  const [left] = service?.backends ?? []
  t.equal(left?.pid, survivor.pid)
  t.equal(answers[survivor.pid], left?.adopted, 'everybody whom the survivor took was answered')
  t.equal(sum(answers) + sum(failures), total)
  t.ok(sum(failures) <= 64, 'lost were at most those whom the dead one was answering')
  t.ok((answers[doomed.pid] ?? 0) > 0)
  await startBackend(t, broker)
  await broker.backends(2)
  t.equal(descriptorsOf(broker), descriptors, 'the broker has as many descriptors as before')
})

void t.test(
  'a backend that is stopped costs the clients in its queue the ACK deadline, and nothing more',
  { timeout: LIMIT },
  async (t) => {
    const ackDeadline = 500
    const broker = await startBroker(t, { config: { services: { web: { ackDeadline } } } })
    const [stopped, other] = [await startBackend(t, broker), await startBackend(t, broker)]
    const slot = slotOf(await broker.backends(2), stopped.pid)
    stopped.kill('SIGSTOP')

    const begun = performance.now()
    const clients = await Promise.all(
      Array.from({ length: 40 }, () => Client.open(t, { port: broker.port() })),
    )
    for (const client of clients) client.request()
    const answers = await Promise.all(clients.map((client) => client.answer()))
    const took = performance.now() - begun
    t.ok(answers.every(({ status, headers }) => status === 200 && headers['x-pid'] === `${other.pid}`))
    t.ok(took >= ackDeadline && took < ackDeadline + 2000, `the last was served after ${Math.round(took)} ms`)

    const state = (status: Status) => status.services[0]?.backends.find((each) => each.slot === slot)?.state
    await broker.until((status) => state(status) === 'unresponsive', 'it is not chosen any more')
    t.equal(await broker.metric('baton_handoff_failures_total{service="web",reason="BackendAckTimeout"}'), 20)
    const unhindered = performance.now()
    t.same(await pidsOf(t, broker, 10), new Set([other.pid]))
    t.ok(performance.now() - unhindered < ackDeadline, 'and costs nobody anything from then on')

    stopped.kill('SIGCONT')
    await broker.until((status) => state(status) === 'ready', 'it is back')
    t.ok((await pidsOf(t, broker, 10)).has(stopped.pid))
    const status = await broker.status()
    t.equal(unaccounted(status), 0)
    t.match(status.services[0]?.outcomes, { rejected: 0, client_gone: 0, relinquished: 0 })
  },
)

void t.test('a backend that is stopped under load loses nobody', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { config: { services: { web: { ackDeadline: '100ms' } } } })
  const [stopped, other] = [await startBackend(t, broker), await startBackend(t, broker)]
  await broker.backends(2)
  const descriptors = [await restingDescriptors(broker), openDescriptors(stopped.pid)]
  const load = startLoad(t, broker, { total: 8000, concurrency: 48 })
  const handedOff = ({ services }: Status) => services[0]?.outcomes.handed_off ?? 0
  for (let round = 1; round <= 3; round++) {
    await broker.until((status) => handedOff(status) > round * 1500, 'the load is under way')
    stopped.kill('SIGSTOP')
    await broker.until(
      ({ services }) =>
        services[0]?.backends.find(({ pid }) => pid === stopped.pid)?.state === 'unresponsive',
      'it is noticed',
    )
    stopped.kill('SIGCONT')
    await broker.backends(2)
  }
  const { answers, failures } = await load
  t.same(failures, {})
  t.equal(sum(answers), 8000)
  t.ok((answers[stopped.pid] ?? 0) > 0 && (answers[other.pid] ?? 0) > 0)
  t.ok((await ackTimeouts(broker)) > 0, 'some waited behind the stopped one')
  const status = await broker.until(({ services }) => loads(services[0]) === 0, 'everything has closed')
  t.same([descriptorsOf(broker), openDescriptors(stopped.pid)], descriptors, 'and nothing stays open')
  t.equal(unaccounted(status), 0)
  t.match(status.services[0]?.outcomes, { handed_off: 8000, relinquished: 0, rejected: 0, client_gone: 0 })
})

void t.test(
  'with both backends stopped clients wait, and the broker ends up as it was',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: { services: { web: { ackDeadline: '100ms' } } } })
    const backends = [await startBackend(t, broker), await startBackend(t, broker)]
    await broker.backends(2)
    await pidsOf(t, broker, 4)
    const descriptors = await restingDescriptors(broker)

    for (const backend of backends) backend.kill('SIGSTOP')
    const clients = await Promise.all(
      Array.from({ length: 100 }, () => Client.open(t, { port: broker.port() })),
    )
    for (const client of clients) client.request()
    const { services } = await broker.until(({ services }) => services[0]?.held === 100, 'all wait')
    t.match(services[0], { inFlight: 0, stuck: 0 })
    t.ok(clients.every(({ open, received }) => open && received === ''))
    t.equal(descriptorsOf(broker), descriptors + 100)

    for (const backend of backends) backend.kill('SIGCONT')
    t.ok((await Promise.all(clients.map((client) => client.answer()))).every(served))
    const status = await broker.until(
      ({ services }) =>
        services[0]?.backends.every(({ state }) => state === 'ready') === true && services[0].inFlight === 0,
      'both are back',
    )
    t.equal(unaccounted(status), 0)
    t.equal(descriptorsOf(broker), descriptors)

    // A backend that dies and one that comes for it leave nothing behind either.
    backends[0]?.kill('SIGKILL')
    await broker.until(({ services }) => services[0]?.backends.length === 1, 'it is gone')
    await startBackend(t, broker)
    await broker.backends(2)
    t.equal(descriptorsOf(broker), descriptors)
  },
)

function served({ status }: Answer): boolean {
  return status === 200
}

function loads(service: Status['services'][number] | undefined): number {
  return service?.backends.reduce((total, { load }) => total + load, 0) ?? 0
}

function idsOf({ services }: Status): string[] {
  return services[0]?.backends.map(({ id }) => id) ?? []
}

function slotOf({ services }: Status, pid: number): string {
  const found = services[0]?.backends.find((backend) => backend.pid === pid)
  if (found === undefined) throw new Error(`no backend with pid ${pid}`)
  return found.slot
}

/** Of the broker's own; those of who asks it for its status come and go. */
/**
 * The number before a test begins. A backend may answer a client before the broker has read its ACK and closed its own copy, so
 * that an answered client is no sign of a broker at rest.
 */
async function restingDescriptors(broker: Broker): Promise<number> {
  await broker.until(({ services }) => services.every(({ inFlight }) => inFlight === 0), 'nothing in flight')
  return descriptorsOf(broker)
}

function descriptorsOf(broker: Broker): number {
  return openDescriptors(broker.pid, Number(new URL(broker.admin).port))
}

function ackTimeouts(broker: Broker): Promise<number> {
  return broker.metric('baton_handoff_failures_total{service="web",reason="BackendAckTimeout"}')
}

/** The broker has seen so many ACKs. */
function adopted(broker: Broker, count: number): Promise<Status> {
  return broker.until(({ services }) => services[0]?.outcomes.handed_off === count, `${count} handed off`)
}

/** Who answers so many new connections, one after the other. */
async function pidsOf(t: Test, broker: Broker, count: number): Promise<Set<number>> {
  const pids = new Set<number>()
  for (let index = 0; index < count; index++) {
    const client = await Client.open(t, { port: broker.port() })
    pids.add(Number((await client.get()).headers['x-pid']))
    client.socket.destroy()
  }
  return pids
}

async function refused(port: number): Promise<string | undefined> {
  const socket = connect(port, '127.0.0.1')
  const [error] = (await once(socket, 'close').then(
    () => [undefined],
    (reason: unknown) => [reason],
  )) as [NodeJS.ErrnoException | undefined]
  return error?.code
}
