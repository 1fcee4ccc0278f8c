import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { batonCommand, type Broker, startBroker } from './support/broker.ts'
import { baton, batonHere } from './support/command.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { askAdmin, masterStatus, onlyWorker, reload } from './support/operator.ts'
import { Program, root } from './support/process.ts'
import { signal } from './support/signal.ts'

// The output of managed backends is kept, and `baton logs` shows it.

const SIZE = 64 * 1024

interface Line {
  readonly time: string
  readonly service: string
  readonly instance: string
  readonly backend: string
  readonly slot: string | null
  readonly stream: string
  readonly msg: string
}

const command = [process.execPath, join(root, 'test/programs/printing-backend.mjs')]
const listener = (name: string) => ({ name, listen: '127.0.0.1:0', protocol: 'http', service: name })

async function start(t: Test, keepOutput: unknown): Promise<Broker> {
  const broker = await startBroker(t, {
    config: {
      listeners: [listener('web'), listener('api')],
      services: {
        web: { command, instances: 2, env: { BATON_VERSION: '1.0' } },
        api: { command },
        outside: {},
        quiet: { command, keepOutput: 'off' },
      },
      keepOutput,
    },
  })
  await broker.backends(2)
  await broker.backends(1, 'api')
  await broker.backends(1, 'quiet')
  return broker
}

/** Over a connection of its own, to whichever backend gets it. */
async function ask(broker: Broker, path: string, service = 'web'): Promise<string> {
  return (await fetch(broker.url(path, service))).text()
}

function outputFiles(broker: Broker): string[] {
  return readdirSync(join(broker.folder, 'run/output'))
}

async function logsOf(broker: Broker, ...args: string[]): Promise<Line[]> {
  const { code, out, err } = await batonHere('logs', ...args, '--json', '--config', broker.configFile)
  if (code !== 0) throw new Error(err.join('\n'))
  return out.map((line) => JSON.parse(line) as Line)
}

/** Numbers of the lines that `/print` has printed. */
function numbersIn(lines: readonly Line[]): number[] {
  return lines.flatMap(({ msg }) => {
    const [, number, rest = ''] = /^line (\d+) (x*)$/.exec(msg) ?? []
    return number === undefined || rest.length !== Number(number) % 100 ? [] : [Number(number)]
  })
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index)
const ascending = (numbers: readonly number[]) => numbers.toSorted((one, other) => one - other)

void t.test('what two services print is kept, and shown', { timeout: LIMIT }, async (t) => {
  const broker = await start(t, undefined)
  const config = ['--config', broker.configFile]
  const pid = Number(await ask(broker, '/err'))
  const { managed } = await masterStatus(t, broker)
  const instance = managed.find((each) => each.pid === pid)?.instance ?? ''
  const slot = (await broker.status()).services
    .find(({ name }) => name === 'web')
    ?.backends.find((each) => each.pid === pid)?.slot
  await eventually(async () => (await logsOf(broker)).length === 4, 'three backends are ready, one has failed')

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
      lines.map(({ msg }) => msg),
      ['ready', 'an error'],
    )
    t.match(await askAdmin(broker, '/api/v1/services/web/output?lines=1'), [200, /"an error"/])
    t.match(await askAdmin(broker, '/api/v1/services/web/output?lines=0'), [400, /from 1 to 1000/])
    t.match(await askAdmin(broker, '/api/v1/services/wrong/output'), [404, /BATON_ERR_ADMIN_NO_SERVICE/])
    t.match(await askAdmin(broker, '/api/v1/services/outside/output'), [200, /^{"lines":\[\]}$/])
  })

  await t.test('bad input: one line, exit code 2', async (t) => {
    for (const [args, why] of [
      [['wep'], /^baton: there is no service "wep"; did you mean web\?$/],
      [['zzzzzz'], /^baton: there is no service "zzzzzz"; there are: web, api, outside, quiet$/],
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

  await t.test('a process that dies in the middle of a line', async (t) => {
    await ask(broker, '/die', 'api').catch(() => undefined)
    await eventually(
      async () => (await logsOf(broker, 'api')).some(({ msg }) => msg === 'the last words'),
      'the half line is kept',
    )
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
})

void t.test('under load: rotation, a reload, deaths of worker and master', { timeout: LIMIT }, async (t) => {
  const broker = await start(t, { size: SIZE, files: 1000 })
  const follower = new Program(t, process.execPath, [
    batonCommand,
    ...['logs', 'web', '-f', '--json', '--config', broker.configFile],
  ])
  const read = () => follower.lines.map((line) => JSON.parse(line) as Line)
  const COUNT = 10_000
  let printed = 0
  /** Prints from both backends, or from whichever is there. */
  const print = async () => {
    const from = printed
    printed += COUNT
    const half = COUNT / 2
    await Promise.all([
      ask(broker, `/print?from=${from}&count=${half}`),
      ask(broker, `/print?from=${from + half}&count=${half}`),
    ])
  }

  await Promise.all([print(), reload(t, broker)])
  const worker = await onlyWorker(t, broker)
  const printing = print()
  signal(worker, 'SIGKILL')
  await printing.catch(() => undefined)
  await eventually(async () => (await onlyWorker(t, broker)) !== worker, 'another worker')
  await broker.backends(2)
  await print()
  await eventually(() => numbersIn(read()).length === printed, () => `${numbersIn(read()).length} lines`)
  const kept = await logsOf(broker, 'web')
  t.same(ascending(numbersIn(kept)), upTo(printed), 'each line is kept once')
  t.same(read(), kept, 'and was followed once, in the same order')
  t.ok(outputFiles(broker).length > 20, 'over many files')
  for (const name of outputFiles(broker))
    t.ok(statSync(join(broker.folder, 'run/output', name)).size <= SIZE, name)
  t.same(numbersIn(await logsOf(broker, 'web', '--lines', '700')), numbersIn(kept).slice(-700))

  await t.test('the worker keeps what is printed while there is no master', async (t) => {
    await ask(broker, '/half', 'api')
    // The next change of the fleet tells the worker what it would need.
    signal(Number(await ask(broker, '/')), 'SIGKILL')
    await broker.backends(2)
    await ask(broker, '/rest', 'api')
    await eventually(
      async () => (await logsOf(broker, 'api')).some(({ msg }) => msg === 'half a line, and its rest'),
      'all was read',
    )
    broker.program.kill('SIGKILL')
    await print()
    await eventually(async () => numbersIn(await logsOf(broker, 'web')).length === printed, 'the worker keeps')

    const next = new Program(t, process.execPath, [batonCommand, 'start', '--config', broker.configFile], {
      group: true,
    })
    await next.line((line) => line.includes('reloaded'), 'it has taken over')
    await broker.backends(2)
    await print()
    await eventually(async () => numbersIn(await logsOf(broker, 'web')).length === printed, 'the next one keeps')
    await ask(broker, '/err', 'api')
    await eventually(
      async () => (await logsOf(broker, 'api')).at(-1)?.msg === 'an error',
      'no beginning of a line is printed again',
    )
    t.equal((await logsOf(broker, 'api')).filter(({ msg }) => msg.includes('half')).length, 1)
    await eventually(() => numbersIn(read()).length === printed, 'all was followed')
    t.same(ascending(numbersIn(read())), upTo(printed))

    next.kill('SIGTERM')
    t.same(await next.exited, { code: 0, signal: null })
  })

  await t.test('after the broker has stopped, it is still there', async (t) => {
    const lines = await logsOf(broker, 'web')
    t.same(ascending(numbersIn(lines)), upTo(printed))
    const all = outputFiles(broker).map((name) => readFileSync(join(broker.folder, 'run/output', name), 'utf8'))
    t.ok(all.every((text) => text.endsWith('\n')))
    t.ok(follower.running, 'a follower waits for more')
  })
})

void t.test('no more than the configured number of files is kept', { timeout: LIMIT }, async (t) => {
  const broker = await start(t, { size: SIZE, files: 3 })
  await ask(broker, '/print?from=0&count=5000')
  await eventually(
    async () => numbersIn(await logsOf(broker, 'web')).at(-1) === 4999,
    'the last line is kept',
  )
  const files = outputFiles(broker).filter((name) => name.startsWith('web.'))
  t.equal(files.length, 3)
  const numbers = numbersIn(await logsOf(broker, 'web'))
  t.same(numbers, upTo(5000).slice(-numbers.length), 'the last ones, without a gap')
  t.equal((await logsOf(broker, 'web')).length, numbers.length)
})
