import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { type Broker, startBroker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { ledger, masterStatus, onlyWorker, openSession, samples } from '../support/operator.ts'
import { LIMIT } from '../support/limits.ts'
import { signal } from '../support/signal.ts'
import { visit, visitors } from '../support/visit.ts'
import { allServed, serviceNow, visitorsOf } from '../support/waiting-room.ts'

const PATIENT = { ackDeadline: '5m', tokenTtl: '10m', holdTimeout: '10m' }

/** A worker that leaves, while `count` clients of it are with a backend that is stuck. Its successor serves. */
async function leaving(t: Test, count: number) {
  // Processes are stopped for a while.
  const broker = await startBroker(t, { config: { workerTimeout: '5m', services: { web: PATIENT } } })
  const stuck = await startBackend(t, broker)
  await broker.backends(1)
  stuck.kill('SIGSTOP')
  const clients = await visitors(t, broker, count)
  await eventually(
    async () => (await serviceNow(broker, 'web')).inFlight === count,
    'they are with the stuck backend',
  )
  const session = await openSession(t, broker)
  session.send('reload\n')
  await session.ended
  const workers = async (role: string) =>
    (await masterStatus(t, broker)).workers.filter((worker) => worker.role === role).map(({ pid }) => pid)
  const [old] = await workers('leaving')
  const [successor] = await workers('serving')
  return { broker, stuck, clients, workers, old, successor }
}

/** Clients that wait in a worker that is leaving. One question at a time: the broker's log would hold everything up. */
async function heldIn(broker: Broker, pid: number): Promise<number> {
  const statuses = () =>
    broker.program
      .messages()
      .filter((line) => line['pid'] === pid && line['service'] === 'web' && line['msg'] === 'status: service')
  const before = statuses().length
  broker.program.kill('SIGUSR2')
  await eventually(() => statuses().length > before, 'the old worker shows its status')
  return Number(statuses().at(-1)?.['held'])
}

/** The old worker has sent all that was in these places to its successor. One question at a time: the broker's log would hold everything up. */
async function passedOn(broker: Broker, old: number | undefined, ...places: string[]): Promise<void> {
  const statuses = () =>
    broker.program.messages().filter(({ pid, msg }) => pid === old && msg === 'status: service')
  await eventually(async () => {
    const before = statuses().length
    broker.program.kill('SIGUSR2')
    await eventually(() => statuses().length > before, 'the old worker shows its status')
    const last = statuses().at(-1)
    return places.every((place) => last?.[place] === 0)
  }, 'the old worker has passed them on')
}

// The successor had died, and the backends were with the worker that followed it. A client that came back to the old worker found
// neither, and waited there until `holdTimeout`.
void t.test(
  'what waits in a leaving worker goes to the worker after its successor',
  { timeout: LIMIT },
  async (t) => {
    const { broker, stuck, clients, workers, old, successor } = await leaving(t, 1)
    signal(Number(successor), 'SIGKILL')
    await eventually(async () => {
      const serving = await workers('serving')
      return serving.length === 1 && serving[0] !== successor
    }, 'another worker serves')
    t.same(await workers('leaving'), [old])

    stuck.kill('SIGKILL')
    await eventually(async () => (await serviceNow(broker, 'web')).held === 1, 'the client waits in that one')
    const next = await startBackend(t, broker)
    t.match(await clients[0]?.answer(), { status: 200, headers: { 'x-pid': String(next.pid) } })
    await onlyWorker(t, broker)
  },
)

// The old worker had passed a client on, and forgot it. Its successor was killed before it had read it: the client was lost, and in no count.
void t.test(
  'what a successor has not taken when it is killed goes to the worker after it',
  { timeout: LIMIT },
  async (t) => {
    const { broker, stuck, clients, old, successor } = await leaving(t, 2)
    signal(Number(successor), 'SIGSTOP')
    stuck.kill('SIGKILL')
    await passedOn(broker, old, 'held', 'inFlight')
    signal(Number(successor), 'SIGKILL')
    await eventually(async () => (await serviceNow(broker, 'web')).held === 2, 'they wait in the next one')
    const next = await startBackend(t, broker)
    for (const client of clients)
      t.match(await client.answer(), { status: 200, headers: { 'x-pid': String(next.pid) } })
    await onlyWorker(t, broker)
    const { accepted, ended } = await ledger(broker)
    t.equal(ended, accepted)
    t.equal((await samples(broker)).get('baton_connections_total{service="web",outcome="lost"}') ?? 0, 0)
  },
)

// The old worker had begun to end when they were in the kernel, and closed what came back.
void t.test(
  'idle connections that a successor has not taken stay open, and go to the worker after it',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, {
      config: {
        workerTimeout: '5m',
        services: { web: { ...PATIENT, parkAfter: '0ms' } },
      },
    })
    const giver = await startBackend(t, broker)
    await broker.backends(1)
    const clients = [await visit(t, broker), await visit(t, broker), await visit(t, broker)]
    for (const client of clients) t.equal((await client.answer()).status, 200)
    await broker.until(({ services }) => services[0]?.parked === 3, 'they are parked')
    // The reload waits for it, in the old worker, when the other one is with the successor.
    const stuck = await startBackend(t, broker)
    await broker.backends(2)
    stuck.kill('SIGSTOP')
    const old = await onlyWorker(t, broker)
    const session = await openSession(t, broker)
    session.send('reload\n')
    const registered = () =>
      broker.program
        .messages()
        .findLast(
          ({ pid, msg, peerPid }) => msg === 'backend registered' && pid !== old && peerPid === giver.pid,
        )
    await eventually(() => registered() !== undefined, 'a backend is with the successor')
    const successor = Number(registered()?.['pid'])
    signal(successor, 'SIGSTOP')
    await passedOn(broker, old, 'parked')
    const [first, ...others] = clients
    first?.request('/meanwhile')
    signal(successor, 'SIGKILL')
    stuck.kill('SIGKILL')
    t.match(await first?.answer(), { status: 200 })
    for (const client of others) t.match(await client.get('/later'), { status: 200 })
    await onlyWorker(t, broker)
    await broker.until(({ services }) => services[0]?.inFlight === 0, 'at rest')
    const outcomes = await samples(broker)
    const of = (outcome: string) =>
      outcomes.get(`baton_connections_total{service="web",outcome="${outcome}"}`) ?? 0
    t.same([of('lost'), of('idle_closed')], [0, 0])
  },
)

// The kernel takes about a thousand of them, and the rest had no copies any more: they were lost, and in no count.
void t.test(
  'clients that wait for their turn to move outlive the worker that they wait in',
  { timeout: LIMIT },
  async (t) => {
    const services = { web: PATIENT, other: {} }
    const broker = await startBroker(t, { config: { workerTimeout: '5m', services } })
    const waiting = await visitorsOf(t, broker.port(), 3000)
    await broker.until(({ services: [web] }) => web?.held === waiting.length, 'all wait')
    await startBackend(t, broker, 'http-backend.mjs', { service: 'other' })
    // The reload waits for it, in the old worker, when the other one is with the successor.
    const stuck = await startBackend(t, broker, 'http-backend.mjs', { service: 'other' })
    await broker.backends(2, 'other')
    stuck.kill('SIGSTOP')
    const old = await onlyWorker(t, broker)
    const session = await openSession(t, broker)
    session.send('reload\n')
    const registered = () =>
      broker.program.messages().findLast(({ pid, msg }) => msg === 'backend registered' && pid !== old)
    await eventually(() => registered() !== undefined, 'a backend is with the successor')
    const successor = Number(registered()?.['pid'])
    signal(successor, 'SIGSTOP')
    await eventually(async () => (await heldIn(broker, old)) < waiting.length, 'some have moved')
    let left = Number.NaN
    await eventually(async () => {
      const before = left
      left = await heldIn(broker, old)
      return left === before
    }, 'the kernel has no more room')
    signal(old, 'SIGKILL')
    await broker.program.message('waiting clients of the dead worker go to the next one')
    signal(successor, 'SIGCONT')
    stuck.kill('SIGKILL')
    await eventually(
      async () => (await serviceNow(broker, 'web')).held === waiting.length,
      () => `all wait in the successor; ${left} had not moved`,
    )
    await startBackend(t, broker)
    await allServed(t, broker, 'web', waiting)
    t.equal((await samples(broker)).get('baton_connections_total{service="web",outcome="lost"}') ?? 0, 0)
    t.ok(left > 0, `${left} had not moved`)
  },
)
