import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { run } from '../../packages/broker/dist/cli/program.js'
import { startBackend } from '../support/backend.ts'
import { batonCommand, Broker, startBroker } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { configure, logs, onlyWorker, reload } from '../support/operator.ts'
import { Program, temporaryFolder } from '../support/process.ts'
import { signal } from '../support/signal.ts'
import { visit } from '../support/visit.ts'

// HAProxy asks each host how much it can take, on `agentCheck`.

const UP = 'up ready 100%\n'
const DOWN = 'down #service web has no ready backend\n'
const listen = `127.0.0.1:${await freePort()}`

/** One check: everything that is sent, up to a clean end. */
async function check(t: Test, address = listen, text = ''): Promise<string> {
  const [host = '', port = ''] = address.split(':')
  const client = new Client(t, { host, port: Number(port) })
  if (text !== '') client.send(text)
  const end = await client.ended
  return end === 'end' ? client.received : end
}

/** Checks one after the other until `work` is over. */
async function checksDuring(t: Test, work: () => Promise<unknown>): Promise<ReadonlyMap<string, number>> {
  const answers = new Map<string, number>()
  const working = { isOver: false }
  const worked = work().finally(() => (working.isOver = true))
  while (!working.isOver) {
    const answer = await check(t)
    answers.set(answer, (answers.get(answer) ?? 0) + 1)
  }
  await worked
  return answers
}

void t.test('agent checks', { timeout: LIMIT }, async (t) => {
  const service = { holdTimeout: '20s', failureLimit: { failures: 1000 } }
  const broker = await startBroker(t, {
    config: { agentCheck: listen, services: { web: service }, drainDeadline: '10m' },
  })
  const answers = (line: string) => eventually(async () => (await check(t)) === line, JSON.stringify(line))

  await t.test('down without a backend, and up with each', async (t) => {
    t.equal(await check(t), DOWN)
    await startBackend(t, broker)
    await answers(UP)
  })

  await answers(DOWN)
  const [first] = [await startBackend(t, broker), await startBackend(t, broker)]
  await answers(UP)

  await t.test('the weight falls with the backends that can take connections', async () => {
    signal(first.pid, 'SIGSTOP')
    await answers('up ready 50%\n')
    signal(first.pid, 'SIGCONT')
    await answers(UP)
  })

  await t.test('and with the time that clients are held', async (t) => {
    await fetch(`${broker.admin}/api/v1/services/web/pause`, { method: 'POST' })
    t.equal(await check(t), UP, 'no client waits')
    const held = await visit(t, broker)
    await eventually(async () => /^up ready 9[0-9]%\n$/.test(await check(t)), 'less than 100 %')
    await fetch(`${broker.admin}/api/v1/services/web/resume`, { method: 'POST' })
    t.equal((await held.answer()).status, 200)
    await answers(UP)
  })

  await t.test('what HAProxy sends is read, and clients that stay cost others nothing', async (t) => {
    t.equal(await check(t, listen, 'web\n'.repeat(100)), UP)
    const [host = '', port = ''] = listen.split(':')
    const options = { host, port: Number(port) }
    const stay = await Promise.all(Array.from({ length: 300 }, () => Client.open(t, options)))
    t.equal(await check(t), UP)
    // They would be closed by their own end: these never end.
    await Promise.all(stay.map(({ ended }) => ended))
    t.same([...new Set(stay.map(({ received }) => received))], [UP], 'each has its answer')
    const flood = await Client.open(t, options)
    flood.send('x'.repeat(10_000_000))
    t.not(await flood.ended, undefined, 'and a flood is cut')
    t.equal(await check(t), UP)
  })

  await t.test('over reloads: on the same socket, and as good as before', async (t) => {
    const seen = await checksDuring(t, async () => {
      for (let times = 0; times < 3; times += 1) t.equal((await reload(t, broker)).success, true)
    })
    t.same([...seen.keys()], [UP])
  })

  await t.test('over the death of the worker', async (t) => {
    const pid = await onlyWorker(t, broker)
    const before = broker.program.messages().filter(({ msg }) => msg === 'accepting connections').length
    const seen = await checksDuring(t, async () => {
      signal(pid, 'SIGKILL')
      await logs(broker, 'accepting connections', before + 1)
      await broker.backends(2)
    })
    t.ok((seen.get(UP) ?? 0) >= 1)
    // One that the dead worker had accepted is reset, or ends empty.
    const others = [...seen].filter(([answer]) => answer !== UP)
    t.ok(
      others.length <= 1 &&
        others.every(([answer, times]) => times === 1 && ['', 'ECONNRESET'].includes(answer)),
      JSON.stringify(others),
    )
  })

  let next = broker
  await t.test('over the death of the master', async (parent) => {
    const seen = await checksDuring(parent, async () => {
      broker.program.kill('SIGKILL')
      await broker.until((status) => status.broker.master === null, 'the worker has noticed')
      const program = new Program(
        t,
        process.execPath,
        [batonCommand, 'start', '--config', broker.configFile],
        {
          group: true,
        },
      )
      next = new Broker(
        program,
        broker.folder,
        broker.configFile,
        await program.message('accepting connections'),
      )
    })
    parent.same([...seen.keys()], [UP])
  })

  await t.test('an address that cannot be used, in a reload', async (t) => {
    const other = createServer().listen(0, '127.0.0.1')
    t.teardown(() => other.close())
    await once(other, 'listening')
    const { port } = other.address() as { port: number }
    configure(next, { agentCheck: `127.0.0.1:${port}` })
    const { success, log } = await reload(t, next)
    t.notOk(success)
    t.match(log.join('\n'), new RegExp(`agentCheck on 127.0.0.1:${port}: the address is in use`))
    t.equal(await check(t), UP, 'the broker keeps the one it has')
  })

  await t.test('another address, and none', async (t) => {
    const moved = `127.0.0.1:${await freePort()}`
    configure(next, { agentCheck: moved })
    t.ok((await reload(t, next)).success)
    t.equal(await check(t, moved), UP)
    await eventually(async () => (await check(t)) === 'ECONNREFUSED', 'the old address is closed')
    configure(next, { agentCheck: null })
    t.ok((await reload(t, next)).success)
    await eventually(async () => (await check(t, moved)) === 'ECONNREFUSED', 'it is closed')
    configure(next, { agentCheck: listen })
    t.ok((await reload(t, next)).success)
    await answers(UP)
  })

  await t.test('drain while the broker drains', async (t) => {
    await fetch(`${next.admin}/api/v1/services/web/pause`, { method: 'POST' })
    const held = await visit(t, next)
    await next.until(({ services }) => services[0]?.held === 1, 'one is held')
    next.program.kill('SIGTERM')
    await answers('drain\n')
    t.equal(await check(t), 'drain\n')
    held.socket.resetAndDestroy()
    await next.program.exited
    t.equal(await check(t), 'ECONNREFUSED')
  })
})

void t.test('an address that cannot be used', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const config = join(folder, 'baton.json')
  const errors: string[] = []
  const write = (agentCheck: string) =>
    writeFileSync(
      config,
      JSON.stringify({
        runtimeDir: join(folder, 'run'),
        admin: { listen: '127.0.0.1:0' },
        agentCheck,
        listeners: [{ name: 'web', listen: '127.0.0.1:18080', service: 'web' }],
        services: { web: {} },
      }),
    )
  for (const [bad, problem] of [
    ['unix:/run/agent.sock', /agentCheck: needs a TCP address/],
    ['9181', /agentCheck: expected "host:port"/],
    ['127.0.0.1:18080', /listeners\[0\]\.listen: 127\.0\.0\.1:18080 is already the address of agentCheck/],
  ] as const) {
    write(bad)
    errors.length = 0
    t.equal(await run(['check', '--config', config], { out: () => {}, err: (line) => errors.push(line) }), 1)
    t.match(errors.join('\n'), problem)
  }
  const other = createServer().listen(0, '127.0.0.1')
  t.teardown(() => other.close())
  await once(other, 'listening')
  const { port } = other.address() as { port: number }
  write(`127.0.0.1:${port}`)
  const program = new Program(t, process.execPath, [batonCommand, 'start', '--config', config])
  t.equal((await program.exited).code, 1)
  t.match(program.lines.join('\n'), `agentCheck on 127.0.0.1:${port}: the address is in use`)
  t.match(program.lines.join('\n'), 'BATON_ERR_LISTEN')
})
