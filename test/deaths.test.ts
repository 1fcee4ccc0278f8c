import { readFileSync } from 'node:fs'
import t from 'tap'
import { startBackend } from './support/backend.ts'
import { Broker, startBroker } from './support/broker.ts'
import type { Client } from './support/client.ts'
import { batonHere } from './support/command.ts'
import { copied, hasConnection, killWorker, masterDescriptors, unaccounted } from './support/deaths.ts'
import { eventually } from './support/eventually.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { configure, logged, masterStatus, onlyWorker, reload, samples } from './support/operator.ts'
import { root } from './support/process.ts'
import { exists, signal, signalIfThere } from './support/signal.ts'
import { servedBy, visit, visitors } from './support/visit.ts'
import { startAgain } from './support/visitor.ts'
import { WsTalker } from './support/ws-talker.ts'

// SIGKILL of the worker: what waits in it, held or parked, goes to the next one. SIGKILL of the master: the worker goes on, until another master
// takes it over. test/slow/deaths.test.ts does it under load.

function children({ program }: Broker): number[] {
  const pid = String(program.child.pid)
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  return text === '' ? [] : text.split(' ').map(Number)
}

void t.test('a worker is killed', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: { services: { web: { holdTimeout: '10m' } }, workerTimeout: '1h' },
  })
  const idle = masterDescriptors(broker)
  const clients = await visitors(t, broker, 100)
  let answers = 0

  await t.test('held clients are held by the next worker, in their order', async (t) => {
    await copied(broker, broker.port(), clients)
    await killWorker(t, broker)
    await broker.until(({ services }) => services[0]?.held === 100, 'all are held again')
    const [gone, ...others] = clients.splice(0, 2)
    gone?.socket.resetAndDestroy()
    others[0]?.socket.resetAndDestroy()
    await broker.until(({ services }) => services[0]?.outcomes.client_gone === 2, 'two have left')
    const backend = await startBackend(t, broker)
    for (const client of clients) t.equal((await client.answer()).headers['x-pid'], String(backend.pid))
    answers += clients.length
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 0 })
    await eventually(() => masterDescriptors(broker) <= idle + 10, 'the master has closed its copies')
    backend.kill('SIGTERM')
    await backend.exited
  })

  await t.test('parked connections go on with their next request, or end', async (t) => {
    await broker.until(({ services }) => services[0]?.parked === 98, 'all are parked')
    await copied(broker, broker.port(), clients)
    await killWorker(t, broker)
    await broker.until(({ services }) => services[0]?.parked === 98, 'all are parked again')
    for (const client of clients.splice(0, 48)) client.socket.destroy()
    await broker.until(({ services }) => services[0]?.outcomes.idle_closed === 48, '48 have left')
    const backend = await startBackend(t, broker)
    for (const client of clients) {
      client.request('/again')
      t.equal((await client.answer()).headers['x-pid'], String(backend.pid))
    }
    answers += clients.length
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 0 })
    t.equal(
      (await samples(broker)).get('baton_connections_total{service="web",outcome="handed_off"}'),
      answers,
    )
    await eventually(() => masterDescriptors(broker) <= idle + 10, 'the master has closed its copies')
    backend.kill('SIGKILL')
    // Another holder of the socket would keep it open.
    for (const client of clients) t.not(await client.ended, undefined)
    await broker.backends(0)
  })

  await t.test('a backend in its drain registers with the next one, and hands the rest back', async (t) => {
    // It did not dial again: what had not moved yet was cut at its deadline, although a successor was there.
    const giver = await startBackend(t, broker, 'ws-backend.mjs', { env: { DRAIN_DEADLINE: '1h' } })
    const talker = await new WsTalker(t, broker.port()).open()
    giver.kill('SIGTERM')
    await giver.message('draining')
    const [held] = (await visitors(t, broker, 1)) as [Client]
    await broker.until(({ services }) => services[0]?.held === 1, 'no other backend is there')
    await copied(broker, broker.port(), [held])
    await killWorker(t, broker)
    const { services } = await broker.until(
      (status) => status.services[0]?.backends.some(({ pid }) => pid === giver.pid) === true,
      'it is registered',
    )
    t.match(services[0], { held: 1, backends: [{ state: 'draining' }] })
    talker.say(20)
    await eventually(() => talker.isAnswered, 'it serves what it has')
    const refused = 'baton_handoff_failures_total{service="web",reason="BackendDraining"}'
    t.equal(
      (await samples(broker)).get(refused) ?? 0,
      0,
      'and is offered nothing, not even a client that is held',
    )
    t.equal(giver.messages().filter(({ msg }) => msg === 'draining').length, 1)
    const next = await startBackend(t, broker, 'ws-backend.mjs', { env: { DRAIN_DEADLINE: '1h' } })
    t.match(await giver.exited, { code: 0, signal: null })
    talker.say(20)
    await eventually(() => talker.isAnswered, 'it goes on in the next process')
    t.same({ problems: talker.problems, code: talker.closeCode }, { problems: [], code: undefined })
    t.equal((await held.answer()).body, String(next.pid))
    next.kill('SIGKILL')
    await broker.backends(0)
    await broker.until((status) => status.services[0]?.held === 0, 'at rest')
  })

  await t.test('while the master executes its next program', async (t) => {
    // That program asked the worker for all copies again: until they came, its death took all that waited in it along.
    const waiting = await visitors(t, broker, 20)
    await broker.until(({ services }) => services[0]?.held === 20, 'they are held')
    await copied(broker, broker.port(), waiting)
    const pid = await onlyWorker(t, broker)
    // It answers nothing.
    signal(pid, 'SIGSTOP')
    const before = logged(broker, 'program replaced, reload continues')
    const reloaded = reload(t, broker)
    await eventually(() => logged(broker, 'program replaced, reload continues') > before, 'exec')
    signal(pid, 'SIGKILL')
    t.match(await reloaded, { success: true })
    await broker.until(({ services }) => services[0]?.held === 20, 'they are held again')
    const backend = await startBackend(t, broker)
    for (const client of waiting) t.equal((await client.answer()).headers['x-pid'], String(backend.pid))
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 0 })
    for (const client of waiting) client.socket.destroy()
    backend.kill('SIGTERM')
    await backend.exited
    await broker.until(({ services }) => services[0]?.parked === 0, 'all have left')
    await eventually(() => masterDescriptors(broker) <= idle + 10, 'the master has closed its copies')
  })

  // Such a worker's moves were taken for unknown, and clients that had survived another one were counted as lost.
  await t.test('after new workers that were killed while they started', async (t) => {
    const waiting = await visitors(t, broker, 10)
    await broker.until(({ services }) => services[0]?.held === 10, 'they are held')
    await copied(broker, broker.port(), waiting)
    const serving = await onlyWorker(t, broker)
    // It answers nothing, so nothing is settled between the deaths.
    signal(serving, 'SIGSTOP')
    let isAnswered = false
    const reloaded = reload(t, broker).finally(() => (isAnswered = true))
    await eventually(() => {
      for (const pid of children(broker)) if (pid !== serving) signalIfThere(pid, 'SIGKILL')
      return isAnswered
    }, 'the reload has an answer')
    t.match(await reloaded, { success: false })
    const before = logged(broker, 'accepting connections')
    signal(serving, 'SIGKILL')
    await eventually(() => logged(broker, 'accepting connections') > before, 'the next worker accepts')
    await broker.until(({ services }) => services[0]?.held === 10, 'they are held again')
    for (const client of waiting) client.socket.resetAndDestroy()
    await broker.until(({ services }) => services[0]?.held === 0, 'they have left')
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 0 })
  })

  await t.test('after a reload that has failed, and two deaths in a row', async (t) => {
    const waiting = await visitors(t, broker, 10)
    await broker.until(({ services }) => services[0]?.held === 10, 'they are held')
    const { listeners } = JSON.parse(readFileSync(broker.configFile, 'utf8')) as { listeners: unknown[] }
    // Taken by the first one.
    const other = { name: 'other', listen: broker.address(), protocol: 'http', service: 'web' }
    configure(broker, { listeners: [...listeners, other] })
    t.match(await reload(t, broker), { success: false })
    for (const what of ['the worker is still the first', 'it has them from its predecessor']) {
      await copied(broker, broker.port(), waiting, what)
      await killWorker(t, broker)
      await broker.until(({ services }) => services[0]?.held === 10, 'they are held again')
    }
    for (const client of waiting) client.socket.resetAndDestroy()
    await broker.until(({ services }) => services[0]?.held === 0, 'they have left')
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 0 })
  })
})

/** Whether a process sleeps because it has nothing more to do. One that waits for another thread, such as a garbage collector's, sleeps too. */
function isIdle(pid: number): boolean {
  if (!/^State:\tS/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))) return false
  const [call] = readFileSync(`/proc/${pid}/syscall`, 'utf8').split(' ')
  return call !== 'running' && Number(call) !== FUTEX
}

/** The number of futex(2). */
const FUTEX = process.arch === 'arm64' ? 98 : 202

// The outcome was written down with the next client: until then, the death of the worker made a lost connection of each that it had just handed off.
void t.test('what was handed off is not lost with the worker', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  await startBackend(t, broker)
  await broker.backends(1)
  const pid = await onlyWorker(t, broker)
  const before = logged(broker, 'accepting connections')
  const [client] = await visitors(t, broker, 1)
  await client?.answer()
  // No question to the broker, and no other client: both would have the outcome written.
  const isOver = () => !hasConnection(pid, broker.port(), client?.port ?? 0) && isIdle(pid)
  await eventually(isOver, 'the worker has read the ACK, and has closed its copy')
  signal(pid, 'SIGKILL')
  await eventually(() => logged(broker, 'accepting connections') > before, 'the next worker accepts')
  t.same(await unaccounted(broker), { unaccounted: 0, lost: 0 })
  t.equal((await samples(broker)).get('baton_connections_total{service="web",outcome="handed_off"}'), 1)
})

void t.test('managed backends outlive their master as well', { timeout: LIMIT }, async (t) => {
  const app = `import http from 'node:http'
    import { createBackend } from '@baton/backend-sdk'
    const server = http.createServer((request, response) => {
      console.log('asked for ' + request.url)
      response.setHeader('x-pid', process.pid)
      if (request.url === '/exit') process.exit(7)
      response.end()
    })
    await createBackend().attach(server).ready()`
  const command = [process.execPath, '--input-type=module', '-e', app]
  const first = await startBroker(t, {
    config: {
      admin: { listen: `127.0.0.1:${await freePort()}` },
      services: { web: { command, cwd: root, instances: 2 } },
      workerTimeout: '1h',
    },
  })
  const pids = (await first.backends(2)).services[0]?.backends.map(({ pid }) => pid) ?? []
  const kept = await visit(t, first)
  const owner = Number((await kept.answer()).headers['x-pid'])
  first.program.kill('SIGKILL')
  await first.until((status) => status.broker.master === null, 'the worker has noticed')
  t.ok(pids.includes(await servedBy(t, first)))
  await kept.get('/without-a-master')
  await eventually(
    () => logged(first, 'asked for /without-a-master') === 1,
    'its output is read by the worker',
  )

  const program = startAgain(t, first)
  await program.message('took over the worker of a master that was killed')
  const next = new Broker(
    program,
    first.folder,
    first.configFile,
    await program.message('accepting connections'),
  )
  const { services } = await next.backends(2)
  t.same(new Set(services[0]?.backends.map(({ pid }) => pid)), new Set(pids), 'the same processes')
  t.equal((await kept.get('/with-the-next')).headers['x-pid'], String(owner))
  await eventually(() => logged(next, 'asked for /with-the-next') === 1, 'the next master reads its output')
  const { managed } = await masterStatus(t, next)
  t.same(new Set(managed.map(({ pid }) => pid)), new Set(pids))
  kept.request('/exit')
  await kept.ended
  await program.message('backend process ended')
  const replaced = await next.until(
    ({ services: [web] }) => web?.backends.filter(({ pid }) => pid !== owner).length === 2,
    'the next master replaces it',
  )
  // The worker reads the last message of its master together with the master's end.
  const worker = await onlyWorker(t, next)
  signal(worker, 'SIGSTOP')
  const ended = logged(next, 'backend process ended')
  signal(replaced.services[0]?.backends[0]?.pid ?? 0, 'SIGKILL')
  await eventually(() => logged(next, 'backend process ended') > ended, 'the master has noticed')
  await masterStatus(t, next)
  next.program.kill('SIGKILL')
  signal(worker, 'SIGCONT')
  await next.until((status) => status.broker.master === null, 'the worker has noticed')
  t.equal((await batonHere('stop', '--config', next.configFile)).out.at(-1), 'stopped')
  const all = [...pids, ...(replaced.services[0]?.backends.map(({ pid }) => pid) ?? [])]
  await eventually(() => !all.some(exists), 'they end with the worker')
})
