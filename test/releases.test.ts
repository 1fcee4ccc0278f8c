import { join } from 'node:path'
import { writeFileSync, rmSync } from 'node:fs'
import t from 'tap'
import { batonCommand, Broker } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { logs, masterStatus, openSession, parseAnswer, reload, rest, say } from './support/operator.ts'
import { Program, temporaryFolder } from './support/process.ts'
import { Releases } from './support/release.ts'
import { signal } from './support/signal.ts'

// A broker started from a `current` link follows the link, wherever it leads at that moment.

void t.test('releases come and go under one broker', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const releases = new Releases(folder, {
    runtimeDir: join(folder, 'run'),
    admin: { listen: '127.0.0.1:0' },
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
    services: { web: { command: [process.execPath, 'app.mjs'], minHealthy: '1ms' } },
  })
  releases.add('one')
  releases.use('one')
  // Like an init script: the configuration is not named, and getcwd(2) does not know the link.
  const program = new Program(
    t,
    'sh',
    ['-c', 'cd "$1" && exec "$2" "$3" start', 'sh', releases.current, process.execPath, batonCommand],
    { group: true },
  )
  const ready = await program.message('accepting connections')
  const broker = new Broker(program, folder, join(releases.current, 'baton.json'), ready)
  const release = async () => (await fetch(broker.url(), { headers: { connection: 'close' } })).text()
  const managedPid = async () => (await masterStatus(t, broker)).managed[0]?.pid
  t.equal(await release(), 'one')

  await t.test('a reload and a deploy take the release that the link leads to', async (t) => {
    releases.add('two')
    releases.use('two')
    t.match(await reload(t, broker), { success: true })
    const answer = await say(t, broker, 'deploy web')
    t.match(answer, /^done web: 1 replaced\nSuccess=1$/m)
    t.equal(await release(), 'two')
  })

  await t.test('a process that crashes starts in the release that was deployed', async (t) => {
    releases.remove('one')
    releases.add('three')
    releases.use('three')
    signal(await managedPid(), 'SIGKILL')
    await eventually(async () => (await managedPid()) !== null, 'it is restarted')
    t.equal(await release(), 'two')
  })

  await t.test('and where the link leads once that release was removed', async () => {
    releases.remove('two')
    signal(await managedPid(), 'SIGKILL')
    await eventually(async () => (await release()) === 'three', 'the third release serves')
  })

  await t.test('a deploy fails if the link moves meanwhile', async (t) => {
    releases.add('four')
    const hold = join(releases.add('five'), 'hold')
    writeFileSync(hold, '')
    releases.use('five')
    const session = await openSession(t, broker)
    session.send('deploy web\n')
    await logs(broker, 'deploying')
    await eventually(() => session.received.includes('started web.1'), 'the new process is started')
    releases.use('four')
    rmSync(hold)
    const answer = await rest(session)
    t.notMatch(answer, /^done/m)
    t.match(
      answer,
      `its cwd led to ${releases.path('five')} and now leads to ${releases.path('four')}; deploy again`,
    )
    t.match(answer, /^Success=0$/m)
    t.match(await say(t, broker, 'deploy web'), /^Success=1$/m)
    t.equal(await release(), 'four')
  })

  await t.test('no release at all: the folder is named', async (t) => {
    releases.remove('four')
    const named = new RegExp(`the working folder ${releases.current} is gone`)
    signal(await managedPid(), 'SIGKILL')
    await program.line((line) => named.test(line), 'the reason why it is not started')
    t.match(parseAnswer(await say(t, broker, 'deploy web')), {
      success: false,
      log: [new RegExp(`services\\.web\\.cwd: .*${releases.current}`)],
    })
    t.match(parseAnswer(await say(t, broker, 'reload')), {
      success: false,
      log: [new RegExp(`^${releases.current}/baton.json: no such file`)],
    })
    releases.use('three')
    await eventually(async () => (await release()) === 'three', 'an existing release serves')
  })
})
