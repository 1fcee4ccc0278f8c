import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { Broker, startBroker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { logged, onlyWorker, openSession, reload, samples } from '../support/operator.ts'
import { Sabotaged } from '../support/sabotage.ts'
import { exists, signal } from '../support/signal.ts'
import { servedBy, visit } from '../support/visit.ts'
import { checkAnswers, served, startAgain, sum, Visitor } from '../support/visitor.ts'

// SIGKILL of the master in the middle of a reload, or while an earlier worker still finishes, and the next `baton start`.

const TOOK_OVER = 'took over the worker of a master that was killed'

async function takeOver(
  t: Test,
  broker: Broker,
  env?: NodeJS.ProcessEnv,
): Promise<{ next: Broker; workerPid: unknown }> {
  const program = startAgain(t, broker, env)
  const { workerPid } = await program.message(TOOK_OVER)
  const ready = await program.message('accepting connections')
  return { next: new Broker(program, broker.folder, broker.configFile, ready), workerPid }
}

async function fixedAdmin() {
  return { listen: `127.0.0.1:${await freePort()}` }
}

async function accepted(broker: Broker): Promise<number> {
  return (await samples(broker)).get('baton_connections_accepted_total{listener="web"}') ?? Number.NaN
}

// Between the order to the old worker to stop accepting and the moment at which the new one had all that it needs without a master, neither
// survived it: clients were refused until the next start. `npm run bench -- master-death` met it within a minute on a busy machine.
void t.test('the master is killed before each message of a reload', { timeout: LIMIT }, async (t) => {
  const outer = t
  // Idle connections are handed back at once, to whichever worker a backend has registered with last: it closed them if it ended before it had accepted.
  const services = { web: { parkAfter: '0ms' } }
  const scene = await Sabotaged.start(t, { admin: await fixedAdmin(), services })
  let { broker } = scene
  const backend = await startBackend(t, broker)
  await broker.backends(1)
  const all = Array.from({ length: 8 }, (_, index) => new Visitor(t, broker, String(index)))
  await served(all)
  for (const message of ['pause', 'serve', 'release', 'successor', 'peer', 'accept', 'finish']) {
    await t.test(`before ${message}`, async (t) => {
      const old = await onlyWorker(t, broker)
      scene.begin('dying-master', message)
      const session = await openSession(t, broker)
      session.send('reload\n')
      // Not its `exited`: the worker has the same standard output.
      const { child } = broker.program
      await eventually(() => child.signalCode === 'SIGKILL', 'the master is killed')
      scene.end('dying-master')
      await served(all, 100)
      t.equal(await servedBy(t, broker), backend.pid, 'new clients are accepted')
      // The new worker has everything before the old one is told to finish.
      const isSucceeded = message === 'finish'
      if (isSucceeded) await eventually(() => !exists(old), 'the old worker has finished without a master')
      await broker.until((status) => status.broker.master === null, 'a worker goes on alone')
      const { next, workerPid } = await takeOver(outer, broker, scene.env)
      t.equal(workerPid === old, !isSucceeded, 'the one that goes on is taken over')
      broker = next
      await onlyWorker(t, broker)
      await served(all, 100)
    })
  }
  await Promise.all(all.map((visitor) => visitor.stop()))
  checkAnswers(t, all)
  t.equal(
    sum(all, ({ lost }) => lost),
    0,
    'no connection was lost',
  )
  // Each part has one more client.
  t.equal(await accepted(broker), all.length + 7, 'and each is counted once')
})

// The signal was forgotten: the worker went on after the five seconds, until it got another one.
void t.test(
  'SIGTERM for a worker that waits for its successor to go on without a master',
  { timeout: LIMIT },
  async (t) => {
    const scene = await Sabotaged.start(t, { workerTimeout: '5m', drainDeadline: '1m' })
    const { broker } = scene
    const old = await onlyWorker(t, broker)
    await startBackend(t, broker)
    // The reload waits for it, in the old worker, when the other one is with the successor.
    const stuck = await startBackend(t, broker)
    await broker.backends(2)
    stuck.kill('SIGSTOP')
    scene.begin('dying-master', 'finish')
    const session = await openSession(t, broker)
    session.send('reload\n')
    const registered = () =>
      broker.program.messages().find(({ pid, msg }) => msg === 'backend registered' && pid !== old)
    await eventually(() => registered() !== undefined, 'a backend is with the successor')
    const successor = Number(registered()?.['pid'])
    signal(successor, 'SIGSTOP')
    const { child } = broker.program
    await eventually(() => child.signalCode === 'SIGKILL', 'the master is killed')
    // The successor cannot have read its master's end when the signal comes.
    for (const pid of [old, successor]) signal(pid, 'SIGTERM')
    await eventually(() => !exists(old), 'the old worker ends')
    signal(successor, 'SIGCONT')
    await eventually(() => !exists(successor), 'the successor ends')
    t.equal(logged(broker, 'draining'), 2)
    stuck.kill('SIGKILL')
  },
)

// The counts of a worker that was still finishing were with its master alone: the next one began without them.
void t.test('the master is killed while an earlier worker finishes', { timeout: LIMIT }, async (t) => {
  const outer = t
  let broker = await startBroker(t, {
    config: { admin: await fixedAdmin(), drainDeadline: '10m', services: { web: { handoff: 'off' } } },
  })
  const backend = await startBackend(t, broker)
  await broker.backends(1)
  const first = await onlyWorker(t, broker)
  const relayed = await visit(t, broker, '/wait')
  await broker.until(({ services }) => services[0]?.outcomes.relayed === 1, 'it is relayed')
  for (let count = 0; count < 5; count++) await servedBy(t, broker)
  t.match(await reload(t, broker), { success: true })
  const expected = async (count: number, what: string) => {
    const counts = await samples(broker)
    t.equal(counts.get('baton_connections_accepted_total{listener="web"}'), count, what)
    t.equal(counts.get('baton_connections_total{service="web",outcome="relayed"}'), count, what)
  }
  await expected(6, 'with its master')

  for (const turn of [1, 2]) {
    broker.program.kill('SIGKILL')
    await broker.until((status) => status.broker.master === null, 'the worker has noticed')
    ;({ next: broker } = await takeOver(outer, broker))
    t.ok(exists(first))
    await expected(5 + turn, `with the next master, ${turn}`)
    await servedBy(t, broker)
  }
  t.match(await reload(t, broker), { success: true })
  await expected(8, 'in the next program')

  t.equal(relayed.received, '')
  backend.say('answer')
  t.match(await relayed.answer(), { status: 200 })
  relayed.socket.end()
  await eventually(() => !exists(first), 'it has finished')
  await eventually(
    () =>
      broker.program
        .messages()
        .some(({ msg, workerPid }) => msg === 'worker has finished' && workerPid === first),
    () => `the master notices: ${logged(broker, 'worker has finished')}`,
  )
  await expected(8, 'after its end')
})
