import { rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { batonCommand } from './support/broker.ts'
import { baton, batonHere } from './support/command.ts'
import { eventually } from './support/eventually.ts'
import { ask, type Line, logsOf, outputFiles, startPrinting } from './support/kept-logs.ts'
import { LIMIT } from './support/limits.ts'
import { askAdmin, masterStatus } from './support/operator.ts'
import { PseudoTerminal } from './support/pseudo-terminal.ts'

// The output of managed backends is kept, and `baton logs` shows it. Under load, and over deaths: slow/logs.test.ts.

void t.test('what two services print is kept, and shown', { timeout: LIMIT }, async (t) => {
  const broker = await startPrinting(t, undefined)
  const config = ['--config', broker.configFile]
  const pid = Number(await ask(broker, '/err'))
  const { managed } = await masterStatus(t, broker)
  const instance = managed.find((each) => each.pid === pid)?.instance ?? ''
  const slot = (await broker.status()).services
    .find(({ name }) => name === 'web')
    ?.backends.find((each) => each.pid === pid)?.slot
  await eventually(
    async () => (await logsOf(broker)).length === 4,
    'three backends are ready, one has failed',
  )

  await t.test('as JSON', async (t) => {
    const lines = await logsOf(broker)
    t.same(lines.map(({ service, msg }) => `${service}: ${msg}`).toSorted(), [
      'api: ready',
      'web: an error',
      'web: ready',
      'web: ready',
    ])
    const error = lines.find(({ stream }) => stream === 'stderr')
    t.match(error, { service: 'web', instance, slot, backend: /^[0-9A-Z]{26}$/ })
    t.ok(Math.abs(Date.parse(error?.time ?? '') - Date.now()) < LIMIT)
    for (const name of [instance, slot, error?.backend]) {
      const of = await logsOf(broker, `web/${name}`)
      t.same(
        of.map(({ msg, instance: from }) => `${from}: ${msg}`),
        [`${instance}: ready`, `${instance}: an error`],
        `web/${name}: what it printed before it had registered as well`,
      )
    }
    t.same(
      (await logsOf(broker, 'api')).map(({ msg }) => msg),
      ['ready'],
    )
    t.same(await logsOf(broker, '--lines', '0'), [])
    t.same(
      (await logsOf(broker, '--lines', '1')).map(({ msg }) => msg),
      ['an error'],
    )
    t.same((await logsOf(broker, '--since', '1h')).length, 4)
    t.same(await logsOf(broker, '--since', new Date(Date.now() + 60_000).toISOString()), [])
  })

  await t.test('as text', async (t) => {
    const { code, out } = await baton(t, ['logs', 'web', '-n', '1', ...config])
    t.equal(code, 0)
    t.match(out.join('\n'), new RegExp(`^\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z ${instance} stderr \\| an error$`))
  })

  await t.test('over the API', async (t) => {
    const [status, body] = await askAdmin(broker, `/api/v1/services/web/output?backend=${slot}`)
    t.equal(status, 200)
    const { lines } = JSON.parse(body) as { lines: Line[] }
    t.same(
      lines.map(({ msg }) => msg.replace(/^baton: .*/, 'registered')),
      ['ready', 'registered', 'an error'],
    )
    t.match(await askAdmin(broker, '/api/v1/services/web/output?lines=1'), [200, /"an error"/])
    t.match(await askAdmin(broker, '/api/v1/services/web/output?lines=0'), [400, /from 1 to 1000/])
    t.match(await askAdmin(broker, '/api/v1/services/wrong/output'), [404, /BATON_ERR_ADMIN_NO_SERVICE/])
    t.match(await askAdmin(broker, '/api/v1/services/outside/output'), [200, /^{"lines":\[\]}$/])
  })

  await t.test('bad input: one line, exit code 2', async (t) => {
    for (const [args, why] of [
      [['wep'], /^baton: there is no service "wep"; did you mean web\? \(BATON_ERR_UNKNOWN_SERVICE\)$/],
      [['web.1'], /^baton: there is no service "web\.1"; did you mean web\/web\.1\? \(/],
      [['web-2'], /^baton: there is no service "web-2"; did you mean web\/web-2\? \(/],
      [['zzzzzz'], /^baton: there is no service "zzzzzz"; there are: web, api, outside, quiet \(/],
      [['outside'], /^baton: service outside: Baton does not start its backends/],
      [['web/web.3'], /^baton: nothing is kept of a backend "web\.3" of service web; name it by/],
    ] as const) {
      const { code, out, err } = await batonHere('logs', ...args, ...config)
      t.match({ code, out, lines: err.length, first: err[0] }, { code: 2, out: [], lines: 1, first: why })
    }
    for (const [args, why] of [
      [['--since', 'yesterday'], /--since: "yesterday" is neither a duration/],
      [['--since', '10'], /--since: "10" is not a duration/],
      [['--since', '2026-99-99'], /--since: "2026-99-99" is neither a duration/],
      [['--lines', 'x'], /--lines: "x" must be a whole number/],
      [['web/'], /"web\/" is not SERVICE or SERVICE\/BACKEND/],
      [['web', 'api'], /unexpected argument "api"/],
    ] as const) {
      const { code, err } = await batonHere('logs', ...args, ...config)
      t.match({ code, first: err[0] }, { code: 2, first: why })
    }
  })

  await t.test('a service that keeps nothing', async (t) => {
    t.same(await logsOf(broker, 'quiet'), [])
    t.notOk(outputFiles(broker).some((name) => name.startsWith('quiet')))
  })

  await t.test('a process that dies in the middle of a line', async () => {
    await ask(broker, '/die', 'api').catch(() => undefined)
    // And that of the next process: it must not arrive during the next test.
    await eventually(async () => {
      const lines = await logsOf(broker, 'api')
      return lines.map(({ msg }) => msg).join() === 'ready,the last words,ready'
    }, 'the half line is kept')
    await broker.backends(1, 'api')
  })

  // Cleaners of temporary folders remove what is below `runtimeDir`.
  await t.test('a folder that is removed is created again', async (t) => {
    rmSync(join(broker.folder, 'run/output'), { recursive: true })
    t.same(await logsOf(broker), [])
    await ask(broker, '/err')
    await eventually(async () => (await logsOf(broker)).length === 1, 'the next line is kept')
    t.equal(statSync(join(broker.folder, 'run/output')).mode & 0o777, 0o700)
  })

  await t.test('what is in the way does no harm, and later lines are kept', async (t) => {
    const folder = join(broker.folder, 'run/output')
    rmSync(folder, { recursive: true })
    writeFileSync(folder, 'a file')
    await ask(broker, '/err')
    await broker.program.line((line) => line.includes('cannot be kept; trying again'), 'a failure')
    t.match(await batonHere('logs', ...config), {
      code: 1,
      out: [],
      err: [/^baton: cannot read the kept output in .*ENOTDIR/],
    })
    rmSync(folder)
    await eventually(
      async () => (await logsOf(broker)).some(({ msg }) => msg === 'an error'),
      'the line from before is kept',
    )
  })

  await t.test('a deploy in a terminal shows a bar, and the step that it waits for', async (t) => {
    const baton = `${process.execPath} ${batonCommand}`
    const terminal = new PseudoTerminal(t, `${baton} deploy web --config ${broker.configFile}`)
    const shown = await terminal.end()
    t.match(shown, /░{24} 0\/2 {2}waiting for the broker/)
    t.match(shown, /█{3}░{21} 0\/2 {2}web\.1: waiting until the new process is ready/)
    t.match(shown, /█{18}░{6} 1\/2 {2}web\.2: ready; watching it for 1s/)
    t.match(shown, /█{24} 2\/2 {2}web\.2: replaced/)
    const lines = shown
      .split('\r\n')
      .map((line) => line.slice(line.lastIndexOf('\r') + 1).replace('\u001b[2K', ''))
    t.match(lines[0], /^started web\.1: new version started \(pid \d+, backend \w+\)$/)
    t.match(lines, [
      /^started/,
      /^ready/,
      /^draining/,
      /^stopped/,
      /^started/,
      /^ready/,
      /^draining/,
      /^stopped/,
      /^done web: 2 replaced$/,
    ])
    t.notOk(
      lines.slice(1).some((line) => line.includes('█')),
      'nothing of the bar is left',
    )
  })
})
