import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import type { Broker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT } from '../support/limits.ts'
import { logged, logs, masterStatus, onlyWorker, openSession, reload, samples } from '../support/operator.ts'
import { Program, root } from '../support/process.ts'
import { Sabotaged } from '../support/sabotage.ts'
import { exists, signal } from '../support/signal.ts'
import { servedBy, visit } from '../support/visit.ts'

// A worker that was alive but did not respond was left in place indefinitely, with every new client and every backend.

const TIMEOUT = 5000

const SUSPECTED = 'worker does not answer; starting another'
const ENDED = 'worker hangs; ending it'
const STRAY = 'a signal ended or stopped a worker that was starting; starting another'

/** The master's log lines with this `msg` about a worker. */
function said(broker: Broker, msg: string, workerPid: number) {
  return broker.program.messages().find((each) => each['msg'] === msg && each['workerPid'] === workerPid)
}

async function replaced(broker: Broker, pid: number): Promise<void> {
  await eventually(
    () => said(broker, 'worker died', pid) !== undefined && !exists(pid),
    () => `worker ${pid} is ended:\n${broker.program.lines.slice(-5).join('\n')}`,
  )
}

/**
 * Since the log had `from` messages: the successor was begun before this worker's time was over, and there was one attempt. A
 * second would have cost the clients another timeout. Asked of the log, since an answer may take two starts of a busy machine.
 */
function replacedOnce(t: Test, broker: Broker, pid: number, from: number): void {
  const messages = broker.program
    .messages()
    .slice(from)
    .filter((each) => each['workerPid'] === pid)
  const order = messages.map(({ msg }) => msg).filter((msg) => msg === SUSPECTED || msg === ENDED)
  t.same(order, [SUSPECTED, ENDED])
  t.ok(Number(messages.find(({ msg }) => msg === SUSPECTED)?.['silentMs']) < TIMEOUT)
}

void t.test('a worker that hangs is replaced', { timeout: 2 * LIMIT }, async (t) => {
  const scene = await Sabotaged.start(t, { services: { web: { ackDeadline: '5m', tokenTtl: '10m' } } })
  const { broker } = scene
  const backends = [await startBackend(t, broker), await startBackend(t, broker)]
  await broker.backends(2)
  const pids = new Set(backends.map(({ pid }) => pid))
  /** Clients that connect while it hangs, and after. */
  const served = async (t: Test) => {
    const clients = await Promise.all(Array.from({ length: 20 }, () => visit(t, broker)))
    for (const client of clients) t.match(await client.answer(), { status: 200 })
    for (const client of clients) client.socket.destroy()
    await broker.backends(2)
    t.ok(pids.has(await servedBy(t, broker)))
  }

  await t.test('stopped, under load: clients wait for the timeout, and no longer', async (t) => {
    const kept = await visit(t, broker)
    await kept.answer()
    const args = `--port ${broker.port()} --kept 8 --fresh 3 --pause 20`.split(' ')
    const load = new Program(t, process.execPath, [join(root, 'test/programs/two-kinds-load.mjs'), ...args])
    await load.message('loading')
    const worker = await onlyWorker(t, broker)
    signal(worker, 'SIGSTOP')
    const from = broker.program.messages().length
    const begun = performance.now()
    // Not a client of the load, whose connections are kept: this one waits in the accept queue.
    const client = await visit(t, broker)
    t.match(await client.answer(), { status: 200 })
    t.comment(`waited ${Math.round(performance.now() - begun)} ms`)
    await replaced(broker, worker)
    const dead = said(broker, ENDED, worker)
    t.match(dead, { state: 'T (stopped)' })
    t.ok(Number(dead?.['silentMs']) >= TIMEOUT)
    replacedOnce(t, broker, worker, from)
    await served(t)
    t.match(await kept.get(), { status: 200 }, 'a connection that a backend has does not notice')
    load.say('stop')
    const { requests, failures } = (await load.message('done')) as unknown as {
      requests: number
      failures: { kind: string; failure: string }[]
    }
    t.comment(`${requests} requests, ${failures.length} connections lost`)
    t.same(
      failures.filter(({ kind, failure }) => kind === 'kept' || !failure.startsWith('ECONNRESET')),
      [],
      'only its own clients are lost',
    )
    t.ok(failures.length <= 3)
    t.equal((await samples(broker)).get('baton_worker_hangs_total'), 1)
    t.equal((await samples(broker)).get('baton_worker_deaths_total'), 1)
  })

  for (const [fault, state] of [
    ['busy-worker', /^R /],
    ['blocked-worker', /^[SD] /],
  ] as const) {
    await t.test(fault, async (t) => {
      const worker = await onlyWorker(t, broker)
      scene.begin(fault)
      // Otherwise the next one does the same.
      await eventually(() => said(broker, SUSPECTED, worker) !== undefined, fault)
      scene.end(fault)
      // It might only have been slow so far, and would continue now.
      signal(worker, 'SIGSTOP')
      await replaced(broker, worker)
      t.match(said(broker, SUSPECTED, worker), { state })
      await served(t)
    })
  }

  await t.test('a worker that answers again in time stays, and keeps its clients', async (t) => {
    const worker = await onlyWorker(t, broker)
    const deaths = logged(broker, 'worker died')
    // The master decides when the successor is ready. Until then, this test has time.
    scene.begin('slow-worker')
    signal(worker, 'SIGSTOP')
    // In the accept queue. The successor that was ended had emptied it and rejected them.
    const clients = await Promise.all(Array.from({ length: 20 }, () => visit(t, broker)))
    await eventually(() => said(broker, SUSPECTED, worker) !== undefined, 'suspected')
    await scene.reached('slow-worker')
    const begun = logged(broker, 'worker has finished')
    signal(worker, 'SIGCONT')
    for (const client of clients) t.match(await client.answer(), { status: 200 })
    for (const client of clients) client.socket.destroy()
    scene.end('slow-worker')
    await logs(broker, 'worker has finished', begun + 1)
    await eventually(() => said(broker, 'worker answers again; it stays', worker) !== undefined, 'it stays')
    t.equal(await onlyWorker(t, broker), worker)
    t.equal(logged(broker, 'worker died'), deaths)
    await served(t)
  })

  await t.test('its successor is stopped as well, while it starts', async (t) => {
    const worker = await onlyWorker(t, broker)
    scene.begin('signalled-worker', 'SIGSTOP')
    const stray = logged(broker, STRAY)
    const from = broker.program.messages().length
    signal(worker, 'SIGSTOP')
    const begun = performance.now()
    const client = await visit(t, broker)
    t.match(await client.answer(), { status: 200 })
    client.socket.destroy()
    t.comment(`waited ${Math.round(performance.now() - begun)} ms`)
    await replaced(broker, worker)
    t.equal(logged(broker, STRAY), stray + 1)
    replacedOnce(t, broker, worker, from)
    await served(t)
  })

  await t.test('in a reload the check and the new worker are stopped while they start', async (t) => {
    scene.begin('signalled-check', 'SIGSTOP')
    scene.begin('signalled-worker', 'SIGSTOP')
    t.match(await reload(t, broker), { success: true })
    await served(t)
  })

  await t.test('before a reload: it is replaced, and the backends move', async (t) => {
    const worker = await onlyWorker(t, broker)
    signal(worker, 'SIGSTOP')
    t.match(await reload(t, broker), { success: true })
    await replaced(broker, worker)
    await served(t)
  })

  await t.test('in the middle of a reload: the reload succeeds', async (t) => {
    const worker = await onlyWorker(t, broker)
    scene.begin('slow-master')
    const session = await openSession(t, broker)
    session.send('reload\n')
    await scene.reached('slow-master')
    signal(worker, 'SIGSTOP')
    scene.end('slow-master')
    await session.ended
    t.match(session.received, /^Success=1\n/)
    await replaced(broker, worker)
    t.match(await masterStatus(t, broker), { workers: [{ role: 'serving' }] })
    await served(t)
  })

  await t.test('while it leaves: it is killed, and nothing else happens', async (t) => {
    const worker = await onlyWorker(t, broker)
    // Both are stopped, so that the offer gets no answer and the worker waits for it.
    for (const backend of backends) backend.kill('SIGSTOP')
    const held = await visit(t, broker)
    await broker.until(({ services }) => (services[0]?.inFlight ?? 0) > 0, 'it is offered')
    const session = await openSession(t, broker)
    const accepting = logged(broker, 'accepting connections')
    session.send('reload\n')
    // A session that requests the status while the program is being replaced would be cut.
    await logs(broker, 'accepting connections', accepting + 1)
    const { workers } = await masterStatus(t, broker)
    t.match(
      workers.find(({ pid }) => pid === worker),
      { role: 'leaving' },
    )
    signal(worker, 'SIGSTOP')
    await replaced(broker, worker)
    for (const backend of backends) backend.kill('SIGCONT')
    await session.ended
    held.socket.destroy()
    await served(t)
    await onlyWorker(t, broker)
  })

  await t.test('a stop does not wait for it', async (t) => {
    signal(await onlyWorker(t, broker), 'SIGSTOP')
    broker.program.kill('SIGTERM')
    t.same(await broker.program.exited, { code: 0, signal: null })
    await logs(broker, 'stopped')
    t.ok(logged(broker, 'worker does not end; killed') === 0, 'well before the drain deadline')
  })
})
