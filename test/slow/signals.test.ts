import { join } from 'node:path'
import t, { type Test } from 'tap'
import { AppRun, NOTHING_LEFT } from '../support/app-run.ts'
import { startBackend } from '../support/backend.ts'
import type { Broker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { isInspected } from '../support/inspector.ts'
import { LIMIT } from '../support/limits.ts'
import {
  configure,
  logged,
  logs,
  masterStatus,
  onlyWorker,
  openSession,
  parseAnswer,
  rest,
} from '../support/operator.ts'
import { Program, root } from '../support/process.ts'
import { Sabotaged } from '../support/sabotage.ts'
import { servedBy } from '../support/visit.ts'

/** `npm run test:long` sets more. */
const RELOADS = Number(process.env['RELOADS'] ?? 3)

const listener = (name: string) => ({ name, listen: '127.0.0.1:0', protocol: 'http', service: 'web' })

async function idle(t: Test, broker: Broker): Promise<void> {
  await eventually(async () => (await masterStatus(t, broker)).master.busy === null, 'the master is idle')
}

void t.test('signals around exec', { timeout: 2 * LIMIT }, async (t) => {
  const scene = await Sabotaged.start(t, { listeners: [listener('web')] })
  const { broker } = scene
  const { program } = broker
  const backend = await startBackend(t, broker)

  // Node clears the signal mask and resets all dispositions when it starts: each of these signals ended the master then, or opened
  // the inspector.
  await t.test('before the new program listens for signals', async (t) => {
    scene.begin('gap')
    const session = await openSession(t, broker)
    session.send('reload\n')
    await scene.reached('gap')
    configure(broker, { listeners: [listener('web'), listener('second')] })
    for (const name of ['SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGHUP', 'SIGIO'] as const)
      program.kill(name)
    scene.end('gap')
    t.match(parseAnswer(await rest(session)), { success: true })
    await logs(broker, 'reloaded', 2)
    await logs(broker, 'status: master')
    await idle(t, broker)
    t.match(await masterStatus(t, broker), { master: { pid: program.pid, reloads: 2 } })
    t.ok(
      (await broker.status()).listeners.some(({ name }) => name === 'second'),
      'the newer configuration',
    )
    t.notOk(isInspected(program.pid))
    t.equal(await servedBy(t, broker), backend.pid)
  })

  await t.test(`in a loop, over ${RELOADS} reloads and more, under load`, async (t) => {
    await onlyWorker(t, broker)
    const args = `--port ${broker.port()} --kept 8 --fresh 3 --pause 20`.split(' ')
    const load = new Program(t, process.execPath, [join(root, 'test/programs/two-kinds-load.mjs'), ...args])
    await load.message('loading')
    const before = logged(broker, 'program replaced, reload continues')
    const names = [
      'SIGHUP',
      'SIGUSR1',
      'SIGHUP',
      'SIGUSR2',
      'SIGHUP',
      'SIGALRM',
      'SIGHUP',
      'SIGTTOU',
    ] as const
    for (let sent = 0; logged(broker, 'program replaced, reload continues') < before + RELOADS; sent++) {
      program.kill(names[sent % names.length] ?? 'SIGHUP')
      // Not a wait for anything: this is the interval between signals.
      await new Promise((resolve) => setTimeout(resolve, 3))
      if (!program.running) break
    }
    t.ok(program.running)
    await idle(t, broker)
    load.say('stop')
    const { requests, failures } = await load.message('done')
    t.comment(`${String(requests)} requests`)
    t.same(failures, [])
    t.equal(logged(broker, 'reload failed; nothing has changed'), 0)
    t.notOk(isInspected(program.pid))
  })

  await t.test('SIGTERM before the new program listens: it finishes the reload, and stops', async (t) => {
    scene.begin('gap')
    const session = await openSession(t, broker)
    session.send('reload\n')
    await scene.reached('gap')
    program.kill('SIGTERM')
    program.kill('SIGHUP')
    scene.end('gap')
    t.same(await program.exited, { code: 0, signal: null })
    t.equal(await session.ended, 'end')
    t.match(session.received, /^Success=1\n/)
  })
})

void t.test('a reload that is asked for during a deploy waits for it', { timeout: LIMIT }, async (t) => {
  const scene = await Sabotaged.start(t, {
    services: {
      web: {
        command: [process.execPath, join(root, 'test/programs/http-backend.mjs')],
        // Time for the steps during the deploy.
        minHealthy: '10s',
      },
    },
  })
  const { broker } = scene
  await broker.backends(1)
  const deploy = await openSession(t, broker)
  deploy.send('deploy web\n')
  await eventually(() => deploy.received.includes('ready web.1'), 'it is on trial')
  broker.program.kill('SIGHUP')
  await logs(broker, 'reload waits')
  const refused = await openSession(t, broker)
  refused.send('reload no-wait\n')
  t.same(parseAnswer(await rest(refused)), { success: false, log: ['a deploy is already in progress'] })
  t.match(await rest(deploy), /Success=1/)
  await logs(broker, 'reloaded')
  const messages = broker.program.messages().map(({ msg }) => msg)
  t.ok(messages.indexOf('deployed') < messages.indexOf('reloading'))
})

void t.test('baton run', { timeout: LIMIT }, async (t) => {
  const run = new AppRun(t, {
    command: [process.execPath, join(root, 'test/apps/http.mjs')],
    env: { PORT: String(await freePort()) },
  })
  await run.serving(1)
  const before = run.processes()
  for (const name of ['SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGTTIN', 'SIGPIPE'] as const) run.program.kill(name)
  await run.program.line((line) => line.startsWith('status: master'), 'its status')
  t.ok(run.program.running)
  t.notOk(isInspected(run.program.pid))
  t.ok(before.length > 0)
  t.same(await run.end('SIGQUIT', 'group'), NOTHING_LEFT)
})
