import { execFileSync } from 'node:child_process'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { Broker, startBroker } from '../support/broker.ts'
import { copied, killWorker, masterDescriptors, unaccounted } from '../support/deaths.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { interceptClaim } from '../support/intercepted-claim.ts'
import {
  configure,
  logged,
  masterStatus,
  onlyWorker,
  openSession,
  operatorSocket,
  reload,
  samples,
} from '../support/operator.ts'
import { serverEndsIn } from '../support/proc.ts'
import type { Program } from '../support/process.ts'
import { exists, signal } from '../support/signal.ts'
import { visitors } from '../support/visit.ts'
import { serviceNow, statusNow, visitorsOf } from '../support/waiting-room.ts'
import { startAgain } from '../support/visitor.ts'

// Connections of workers that were killed: each that was accepted or handed back is counted once, as lost or with its own outcome.

const PATIENT = { ackDeadline: '5m', tokenTtl: '10m', holdTimeout: '10m' }

const listener = (name: string, listen = '127.0.0.1:0') => ({ name, listen, protocol: 'http', service: name })

const two = {
  // Processes are stopped for a while.
  workerTimeout: '5m',
  listeners: [listener('web'), listener('other')],
  services: { web: { ...PATIENT, parkAfter: '0ms' }, other: { ...PATIENT, parkAfter: '0ms' } },
}

// The next worker rejected them, and counted that; they were counted as lost as well.
void t.test(
  'connections of a service that was removed meanwhile have one outcome',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: two })
    const backend = await startBackend(t, broker, 'http-backend.mjs', { service: 'other' })
    const parked = await visitorsOf(t, broker.port('other'), 2)
    for (const client of parked) t.equal((await client.answer()).status, 200)
    await eventually(async () => (await serviceNow(broker, 'other')).parked === 2, 'they are parked')
    backend.kill('SIGKILL')
    await broker.backends(0, 'other')
    const held = await visitorsOf(t, broker.port('other'), 3)
    await eventually(async () => (await serviceNow(broker, 'other')).held === 3, 'they are held')
    await copied(broker, broker.port('other'), [...parked, ...held])
    const worker = await onlyWorker(t, broker)
    // It answers nothing.
    signal(worker, 'SIGSTOP')
    configure(broker, { listeners: two.listeners.slice(0, 1), services: { web: two.services.web } })
    const before = logged(broker, 'program replaced, reload continues')
    const reloaded = reload(t, broker)
    await eventually(() => logged(broker, 'program replaced, reload continues') > before, 'exec')
    signal(worker, 'SIGKILL')
    t.match(await reloaded, { success: true })
    for (const client of held) t.equal((await client.answer()).status, 503)
    for (const client of parked) t.not(await client.ended, undefined)
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 0 })
    const now = await samples(broker)
    const of = (outcome: string) => now.get(`baton_connections_total{service="other",outcome="${outcome}"}`)
    t.same([of('rejected'), of('idle_closed')], [3, 2])
  },
)

// Its counts were not read: its connections were in no count.
void t.test(
  'a worker whose copies were lost with the stream is counted as any other',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: { services: { web: PATIENT } } })
    const limit = (count: number) =>
      execFileSync('prlimit', ['--pid', String(broker.program.pid), `--nofile=${count}:`])
    limit(masterDescriptors(broker) + 4)
    const clients = await visitors(t, broker, 20)
    await broker.program.message(
      'lost the copies of waiting connections: they would not survive the death of their worker',
    )
    limit(1024)
    await killWorker(t, broker)
    for (const client of clients) t.not(await client.ended, undefined)
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 20 })
  },
)

// The program after the exec was not told what the numbers mean, and asked the worker for that, too: they were in no count.
void t.test(
  'a worker whose copies do not cross an exec is counted as any other',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: { workerTimeout: '5m', services: { web: PATIENT } } })
    const idle = masterDescriptors(broker)
    // More than three quarters of what the master may have open.
    const count = 4 * (idle + 60)
    const clients = await visitors(t, broker, count)
    const copies = () => serverEndsIn(broker.program.pid, broker.port())
    await eventually(
      () => copies() === count,
      () => `the master has a copy of each of ${count}; it has ${copies()}`,
    )
    execFileSync('prlimit', ['--pid', String(broker.program.pid), `--nofile=${idle + count + 60}:`])
    const worker = await onlyWorker(t, broker)
    signal(worker, 'SIGSTOP')
    const before = logged(broker, 'program replaced, reload continues')
    const reloaded = reload(t, broker)
    await eventually(() => logged(broker, 'program replaced, reload continues') > before, 'exec')
    signal(worker, 'SIGKILL')
    t.match(await reloaded, { success: true })
    for (const client of clients) t.not(await client.ended, undefined)
    t.same(await unaccounted(broker), { unaccounted: 0, lost: count })
  },
)

// The idle connections that it had were not counted as its own: when they had gone to the worker that stayed, as many others, which were lost, were in no count.
void t.test(
  'a successor that is killed when it has been handed connections back',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: two })
    const giver = await startBackend(t, broker)
    const clients = await visitorsOf(t, broker.port(), 3)
    for (const client of clients) t.equal((await client.answer()).status, 200)
    await eventually(async () => (await serviceNow(broker, 'web')).parked === 3, 'they are parked')
    for (const client of clients) client.request('/wait')
    await eventually(
      () => giver.messages().filter(({ msg }) => msg === 'waiting').length === 3,
      'the backend has them',
    )
    // The reload waits for it, when the other one is with the successor.
    const stuck = await startBackend(t, broker, 'http-backend.mjs', { service: 'other' })
    await broker.backends(1, 'other')
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
    giver.say('answer')
    for (const client of clients) t.equal((await client.answer()).status, 200)
    const statuses = () =>
      broker.program
        .messages()
        .filter(
          ({ pid, msg, service }) => pid === successor && msg === 'status: service' && service === 'web',
        )
    await eventually(async () => {
      const before = statuses().length
      broker.program.kill('SIGUSR2')
      await eventually(() => statuses().length > before, 'the successor shows its status')
      return statuses().at(-1)?.['parked'] === 3
    }, 'they are parked in the successor')
    const isInTime = (await masterStatus(t, broker)).workers.some(({ role }) => role === 'starting')
    t.comment(isInTime ? 'it does not serve yet' : 'it serves already')
    signal(successor, 'SIGKILL')
    stuck.kill('SIGKILL')
    await session.ended
    const serving = await onlyWorker(t, broker)
    await broker.backends(1)
    await eventually(async () => (await statusNow(broker)).broker.pid === serving, 'it answers')
    // Backends are with the one that serves, and all that has survived is there.
    let [parked, lost] = [0, 0]
    const areThree = async () => {
      lost = (await unaccounted(broker)).lost
      parked = (await serviceNow(broker, 'web')).parked
      return parked + lost === 3
    }
    await eventually(areThree, () => `${parked} have survived, ${lost} are lost`)
    if (parked === 3) await copied(broker, broker.port(), clients)
    giver.kill('SIGSTOP')
    await visitorsOf(t, broker.port(), 5)
    await eventually(async () => (await serviceNow(broker, 'web')).inFlight === 5, 'they are in flight')
    await killWorker(t, broker)
    const after = await unaccounted(broker)
    t.equal(after.lost, lost + 5)
  },
)

/**
 * A broker whose worker has got five clients, held for `other`, from one that has died. What that one lost cannot be counted yet, because another worker is
 * finishing, with one client. `killMaster` kills it after the master: its client is lost.
 */
async function unsettled(t: Test) {
  const config = { ...two, admin: { listen: `127.0.0.1:${await freePort()}` } }
  const first = await startBroker(t, { config })
  const stuck = await startBackend(t, first)
  await first.backends(1)
  stuck.kill('SIGSTOP')
  await visitorsOf(t, first.port(), 1)
  await eventually(async () => (await serviceNow(first, 'web')).inFlight === 1, 'it is with a stuck backend')
  const finishing = await onlyWorker(t, first)
  const session = await openSession(t, first)
  session.send('reload\n')
  await eventually(() => logged(first, 'accepting connections') === 2, 'the next worker accepts')
  const clients = await visitorsOf(t, first.port('other'), 5)
  await eventually(async () => (await serviceNow(first, 'other')).held === 5, 'they are held')
  await copied(first, first.port('other'), clients)
  const serving = async () =>
    (await masterStatus(t, first)).workers.find(({ role }) => role === 'serving')?.pid as number
  signal(await serving(), 'SIGKILL')
  await eventually(() => logged(first, 'accepting connections') === 3, 'another worker accepts')
  await eventually(async () => (await serviceNow(first, 'other')).held === 5, 'they are held again')
  const killMaster = async () => {
    first.program.kill('SIGKILL')
    await eventually(async () => (await statusNow(first)).broker.master === null, 'the worker has noticed')
    signal(finishing, 'SIGKILL')
  }
  return { first, clients, worker: await serving(), killMaster }
}

/** The broker after the start of another master. */
function withMaster(first: Broker, program: Program): Broker {
  return new Broker(program, first.folder, first.configFile, {
    control: first.control,
    admin: first.admin.replace('http://', ''),
    pid: first.pid,
    listeners: { web: first.address(), other: first.address('other') },
  })
}

// Until its first answer to a ping, it was taken for a worker that does not say what moved: all that it had from the dead one was counted as lost.
void t.test(
  'a worker that was taken over says at once what it has from a dead one',
  { timeout: LIMIT },
  async (t) => {
    const { first, clients, worker, killMaster } = await unsettled(t)
    // Its replacement fails, so that it stays.
    const another = { ...listener('another', first.address()), service: 'web' }
    configure(first, { listeners: [...two.listeners, another] })
    await killMaster()
    const next = startAgain(t, first)
    // It is of the first master's group, and writes to the output of the second.
    t.teardown(() => exists(worker) && signal(worker, 'SIGKILL'))
    await next.message('reload failed; the worker continues as before')
    const broker = withMaster(first, next)
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 1 })
    await startBackend(t, broker, 'http-backend.mjs', { service: 'other' })
    for (const client of clients) t.equal((await client.answer()).status, 200)
    await eventually(async () => (await serviceNow(broker, 'other')).inFlight === 0, 'all are counted')
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 1 })
  },
)

// Its moves were not known then, and what it had got from the dead one, and served, was counted as lost.
void t.test(
  'a worker that is killed before the master that takes it over has anything of it',
  { timeout: LIMIT },
  async (t) => {
    const { first, clients, worker, killMaster } = await unsettled(t)
    await startBackend(t, first, 'http-backend.mjs', { service: 'other' })
    for (const client of clients) t.equal((await client.answer()).status, 200)
    for (const client of clients) client.socket.destroy()
    await eventually(async () => {
      const { inFlight, parked, held } = await serviceNow(first, 'other')
      return inFlight + parked + held === 0
    }, 'they have left')
    await killMaster()
    const claim = interceptClaim(t, operatorSocket(first))
    const next = startAgain(t, first)
    // It has answered, and reads no order of the next master.
    await claim(() => signal(worker, 'SIGSTOP'))
    await next.message('took over the worker of a master that was killed')
    signal(worker, 'SIGKILL')
    await next.message('accepting connections')
    const broker = withMaster(first, next)
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 1 })
  },
)
