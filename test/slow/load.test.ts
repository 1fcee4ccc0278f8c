import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { type Broker, startBroker, type Status, unaccounted } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { startLoad, sum } from '../support/load.ts'
import { openDescriptors, residentBytes } from '../support/proc.ts'
import { type Program, root } from '../support/process.ts'
import { LIMIT, SOON } from '../support/limits.ts'
import { signal } from '../support/signal.ts'

const MIB = 1024 * 1024

/** Milliseconds. A backend remembers spent tokens for twice this time. */
const TOKEN_TTL = 61_000
/** `npm run test:long` sets 100,000. */
const TOTAL = Number(process.env['CONNECTIONS'] ?? 5000)
const WARM_UP = TOTAL / 10
/** A busy machine must not make an ACK late: that would test another policy. */
const PATIENT = { ackDeadline: '1m', tokenTtl: TOKEN_TTL }
/** For live objects, including buffers: 42 bytes per connection of a backend. A map entry takes more. */
const MAX_LIVE_GROWTH = 2 * MIB
/** For everything, including native memory and garbage that V8 has not collected (up to 36 MiB between two readings). */
const MAX_RESIDENT_GROWTH = 96 * MIB

void t.test(`${TOTAL} short connections at concurrency 256`, { timeout: LIMIT }, async (t) => {
  const env = { NODE_OPTIONS: `--import=${pathToFileURL(join(root, 'test/programs/live-memory.mjs')).href}` }
  const broker = await startBroker(t, {
    config: { services: { web: { ...PATIENT, balance: 'round-robin' } } },
    env,
  })
  const backends = [
    await startBackend(t, broker, 'http-backend.mjs', { env }),
    await startBackend(t, broker, 'http-backend.mjs', { env }),
  ]
  await broker.backends(2)
  const adminPort = Number(new URL(broker.admin).port)
  const programs = [
    { program: broker.program, pid: broker.pid },
    ...backends.map((program) => ({ program, pid: program.pid })),
  ]
  const look = () =>
    Promise.all(
      programs.map(async ({ program, pid }) => ({
        descriptors: openDescriptors(pid, adminPort),
        resident: residentBytes(pid),
        live: await liveBytes(program, pid),
      })),
    )

  // After it, buffers, arenas and compiled code are in place; later growth is a leak.
  await startLoad(t, broker, { total: WARM_UP, concurrency: 256 })
  const warm = await atRest(broker)
  const before = await look()

  const { answers, failures, seconds, slowest } = await startLoad(t, broker, {
    total: TOTAL,
    concurrency: 256,
  })
  t.comment(`${Math.round(TOTAL / seconds)} connections per second, the slowest ${Math.round(slowest)} ms`)
  t.same(failures, {}, 'none failed')
  t.equal(sum(answers), TOTAL)
  for (const { pid } of backends) t.equal(answers[pid], TOTAL / 2, 'round-robin gives each every other one')

  const status = await atRest(broker)
  const [service] = status.services
  const adoptedBefore = warm.services[0]?.backends.map(({ adopted }) => adopted) ?? []
  t.same(
    service?.backends.map(({ adopted }, index) => adopted - (adoptedBefore[index] ?? 0)),
    [TOTAL / 2, TOTAL / 2],
  )
  const accepted = WARM_UP + TOTAL
  t.equal(status.listeners[0]?.accepted, accepted)
  t.equal(unaccounted(status), 0)
  t.same(service?.outcomes, {
    handed_off: accepted,
    relayed: 0,
    rejected: 0,
    client_gone: 0,
    relinquished: 0,
    idle_closed: 0,
  })

  const metrics = await broker.metrics()
  t.equal(seriesSum(metrics, 'baton_connections_accepted_total'), accepted)
  t.equal(seriesSum(metrics, 'baton_connections_total'), accepted, 'the outcomes add up to what was accepted')
  t.equal(seriesSum(metrics, 'baton_handoff_duration_seconds_count'), accepted)
  t.equal(seriesSum(metrics, 'baton_handoff_failures_total'), 0)

  // A backend remembers its spent tokens; after their time, nothing about these connections is left.
  let after = await look()
  const grown = () => after.some(({ live }, index) => live - (before[index]?.live ?? 0) >= MAX_LIVE_GROWTH)
  for (const end = performance.now() + 2 * TOKEN_TTL + SOON; grown() && performance.now() < end;) {
    await new Promise((resolve) => setTimeout(resolve, 1000))
    after = await look()
  }
  for (const [index, name] of ['broker', 'a backend', 'the other backend'].entries()) {
    const [then, now] = [before[index], after[index]]
    if (then === undefined || now === undefined) throw new Error(`no look at ${name}`)
    const live = now.live - then.live
    const resident = now.resident - then.resident
    t.comment(
      `${name}: ${(live / MIB).toFixed(2)} MiB live, ${(resident / MIB).toFixed(1)} MiB resident more`,
    )
    t.equal(now.descriptors, then.descriptors, `${name} has as many descriptors as before`)
    t.ok(live < MAX_LIVE_GROWTH, `${name} keeps nothing of a connection that has ended`)
    t.ok(resident < MAX_RESIDENT_GROWTH, `${name} stays as large as it was`)
  }
})

void t.test('the choice of the next backend', { timeout: LIMIT }, async (t) => {
  const ways = ['round-robin', 'least-connections', 'p2c', 'source-hash']
  const broker = await startBroker(t, {
    config: {
      listeners: ways.map((name) => ({ name, listen: '127.0.0.1:0', protocol: 'http', service: name })),
      services: Object.fromEntries(ways.map((balance) => [balance, { ...PATIENT, balance }])),
    },
  })
  const join = (service: string, env: NodeJS.ProcessEnv = {}) =>
    startBackend(t, broker, 'http-backend.mjs', { service, env })

  await t.test('weights: three times the weight, three times the connections', async (t) => {
    const [heavy, light] = [await join('round-robin', { WEIGHT: '3' }), await join('round-robin')]
    const { answers, failures } = await startLoad(t, broker, {
      listener: 'round-robin',
      total: 2000,
      concurrency: 16,
    })
    t.same(failures, {})
    t.same(answers, { [heavy.pid]: 1500, [light.pid]: 500 })
  })

  await t.test('least-connections: a busy backend gets none until the others are as busy', async (t) => {
    const service = 'least-connections'
    const busy = await join(service)
    // Each with a request in flight, permanently.
    for (let index = 0; index < 20; index++) {
      const client = await Client.open(t, { port: broker.port(service) })
      client.request('/wait')
    }
    await broker.until(
      ({ services }) => services.find(({ name }) => name === service)?.backends[0]?.adopted === 20,
      '20 adopted by the first',
    )
    const idle = await join(service)
    t.same(await pidsOf(t, broker, service, 20), { [idle.pid]: 20 })
    t.same(await pidsOf(t, broker, service, 20), { [busy.pid]: 10, [idle.pid]: 10 }, 'equal from then on')
  })

  await t.test('p2c: of three, the most loaded one is never chosen', async (t) => {
    await join('p2c')
    await pidsOf(t, broker, 'p2c', 40)
    const others = [(await join('p2c')).pid, (await join('p2c')).pid]
    await broker.backends(3, 'p2c')
    // With 40 connections against at most 39, it never has the lower load of a pair.
    const counts = await pidsOf(t, broker, 'p2c', 39)
    t.same(new Set(Object.keys(counts).map(Number)), new Set(others))
  })

  await t.test('source-hash: an address stays with its backend', async (t) => {
    const service = 'source-hash'
    const pids = [(await join(service)).pid, (await join(service)).pid]
    await broker.backends(2, service)
    const chosen = new Set<number>()
    for (let host = 2; host < 18; host++) {
      const localAddress = `127.0.0.${host}`
      const seen = []
      for (let index = 0; index < 3; index++) {
        const client = await Client.open(t, { port: broker.port(service), localAddress })
        seen.push(JSON.parse((await client.get()).body) as { pid: number; remoteAddress: string })
      }
      const [first] = seen
      t.ok(
        seen.every(({ pid, remoteAddress }) => pid === first?.pid && remoteAddress === localAddress),
        localAddress,
      )
      chosen.add(first?.pid ?? 0)
    }
    t.same(chosen, new Set(pids), 'and different addresses reach different backends')
  })
})

/** All connections have an outcome, and each backend has reported (in its next STATS) that they have closed. */
function atRest(broker: Broker): Promise<Status> {
  return broker.until(
    ({ services }) =>
      services.every(
        ({ held, inFlight, backends }) => held + inFlight === 0 && backends.every(({ load }) => load === 0),
      ),
    'everything at rest',
  )
}

/** The live size of a process with `live-memory.mjs`, after a garbage collection. */
async function liveBytes(program: Program, pid: number): Promise<number> {
  const looks = program.messages().filter(({ msg }) => String(msg).startsWith('live memory ')).length
  signal(pid, 'SIGUSR2')
  return Number((await program.message(`live memory ${looks + 1}`))['bytes'])
}

/** Opens `count` connections, one at a time, and leaves them open; returns the number that each backend has. */
async function pidsOf(
  t: Test,
  broker: Broker,
  listener: string,
  count: number,
): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  for (let index = 0; index < count; index++) {
    const client = await Client.open(t, { port: broker.port(listener) })
    const pid = (await client.get()).headers['x-pid'] ?? ''
    counts[pid] = (counts[pid] ?? 0) + 1
  }
  return counts
}

/** The sum over all series of one metric, whatever their labels. */
function seriesSum(metrics: string, name: string): number {
  return metrics
    .split('\n')
    .filter((line) => line.startsWith(`${name}{`))
    .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
}
