import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker, type Status, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { startLoad, sum } from './support/load.ts'
import { openDescriptors, residentBytes } from './support/proc.ts'

const MIB = 1024 * 1024

const WARM_UP = 20_000
const TOTAL = 100_000
/** Less than 350 bytes for each connection: a leaked socket, timer or offer is more. */
const MOST_GROWTH = 32 * MIB

void t.test('100,000 short connections at concurrency 256', { timeout: 110_000 }, async (t) => {
  const broker = await startBroker(t, { config: { services: { web: { balance: 'round-robin' } } } })
  const pids = [(await startBackend(t, broker)).pid, (await startBackend(t, broker)).pid]
  await broker.backends(2)
  const processes = [broker.program.pid, ...pids]

  // Buffers, arenas, compiled code and the heap's habits are there after it; what grows later is a leak.
  await startLoad(t, broker, { total: WARM_UP, concurrency: 256 })
  const warm = await atRest(broker)
  const descriptors = processes.map(openDescriptors)
  const memory = processes.map(residentBytes)

  const { answers, failures, seconds, slowest } = await startLoad(t, broker, {
    total: TOTAL,
    concurrency: 256,
  })
  t.comment(`${Math.round(TOTAL / seconds)} connections per second, the slowest ${Math.round(slowest)} ms`)
  t.same(failures, {}, 'none failed')
  t.equal(sum(answers), TOTAL)
  for (const pid of pids) t.equal(answers[pid], TOTAL / 2, 'round-robin gives each backend every other one')

  const status = await atRest(broker)
  const [service] = status.services
  t.same(
    service?.backends.map(
      ({ adopted }, index) => adopted - (warm.services[0]?.backends[index]?.adopted ?? 0),
    ),
    [TOTAL / 2, TOTAL / 2],
  )
  t.equal(status.listeners[0]?.accepted, WARM_UP + TOTAL)
  t.equal(unaccounted(status), 0)
  t.same(service?.outcomes, {
    handed_off: WARM_UP + TOTAL,
    relayed: 0,
    rejected: 0,
    client_gone: 0,
    relinquished: 0,
  })
  await t.resolves(metricsAgree(broker, status))

  t.same(processes.map(openDescriptors), descriptors, 'no descriptor is left behind')
  for (const [index, pid] of processes.entries()) {
    const growth = residentBytes(pid) - (memory[index] ?? 0)
    t.comment(`${index === 0 ? 'broker' : 'backend'}: ${(growth / MIB).toFixed(1)} MiB more`)
    t.ok(growth < MOST_GROWTH, 'no growth in memory')
  }
})

void t.test(
  'weights: three times the weight, three times the connections',
  { timeout: 30_000 },
  async (t) => {
    const broker = await startBroker(t, { config: { services: { web: { balance: 'round-robin' } } } })
    const heavy = await startBackend(t, broker, 'http-backend.mjs', { env: { WEIGHT: '3' } })
    const light = await startBackend(t, broker)
    const { answers, failures } = await startLoad(t, broker, { total: 2000, concurrency: 16 })
    t.same(failures, {})
    t.same(answers, { [heavy.pid]: 1500, [light.pid]: 500 })
  },
)

void t.test(
  'least-connections: who is busy gets none until the others are as busy',
  { timeout: 30_000 },
  async (t) => {
    const broker = await startBroker(t, { config: { services: { web: { balance: 'least-connections' } } } })
    const busy = await startBackend(t, broker)
    // Each a long request in flight.
    for (let index = 0; index < 20; index++) {
      const client = await Client.open(t, { port: broker.port() })
      client.request('/slow?ms=60000')
    }
    await broker.until(({ services }) => services[0]?.backends[0]?.adopted === 20, '20 adopted by the first')
    const idle = await startBackend(t, broker)
    t.same(await pidsOf(t, broker, 20), { [idle.pid]: 20 })
    t.same(await pidsOf(t, broker, 20), { [busy.pid]: 10, [idle.pid]: 10 }, 'equal from then on')
  },
)

void t.test(
  'p2c: of three, the most loaded one loses to whichever it meets',
  { timeout: 30_000 },
  async (t) => {
    const broker = await startBroker(t, { config: { services: { web: { balance: 'p2c' } } } })
    await startBackend(t, broker)
    await pidsOf(t, broker, 40)
    const others = [(await startBackend(t, broker)).pid, (await startBackend(t, broker)).pid]
    await broker.backends(3)
    // With 40 connections against at most 39 it is never the lower of two.
    const counts = await pidsOf(t, broker, 39)
    t.same(new Set(Object.keys(counts).map(Number)), new Set(others))
  },
)

void t.test('source-hash: an address stays with its backend', { timeout: 30_000 }, async (t) => {
  const broker = await startBroker(t, { config: { services: { web: { balance: 'source-hash' } } } })
  const pids = [(await startBackend(t, broker)).pid, (await startBackend(t, broker)).pid]
  await broker.backends(2)
  const chosen = new Set<number>()
  for (let host = 2; host < 18; host++) {
    const localAddress = `127.0.0.${host}`
    const seen = []
    for (let index = 0; index < 3; index++) {
      const client = await Client.open(t, { port: broker.port(), localAddress })
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

/** Everything settled, and each backend has said (with its next STATS) that all connections have closed. */
function atRest(broker: Broker): Promise<Status> {
  return broker.until(
    ({ services }) =>
      services.every(
        ({ held, inFlight, backends }) => held + inFlight === 0 && backends.every(({ load }) => load === 0),
      ),
    'everything at rest',
  )
}

/** Opens so many connections, one after the other, which stay open: how many of them each backend has. */
async function pidsOf(t: Test, broker: Broker, count: number): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  for (let index = 0; index < count; index++) {
    const client = await Client.open(t, { port: broker.port() })
    const pid = (await client.get()).headers['x-pid'] ?? ''
    counts[pid] = (counts[pid] ?? 0) + 1
  }
  return counts
}

/** The metrics page says what the API says, and the outcomes add up to what was accepted. */
async function metricsAgree(broker: Broker, { listeners, services }: Status): Promise<void> {
  const lines = (await broker.metrics()).split('\n')
  const total = (name: string) =>
    lines
      .filter((line) => line.startsWith(`${name}{`))
      .reduce((all, line) => all + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  const accepted = total('baton_connections_accepted_total')
  const outcomes = total('baton_connections_total')
  if (accepted !== listeners[0]?.accepted) throw new Error(`metrics: ${accepted} accepted`)
  if (outcomes !== accepted) throw new Error(`metrics: ${outcomes} outcomes of ${accepted}`)
  const observed = total('baton_handoff_duration_seconds_count')
  if (observed !== services[0]?.outcomes.handed_off)
    throw new Error(`metrics: ${observed} durations observed`)
}
