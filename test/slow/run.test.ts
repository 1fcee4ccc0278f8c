import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { AppRun, ask, NOTHING_LEFT } from '../support/app-run.ts'
import { batonCommand, startBroker } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { masterStatus } from '../support/operator.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { exists, signal } from '../support/signal.ts'

// How `baton run` ends, or does not: the cases that take longer than those in test/run.test.ts.

const UNREGISTERED = 'backend process has not registered'

/** Answers immediately, except for `/never`. */
const serving = (port: number, answer = 'hello') =>
  `require('node:http').createServer((request, response) => {
    if (request.url === '/never') console.log('asked')
    else response.end('${answer}')
  }).listen(${port})`

function app(t: Test, port: number): string[] {
  const file = join(temporaryFolder(t), 'app.js')
  writeFileSync(file, serving(port))
  return [process.execPath, file]
}

void t.test(
  'a stop reports every 5 s what it waits for, in the log and to its requester, until --drain-deadline',
  { timeout: LIMIT },
  async (t) => {
    const port = await freePort()
    const run = await new AppRun(t, {
      command: app(t, port),
      options: ['--drain-deadline', '12s'],
    }).serving(1)
    const clients = await Promise.all([1, 2].map(() => Client.open(t, { host: '127.0.0.1', port })))
    for (const client of clients) client.request('/never')
    await eventually(
      () => run.program.lines.filter((line) => line === 'app.1 | asked').length === 2,
      'both are asked',
    )
    const processes = run.processes()
    const stop = new Program(t, process.execPath, [batonCommand, 'stop', '--config', await run.configFile()])
    const waits = /^waiting for 2 connections of app\.1 \(pid (\d+)\); \d+ s left$/
    const line = await stop.line((each) => waits.test(each), 'what it waits for')
    t.ok(processes.includes(Number(waits.exec(line)?.[1])), 'the app')
    // Through another pipe, so it may come later.
    await run.program.line((each) => each === line, 'the same in the log')
    t.match(await stop.exited, { code: 0 })
    t.equal(stop.lines.at(-1), 'stopped')
    t.ok(stop.lines.filter((each) => waits.test(each)).length >= 2)
    t.same(await run.ended(processes), NOTHING_LEFT)
  },
)

void t.test('an app not listening after 10 s is reported once, and runs', { timeout: LIMIT }, async (t) => {
  // Meanwhile, under `baton start`: an app that listens by itself, one that listens as an upstream, and one with the SDK.
  const plain = { command: app(t, 0) }
  const backend = join(root, 'test/programs/http-backend.mjs')
  const upstreams = [{ address: '127.0.0.1:1' }]
  const services = {
    web: { ...plain, instances: 2 },
    upstream: { ...plain, upstreams },
    sdk: { command: [process.execPath, backend] },
  }
  const broker = await startBroker(t, { config: { services, drainDeadline: '1s' } })

  const run = new AppRun(t, { command: ['sh', '-c', 'while sleep 1; do echo working; done'] })
  const isHint = (line: string) => line.startsWith('app.1 | warning: has not listened after 10s')
  await run.program.line(isHint, 'that it has not listened')
  const from = run.program.lines.length
  await eventually(
    () => run.program.lines.slice(from).filter((line) => line === 'app.1 | working').length > 12,
    'it continues',
  )
  t.equal(run.program.lines.filter(isHint).length, 1)
  t.notMatch(run.program.lines.join('\n'), UNREGISTERED)

  const warnings = () => broker.program.messages().filter(({ msg }) => msg === UNREGISTERED)
  await eventually(
    () => warnings().length >= 2,
    () => `both are warned of: ${JSON.stringify(warnings())}`,
  )
  const { managed } = await masterStatus(t, broker)
  t.same(
    warnings().map(({ service, instance, peerPid }) => ({ service, instance, peerPid })),
    ['web.1', 'web.2'].map((instance) => ({
      service: 'web',
      instance,
      peerPid: managed.find((each) => each.instance === instance)?.pid,
    })),
  )
  t.ok(warnings().every(({ hint }) => /createBackend\(\).*baton run/.test(String(hint))))
  signal(broker.program.pid, 'SIGTERM')
  t.match(await broker.program.exited, { code: 0 })
  t.match(await run.end('SIGTERM'), { code: 0, files: [] })
})

void t.test(
  'with --watch, an app that has served is not given up: the next change fixes it',
  { timeout: LIMIT },
  async (t) => {
    const [port, folder] = [await freePort(), temporaryFolder(t)]
    const write = (code: string) => writeFileSync(join(folder, 'server.js'), code)
    write(serving(port, 'old'))
    const run = new AppRun(t, { command: ['node', 'server.js'], options: ['--watch'], cwd: folder })
    await run.serving(1)
    const url = `http://127.0.0.1:${port}/`
    t.equal((await ask(url)).body, 'old')
    // An app that has lived for minHealthy counts as having served.
    await new Promise((resolve) => setTimeout(resolve, 1500))
    write('typo(')
    await run.program.line((line) => line.startsWith('error: deploy failed'), 'that the typo is not deployed')
    t.equal((await ask(url)).body, 'old', 'the old version continues')
    const started = /^app\.1 \| backend process started/
    const starts = run.program.lines.filter((line) => started.test(line)).length
    // The master has a worker, and the app.
    const children = run.processes()
    signal(children.at(-1), 'SIGKILL')
    await eventually(
      () => run.program.lines.filter((line) => started.test(line)).length >= starts + 7,
      'it is started more than five times',
    )
    write(serving(port, 'mended'))
    await run.program.line((line) => line.startsWith('deployed '), 'that it has deployed')
    t.equal((await ask(url)).body, 'mended')
    t.same(await run.end('SIGINT'), NOTHING_LEFT)
  },
)

// `baton run --watch ... > app.log` in the app's folder: each line of the log was a change, and was deployed, with the next lines. So was a file that
// the app writes when it starts: it was started without end, several times a second.
void t.test(
  'with --watch, its own log is no change, and an app that changes files waits',
  { timeout: LIMIT },
  async (t) => {
    const [port, folder] = [await freePort(), temporaryFolder(t)]
    const write = (code: string) => writeFileSync(join(folder, 'server.js'), code)
    write(serving(port, 'old'))
    const log = join(folder, 'app.log')
    const lines = () => (existsSync(log) ? readFileSync(log, 'utf8').split('\n') : [])
    const said = (begin: string) => lines().filter((line) => line.includes(begin))
    const run = new AppRun(t, {
      command: ['node', 'server.js'],
      options: ['--watch'],
      cwd: folder,
      shell: 'exec "$0" "$@" > app.log 2>&1',
    })
    await eventually(() => said('listening for the app').length > 0, 'it serves')
    const url = `http://127.0.0.1:${port}/`
    t.equal((await ask(url)).body, 'old')
    write(`require('fs').writeFileSync('started', String(Math.random()))\n${serving(port, 'new')}`)
    await eventually(() => said('files change during each deploy; waiting').length > 0, 'it waits')
    t.match(said('a file has changed')[0], 'file=server.js')
    t.match(said('files change during each deploy; waiting')[0], 'file=started')
    t.equal(said('file=app.log').length, 0)
    t.equal((await ask(url)).body, 'new')
    t.match(await run.end('SIGTERM'), { code: 0, files: [] })
  },
)

// A change was lost if the next program started before the watcher had reported it: only changes of the last second counted as new there, and a
// busy machine takes longer.
void t.test(
  'with --watch, a change that no report has reached before a reload is deployed after it',
  { timeout: LIMIT },
  async (t) => {
    const [port, folder, sabotage] = [await freePort(), temporaryFolder(t), temporaryFolder(t)]
    const file = join(folder, 'server.js')
    writeFileSync(file, serving(port, 'old'))
    const run = new AppRun(t, {
      command: ['node', 'server.js'],
      options: ['--watch'],
      cwd: folder,
      env: { SABOTAGE: sabotage, NODE_OPTIONS: `--import=${join(root, 'test/programs/sabotage.mjs')}` },
    })
    await run.serving(1)
    const config = ['--config', await run.configFile()]
    writeFileSync(join(sabotage, 'slow-check'), '')
    const reload = new Program(t, process.execPath, [batonCommand, 'reload', ...config])
    const reached = join(sabotage, 'slow-check-reached')
    const check = () => (existsSync(reached) ? Number(readFileSync(reached, 'utf8')) : 0)
    await eventually(() => check() > 0, 'the new program is checked')
    signal(run.program.pid, 'SIGSTOP')
    writeFileSync(file, serving(port, 'new'))
    await eventually(() => Date.now() - statSync(file).ctimeMs > 1500, 'the change is more than a second old')
    rmSync(join(sabotage, 'slow-check'))
    await eventually(() => !exists(check()), 'the check has ended')
    signal(run.program.pid, 'SIGCONT')
    t.match(await reload.exited, { code: 0 }, reload.lines.join('\n'))
    await run.program.line((line) => line.startsWith('deployed '), 'that it has deployed')
    t.equal((await ask(`http://127.0.0.1:${port}/`)).body, 'new')
    t.same(await run.end('SIGINT'), NOTHING_LEFT)
  },
)

const OUTLIVES: readonly [what: string, shell: string][] = [
  ['nohup', 'nohup "$0" "$@" & wait'],
  [
    'nohup, where no shell says what was executed',
    'unset _; exec 0> /dev/null; env -u _ nohup "$0" "$@"; true',
  ],
  ['a background job of a script', '"$0" "$@" & wait'],
  ['setsid', 'setsid "$0" "$@"; true'],
]
for (const [what, shell] of OUTLIVES) {
  void t.test(`${what} outlives its shell`, { timeout: LIMIT }, async (t) => {
    const port = await freePort()
    const run = await new AppRun(t, { command: app(t, port), shell }).serving(1)
    const processes = run.processes()
    const [master] = processes
    signal(run.program.pid, 'SIGKILL')
    await eventually(() => !exists(run.program.pid), 'the shell is gone')
    if (what.startsWith('nohup')) signal(master, 'SIGHUP')
    // An end would have begun within the time that a stop takes.
    for (let each = 0; each < 20; each++) {
      t.equal((await ask(`http://127.0.0.1:${port}/`)).body, 'hello')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    t.notOk(run.program.lines.some((line) => line.startsWith('draining')))
    signal(master, 'SIGTERM')
    await eventually(() => !processes.some(exists), 'all have ended')
    t.same(await run.ended(processes), { ...NOTHING_LEFT, code: null })
  })
}
