import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { batonCommand, Broker, startBroker } from '../support/broker.ts'
import { hasConnection, killWorker, unaccounted } from '../support/deaths.ts'
import { baton } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { configure, onlyWorker, reload, samples } from '../support/operator.ts'
import { Program, temporaryFolder } from '../support/process.ts'
import { exists, signal } from '../support/signal.ts'
import { visit } from '../support/visit.ts'
import { checkAnswers, served, startAgain, sum, Visitor } from '../support/visitor.ts'

// The scenes of test/deaths.test.ts under load, and workers without a master that cannot be taken over.

/** Both outputs of `baton COMMAND...`. */
async function said(t: Test, { configFile }: Broker, ...command: string[]): Promise<string[]> {
  const { out, err } = await baton(t, [...command, '--config', configFile])
  return [...out, ...err]
}

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
    const shift = await said(t, broker, 'shift', 'web', '--to', '2.0', '--share', '10%')
    t.same(shift, ['web: 10% of new connections go to version 2.0'])
    broker.program.kill('SIGKILL')
    await broker.until((status) => status.broker.master === null, 'the worker has noticed')
    await served(all)
    const status = await said(t, broker, 'status')
    t.match(status.join('\n'), /no master: it was killed/)
    t.match(status.join('\n'), /^web: 10% of new connections go to version 2\.0; none/m)
    const refused = await said(t, broker, 'reload')
    t.match(refused.join('\n'), /no master, because it was killed.*\(BATON_ERR_NO_MASTER\)/)
    const unscaled = await said(t, broker, 'scale', 'web', '3', '--json')
    t.match(unscaled.join('\n'), /\{"error":\{"code":"BATON_ERR_NO_MASTER","message":"/)
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
    t.equal((await said(t, broker, 'shift', 'web', '--off'))[0], 'web: new connections are no longer shifted')
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
    const stopped = await said(t, broker, 'stop')
    t.equal(stopped.at(-1), 'stopped')
    await eventually(() => !exists(worker), 'the worker has ended')
  })
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
