import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, Broker, startBroker } from './support/broker.ts'
import { hasConnection, killWorker, masterDescriptors, unaccounted } from './support/deaths.ts'
import { eventually } from './support/eventually.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { configure, logged, masterStatus, onlyWorker, reload, samples } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { exists, signal } from './support/signal.ts'
import { servedBy, visit, visitors } from './support/visit.ts'
import { checkAnswers, served, startAgain, sum, Visitor } from './support/visitor.ts'
import { WsTalker } from './support/ws-talker.ts'

// SIGKILL of the worker: what waits in it, held or parked, goes to the next one. SIGKILL of the master: the worker goes on, until another master
// takes it over.

function children({ program }: Broker): number[] {
  const pid = String(program.child.pid)
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  return text === '' ? [] : text.split(' ').map(Number)
}

void t.test('a worker is killed', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { config: { services: { web: { holdTimeout: '10m' } } } })
  const idle = masterDescriptors(broker)
  const clients = await visitors(t, broker, 100)
  let answers = 0

  await t.test('held clients are held by the next worker, in their order', async (t) => {
    await eventually(() => masterDescriptors(broker) >= idle + 100, 'the master has a copy of each')
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
    await eventually(() => masterDescriptors(broker) >= idle + 98, 'the master has a copy of each')
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
    const [held] = await visitors(t, broker, 1)
    await broker.until(({ services }) => services[0]?.held === 1, 'no other backend is there')
    await eventually(() => masterDescriptors(broker) > idle, 'the master has a copy of it')
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
    t.equal((await held?.answer())?.body, String(next.pid))
    next.kill('SIGKILL')
    await broker.backends(0)
    await broker.until((status) => status.services[0]?.held === 0, 'at rest')
  })

  await t.test('while the master executes its next program', async (t) => {
    // That program asked the worker for all copies again: until they came, its death took all that waited in it along.
    const waiting = await visitors(t, broker, 20)
    await broker.until(({ services }) => services[0]?.held === 20, 'they are held')
    await eventually(() => masterDescriptors(broker) >= idle + 20, 'the master has a copy of each')
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
    await eventually(() => masterDescriptors(broker) >= idle + 10, 'the master has a copy of each')
    const serving = await onlyWorker(t, broker)
    // It answers nothing, so nothing is settled between the deaths.
    signal(serving, 'SIGSTOP')
    let isAnswered = false
    const reloaded = reload(t, broker).finally(() => (isAnswered = true))
    await eventually(() => {
      for (const pid of children(broker)) if (pid !== serving) signal(pid, 'SIGKILL')
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
      await eventually(() => masterDescriptors(broker) >= idle + 10, what)
      await killWorker(t, broker)
      await broker.until(({ services }) => services[0]?.held === 10, 'they are held again')
    }
    for (const client of waiting) client.socket.resetAndDestroy()
    await broker.until(({ services }) => services[0]?.held === 0, 'they have left')
    t.same(await unaccounted(broker), { unaccounted: 0, lost: 0 })
  })
})

async function baton(t: Test, { configFile }: Broker, ...command: string[]): Promise<Program> {
  const program = new Program(t, process.execPath, [batonCommand, ...command, '--config', configFile])
  await program.exited
  return program
}

/** Whether a process sleeps: it has nothing more to do. */
function sleeps(pid: number): boolean {
  return /^State:\tS/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
}

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
  const isOver = () => !hasConnection(pid, broker.port(), client?.port ?? 0) && sleeps(pid)
  await eventually(isOver, 'the worker has read the ACK, and has closed its copy')
  signal(pid, 'SIGKILL')
  await eventually(() => logged(broker, 'accepting connections') > before, 'the next worker accepts')
  t.same(await unaccounted(broker), { unaccounted: 0, lost: 0 })
  t.equal((await samples(broker)).get('baton_connections_total{service="web",outcome="handed_off"}'), 1)
})

void t.test('under load', { timeout: LIMIT }, async (t) => {
  const outer = t
  const addresses = {
    admin: { listen: `127.0.0.1:${await freePort()}` },
    // An ACK that is late would make a relay, which ends with its worker.
    services: { web: { parkAfter: '0ms', holdTimeout: '10m', ackDeadline: '5m', tokenTtl: '10m' } },
  }
  let broker = await startBroker(t, { config: addresses })
  await startBackend(t, broker)
  await startBackend(t, broker)
  await broker.backends(2)
  const load = () => Array.from({ length: 48 }, (_, index) => new Visitor(t, broker, String(index)))
  const atRest = () =>
    broker.until(
      ({ services }) => services[0]?.held === 0 && services[0].inFlight === 0 && services[0].parked === 0,
      'all have left',
    )

  await t.test('the worker is killed: every connection is accounted for', async (t) => {
    const all = load()
    const kills = 3
    for (let kill = 1; kill <= kills; kill += 1) {
      await served(all)
      await killWorker(t, broker)
    }
    await Promise.all(all.map((visitor) => visitor.stop()))
    checkAnswers(t, all)
    const lost = sum(all, (visitor) => visitor.lost)
    t.comment(`${sum(all, ({ answers }) => answers)} answers, ${lost} connections lost in ${kills} deaths`)
    t.ok(lost < (kills * all.length) / 2, 'parked connections have survived')
    await atRest()
    t.equal((await unaccounted(broker)).unaccounted, 0)
  })

  await t.test('the master is killed: its worker serves, and the next master takes it over', async (t) => {
    const before = await samples(broker)
    const all = load()
    await served(all)
    const worker = await onlyWorker(t, broker)
    const shift = await baton(t, broker, 'shift', 'web', '--to', '2.0', '--share', '10%')
    t.same(shift.lines, ['web: 10% of new connections go to version 2.0'])
    broker.program.kill('SIGKILL')
    await broker.until((status) => status.broker.master === null, 'the worker has noticed')
    await served(all)
    const status = await baton(t, broker, 'status')
    t.match(status.lines.join('\n'), /no master: it was killed/)
    t.match(status.lines.join('\n'), /^web: 10% of new connections go to version 2\.0; none/m)
    const refused = await baton(t, broker, 'reload')
    t.match(refused.lines.join('\n'), /no master, because it was killed.*\(BATON_ERR_NO_MASTER\)/)
    const unscaled = await baton(t, broker, 'scale', 'web', '3', '--json')
    t.match(unscaled.lines.join('\n'), /\{"error":\{"code":"BATON_ERR_NO_MASTER","message":"/)
    const unreloaded = await fetch(`${broker.admin}/api/v1/reload`, { method: 'POST' })
    t.equal(unreloaded.status, 409)
    t.match(await unreloaded.json(), { success: false, log: [/\(BATON_ERR_NO_MASTER\)$/] })

    // Whichever has the lock.
    const two = [startAgain(outer, broker), startAgain(outer, broker)]
    const [loser] = await Promise.race(two.map(async (each) => [each, await each.exited] as const))
    t.match(loser.lines.join('\n'), /BATON_ERR_ALREADY_RUNNING/)
    const next = two.find((each) => each !== loser) as Program
    t.match(await next.message('took over the worker of a master that was killed'), { workerPid: worker })
    broker = new Broker(next, broker.folder, broker.configFile, await next.message('accepting connections'))
    t.not(await onlyWorker(t, broker), worker)
    await served(all)
    await Promise.all(all.map((visitor) => visitor.stop()))
    checkAnswers(t, all)
    const lost = sum(all, (visitor) => visitor.lost)
    if (lost > 0) {
      const now = await samples(broker)
      for (const [series, value] of now)
        if (value !== before.get(series) && /_total/.test(series))
          t.comment(series, before.get(series), value)
    }
    t.equal(lost, 0, 'no connection was lost')
    await atRest()
    const after = await samples(broker)
    t.equal((await unaccounted(broker)).unaccounted, 0)
    const accepted = 'baton_connections_accepted_total{listener="web"}'
    t.equal(after.get(accepted), (before.get(accepted) ?? 0) + all.length, 'the counters have gone on')
    t.equal(after.get('baton_shift_share{service="web",version="2.0"}'), 0.1, 'and so does a shift')
    t.match((await broker.status()).services, [{ name: 'web', shift: { to: '2.0', share: 10 } }])
    t.equal(
      (await baton(t, broker, 'shift', 'web', '--off')).lines[0],
      'web: new connections are no longer shifted',
    )
    t.equal(after.get('baton_worker_deaths_total'), before.get('baton_worker_deaths_total'))
  })

  await t.test('a worker that was taken over has copies, even if its replacement fails', async (t) => {
    // It had none until the next reload: what waited died with it.
    const client = await visit(t, broker)
    await client.answer()
    await broker.until(({ services }) => services[0]?.parked === 1, 'it is parked')
    const { listeners } = JSON.parse(readFileSync(broker.configFile, 'utf8')) as { listeners: unknown[] }
    // Taken by the first one.
    const other = { name: 'other', listen: broker.address(), protocol: 'http', service: 'web' }
    configure(broker, { listeners: [...listeners, other] })
    broker.program.kill('SIGKILL')
    await broker.until((status) => status.broker.master === null, 'the worker has noticed')
    const next = startAgain(outer, broker)
    await next.message('reload failed; the worker continues as before')
    const ready = { control: broker.control, admin: broker.admin.replace('http://', ''), pid: broker.pid }
    const addresses = { web: broker.address() }
    broker = new Broker(next, broker.folder, broker.configFile, { ...ready, listeners: addresses })
    const before = await unaccounted(broker)
    await eventually(() => hasConnection(next.pid, broker.port(), client.port), 'the master has a copy')
    const worker = await onlyWorker(t, broker)
    signal(worker, 'SIGKILL')
    await next.message('accepting connections')
    client.request('/again')
    t.equal((await client.answer()).status, 200)
    t.equal((await unaccounted(broker)).lost, before.lost)
    client.socket.destroy()
    configure(broker, { listeners })
    t.match(await reload(t, broker), { success: true })
  })

  await t.test('a master that is stopped keeps its lock', async (t) => {
    const { pid } = broker.program
    signal(pid, 'SIGSTOP')
    const refused = startAgain(t, broker)
    t.match(await refused.exited, { code: 1 })
    t.match(
      refused.lines.join('\n'),
      new RegExp(`\\(pid ${pid}, which is stopped by SIGSTOP\\) \\(BATON_ERR_ALREADY_RUNNING\\)$`),
    )
    signal(pid, 'SIGCONT')
  })

  await t.test('a worker without a master is stopped by baton stop', async (t) => {
    const worker = await onlyWorker(t, broker)
    broker.program.kill('SIGKILL')
    await broker.until((status) => status.broker.master === null, 'the worker has noticed')
    signal(worker, 'SIGSTOP')
    const refused = startAgain(t, broker)
    t.match(await refused.exited, { code: 1 })
    t.match(
      refused.lines.join('\n'),
      /cannot take over .* not answered within 5000 ms.*\(BATON_ERR_WORKER_UNCLAIMED\)$/,
    )
    signal(worker, 'SIGCONT')
    const stopped = await baton(t, broker, 'stop')
    t.equal(stopped.lines.at(-1), 'stopped')
    await eventually(() => !exists(worker), 'the worker has ended')
  })
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
  t.equal((await baton(t, next, 'stop')).lines.at(-1), 'stopped')
  const all = [...pids, ...(replaced.services[0]?.backends.map(({ pid }) => pid) ?? [])]
  await eventually(() => !all.some(exists), 'they end with the worker')
})

/** A frame of the channel, as an unclaimed worker would send it. */
function frame(message: unknown): Buffer {
  const text = Buffer.from(JSON.stringify(message))
  const header = Buffer.from([0, 0, 0, 0, 0x4a, 0])
  header.writeUInt32LE(2 + text.length)
  return Buffer.concat([header, text])
}

void t.test('a worker that cannot be taken over', { timeout: LIMIT }, async (t) => {
  const cases: Record<string, [answer: Buffer | undefined, message: RegExp]> = {
    'of another version': [
      frame({ type: 'claimed', version: 99, pid: 4711 }),
      /^baton: cannot take over .* pid 4711 is of another version \(99, .*"baton stop" ends it \(BATON_ERR_WORKER_UNCLAIMED\)$/,
    ],
    'that is a master, which hangs': [
      undefined,
      /^baton: another broker serves this runtime folder.*master\.sock \(pid \d+\) \(BATON_ERR_ALREADY_RUNNING\)$/,
    ],
    'that is a master, without its lock': [
      Buffer.from('Success=0\n--\nunknown command "claim"\n'),
      /^baton: another broker serves this runtime folder.*\(BATON_ERR_ALREADY_RUNNING\)$/,
    ],
  }
  await Promise.all(
    Object.entries(cases).map(async ([name, [answer, message]]) => {
      const folder = temporaryFolder(t)
      const configFile = join(folder, 'baton.json')
      writeFileSync(
        configFile,
        JSON.stringify({
          runtimeDir: folder,
          admin: { listen: '127.0.0.1:0' },
          listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }],
          services: { web: {} },
        }),
      )
      const server = createServer((socket) => {
        socket.on('error', () => {})
        socket.once('data', () => answer && socket.write(answer))
      })
      await new Promise<void>((resolve) => server.listen(join(folder, 'master.sock'), resolve))
      t.teardown(() => server.close())
      const start = new Program(t, process.execPath, [batonCommand, 'start', '--config', configFile])
      t.match(await start.exited, { code: 1 }, name)
      t.match(start.lines.join('\n'), message, name)
    }),
  )
})
