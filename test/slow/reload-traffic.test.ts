import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { type Broker, startBroker, type Status } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import {
  askAdmin,
  ledger,
  logs,
  masterStatus,
  onlyWorker,
  reload,
  settledLedger,
} from '../support/operator.ts'
import { Sabotaged } from '../support/sabotage.ts'
import { servedBy, visit } from '../support/visit.ts'
import { LIMIT, starts } from '../support/limits.ts'

// Clients and scrapers notice nothing of a reload.

const MINUTE = 60_000

/** Repetitions of cases that may fail by chance; `npm run test:long` sets it. */
const TURNS = process.env['RELOADS'] === undefined ? 1 : 4

async function status(broker: Broker): Promise<Status> {
  return JSON.parse((await askAdmin(broker, '/api/v1/status'))[1]) as Status
}

async function succeed(t: Test, broker: Broker): Promise<void> {
  const { success, log } = await reload(t, broker)
  if (!success) throw new Error(`the reload failed:\n${log.join('\n')}`)
}

void t.test('held clients move with their order and their deadlines', { timeout: LIMIT }, async (t) => {
  // Must not expire before both reloads are done.
  const holdTimeout = Math.min(starts(1.5), MINUTE)
  const broker = await startBroker(t, {
    config: {
      listeners: ['web', 'brief'].map((name) => ({
        name,
        listen: '127.0.0.1:0',
        protocol: name === 'web' ? 'tcp' : 'http',
        service: name,
      })),
      services: { web: {}, brief: { holdTimeout } },
    },
  })
  // Not after it has connected: the broker may have accepted it by then, and its time has begun.
  const begun = performance.now()
  const brief = await Client.open(t, { host: '127.0.0.1', port: broker.port('brief') })
  brief.request()
  const rejected = brief.answer().then(({ status }) => ({ status, at: performance.now() }))
  const clients: Client[] = []
  const connect = async (count: number) => {
    for (let index = 0; index < count; index++) clients.push(await Client.open(t, { port: broker.port() }))
    await eventually(async () => (await status(broker)).services[0]?.held === clients.length, 'all wait')
  }
  await connect(250)
  await succeed(t, broker)
  await connect(20)
  await succeed(t, broker)
  await connect(5)
  const moved = performance.now() - begun
  const left = clients.splice(100, 1)
  left[0]?.socket.resetAndDestroy()
  await eventually(async () => (await status(broker)).services[0]?.held === clients.length, 'one has left')
  t.ok(clients.every(({ open, received }) => open && received === ''))

  await startBackend(t, broker, 'tcp-backend.mjs')
  const turns = []
  for (const client of clients) turns.push((JSON.parse(await client.line()) as { turn: number }).turn)
  t.same(
    turns,
    clients.map((_, index) => index + 1),
    'served in the order in which they came',
  )
  const { status: answer, at } = await rejected
  t.equal(answer, 503)
  const waited = at - begun
  t.ok(waited > holdTimeout - 100, `not before its time: ${Math.round(waited)} ms`)
  t.ok(waited < holdTimeout + moved / 2, `its timeout did not restart: ${Math.round(waited)} ms`)
  await onlyWorker(t, broker)
  // A client may have its answer before the broker has read the ACK.
  t.same(await settledLedger(broker), { accepted: 276, ended: 276 })
  t.equal(await broker.metric('baton_connections_total{service="web",outcome="client_gone"}'), 1)
})

void t.test('relays finish in the old worker, for at most drainDeadline', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    // Long enough for the steps before it expires.
    config: { drainDeadline: Math.min(starts(1.5), MINUTE), services: { web: { handoff: 'off' } } },
  })
  const backend = await startBackend(t, broker)
  const kept = await visit(t, broker)
  t.match(await kept.answer(), { status: 200 })
  const begun = await visit(t, broker, '/wait')
  await broker.until(({ services }) => services[0]?.outcomes.relayed === 2, 'both are relayed')
  await succeed(t, broker)
  const { workers } = await masterStatus(t, broker)
  t.match(
    workers.map(({ pid, role }) => (pid === broker.pid ? role : 'other')),
    ['leaving', 'other'],
  )
  t.equal(await servedBy(t, broker), backend.pid, 'new clients are relayed by the new one')
  t.match(await kept.get(), { status: 200 }, 'a kept connection continues')
  backend.say('answer')
  t.match(await begun.answer(), { status: 200, body: `waited ${backend.pid}` })
  begun.request('/wait')
  t.not(await begun.ended, undefined, 'a longer relay is cut')
  t.not(await onlyWorker(t, broker), broker.pid)
  t.same(await ledger(broker), { accepted: 3, ended: 3 })
})

void t.test('counters never go back', { timeout: LIMIT }, async (t) => {
  const scene = await Sabotaged.start(t, {
    // The relays of a leaving worker must not be cut before the test is done with them either.
    drainDeadline: '10m',
    services: { web: { handoff: 'off' } },
  })
  const { broker } = scene
  await startBackend(t, broker)
  for (let count = 0; count < 5; count++) await servedBy(t, broker)
  await succeed(t, broker)
  await t.test('when the master has no time to answer', async (t) => {
    scene.begin('slow-master')
    broker.program.kill('SIGHUP')
    await scene.reached('slow-master')
    t.same(await ledger(broker), { accepted: 5, ended: 5 })
    scene.end('slow-master')
    await logs(broker, 'reloaded', 2)
  })
  await t.test('when a worker leaves, and has counted since its last report', async (t) => {
    const relayed = await visit(t, broker, '/')
    t.match(await relayed.answer(), { status: 200 })
    const seen: number[] = []
    const over = new AbortController()
    const load = until(over.signal, () => servedBy(t, broker))
    const scraping = until(over.signal, async () => seen.push((await ledger(broker)).accepted))
    for (let turn = 0; turn < TURNS; turn++) await succeed(t, broker)
    over.abort()
    await Promise.all([load, scraping])
    const back = seen.filter((value, index) => value < (seen[index - 1] ?? 0))
    t.same(back, [], `scrapes: ${seen.length}, the last ${seen.at(-1)}`)
    relayed.socket.destroy()
    await onlyWorker(t, broker)
  })
  await t.test('nor counted twice if a worker ends during a scrape', async (t) => {
    for (let turn = 0; turn < TURNS; turn++) {
      const relayed = await visit(t, broker)
      t.match(await relayed.answer(), { status: 200 })
      await succeed(t, broker)
      const leaving = (await masterStatus(t, broker)).workers.find(({ role }) => role === 'leaving')
      const { accepted } = await ledger(broker)
      broker.program.kill('SIGSTOP')
      const scrape = ledger(broker)
      relayed.socket.destroy()
      await eventually(() => isZombie(leaving?.pid), 'it has exited and not been reaped')
      broker.program.kill('SIGCONT')
      t.equal((await scrape).accepted, accepted)
      await onlyWorker(t, broker)
    }
  })
})

/** Repeats, one call at a time. */
async function until(signal: AbortSignal, act: () => Promise<unknown>): Promise<void> {
  while (!signal.aborted) await act()
}

function isZombie(pid = 0): boolean {
  return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
}
