import { readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, type Broker, startBroker, type Status } from './support/broker.ts'
import { Client } from './support/client.ts'
import { Program, temporaryFolder } from './support/process.ts'
import { LIMIT } from './support/limits.ts'

// The command as a user types it: what it prints, and the exit code that a script sees.

interface Run {
  readonly code: number | null
  readonly lines: readonly string[]
}

async function baton(t: Test, ...args: string[]): Promise<Run> {
  const program = new Program(t, process.execPath, [batonCommand, ...args], { cwd: temporaryFolder(t) })
  const { code } = await program.exited
  return { code, lines: program.lines }
}

/** Several at a time; starting a process is most of what a run costs. */
async function eachRun<Case extends { args: string[] }>(
  t: Test,
  cases: readonly Case[],
  look: (run: Run, each: Case) => void,
): Promise<void> {
  for (let at = 0; at < cases.length; at += 4) {
    const some = cases.slice(at, at + 4)
    const runs = await Promise.all(some.map(({ args }) => baton(t, ...args)))
    for (const [index, each] of some.entries()) look(runs[index] as Run, each)
  }
}

const LISTENER = { name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }
const WORKING = { admin: { listen: '127.0.0.1:0' }, listeners: [LISTENER], services: { web: {} } }

function configured(t: Test, config: unknown): string {
  const folder = temporaryFolder(t)
  const file = join(folder, 'baton.json')
  const whole = typeof config === 'string' ? config : JSON.stringify({ runtimeDir: 'run', ...Object(config) })
  writeFileSync(file, whole)
  return file
}

async function occupied(t: Test): Promise<{ port: number; server: Server }> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no TCP address')
  return { port: address.port, server }
}

void t.test(
  'a command line that makes no sense: exit code 2, what is wrong, and where to look',
  async (t) => {
    const cases: { args: string[]; says: RegExp }[] = [
      { args: [], says: /^baton: which command\?$/ },
      { args: ['strat'], says: /^baton: unknown command "strat" \(did you mean start\?\)$/ },
      {
        args: ['start', '--confg', 'x'],
        says: /^baton: unknown option --confg \(did you mean --config\?\)$/,
      },
      { args: ['check', 'baton.json'], says: /^baton: check does not take "baton\.json"$/ },
      { args: ['drain'], says: /^baton: drain needs SERVICE/ },
      { args: ['drain', 'web', '--deadline', 'soon'], says: /^baton: --deadline: "soon" is not a duration/ },
    ]
    await eachRun(t, cases, ({ code, lines }, { args, says }) => {
      const typed = `baton ${args.join(' ')}`
      t.equal(code, 2, typed)
      t.match(lines[0], says, typed)
      t.match(lines[1], /^Try: baton .*--help$/, typed)
      t.equal(lines.length, 2, `${typed}: no more than that`)
    })
  },
)

void t.test('help and version: exit code 0', async (t) => {
  const cases = [
    { args: ['--version'], says: /^\d+\.\d+\.\d+$/ },
    { args: ['--help'], says: /^Usage: baton COMMAND/ },
    { args: ['drain', '--help'], says: /^Usage: baton drain SERVICE\[\/BACKEND\]/ },
  ]
  await eachRun(t, cases, ({ code, lines }, { says }) => {
    t.equal(code, 0)
    t.match(lines[0], says)
  })
})

void t.test(
  'a configuration that is wrong: exit code 1, and one line for each thing, with its place',
  async (t) => {
    const missing = join(temporaryFolder(t), 'nowhere.json')
    const service = (web: unknown) => ({ ...WORKING, services: { web } })
    const cases: { config: unknown; says: string[] }[] = [
      { config: '{\n  "listeners": [,]\n}', says: ['line 2, column 17: expected a value, got ","'] },
      {
        config: service({ holdTimout: '5s' }),
        says: ['services.web.holdTimout: unknown key (did you mean "holdTimeout"?)'],
      },
      { config: service({ maxHeld: '10' }), says: ['services.web.maxHeld: expected'] },
      {
        config: { ...WORKING, listeners: [LISTENER, LISTENER] },
        says: ['listeners[1].name: "web" is the name of listeners[0] already'],
      },
      {
        config: { ...WORKING, listeners: [{ ...LISTENER, service: 'wbe' }], admin: { listen: '0.0.0.0:1' } },
        says: [
          'listeners[0].service: there is no service "wbe" (did you mean "web"?)',
          'admin.listen: 0.0.0.0:1 can be reached from other hosts',
        ],
      },
      {
        config: { ...WORKING, security: { registrationSecretFile: 'none' } },
        says: ['security.registrationSecretFile: can not read'],
      },
    ]
    const runs = cases.map(({ config, says }) => ({ says, file: configured(t, config) }))
    runs.push({ says: ['no such file; name another one with --config FILE'], file: missing })
    await eachRun(
      t,
      runs.map((run) => ({ ...run, args: ['check', '--config', run.file] })),
      ({ code, lines }, { says, file }) => {
        t.equal(code, 1, file)
        t.equal(lines.length, says.length, `${lines.join(' | ')}: a line for each`)
        for (const [index, text] of says.entries()) t.match(lines[index], `${file}: ${text}`)
      },
    )
    const [first] = runs as [{ file: string; says: string[] }]
    t.match(
      await baton(t, 'start', '--config', first.file),
      { code: 1, lines: [`${first.file}: ${first.says[0]}`] },
      'start says the same',
    )
  },
)

void t.test('a configuration that is right', async (t) => {
  const file = configured(t, WORKING)
  t.same(await baton(t, 'check', '--config', file), {
    code: 0,
    lines: [`${file}: ok (1 listener, 1 service)`],
  })
})

void t.test(
  'an address that can not be had: exit code 1, and the name of the listener and the address',
  async (t) => {
    const { port } = await occupied(t)
    const listening = (listen: string) => ({
      ...WORKING,
      listeners: [LISTENER, { ...LISTENER, name: 'other', listen }],
    })
    const socketFile = join(temporaryFolder(t), 'file.sock')
    writeFileSync(socketFile, '')
    const served = join(temporaryFolder(t), 'served.sock')
    const other = createServer().listen(served)
    await once(other, 'listening')
    t.teardown(() => other.close())
    const cases = [
      {
        config: listening(`127.0.0.1:${port}`),
        says: `listener "other" on 127.0.0.1:${port}: the address is in use`,
      },
      // RFC 5737: for documentation, so never an address of this machine.
      {
        config: listening('192.0.2.1:8080'),
        says: 'listener "other" on 192.0.2.1:8080: the address belongs to no interface',
      },
      { config: listening(`unix:${socketFile}`), says: `listener "other" on unix:${socketFile}: ` },
      // It was said to be another broker's runtime folder.
      {
        config: listening(`unix:${served}`),
        says: `listener "other" on unix:${served}: the address is in use by another process (EADDRINUSE)`,
      },
      {
        config: listening('unix:/nonexistent/web.sock'),
        says: 'listener "other" on unix:/nonexistent/web.sock: ',
      },
      {
        config: { ...WORKING, admin: { listen: `127.0.0.1:${port}` } },
        says: `admin.listen: 127.0.0.1:${port} is in use`,
      },
    ].map(({ config, says }) => ({ says, args: ['start', '--config', configured(t, config)] }))
    await eachRun(t, cases, ({ code, lines }, { says }) => {
      t.equal(code, 1, says)
      t.ok(lines.at(-1)?.includes(says), `${lines.join(' | ')}\nwanted: ${says}`)
      t.notOk(lines.join('\n').includes('    at '), 'no stack')
    })
  },
)

/** `baton ...` that asks a running broker finds it through a configuration with the port that was chosen. */
function asking(t: Test, broker: Broker): string {
  return configured(t, { ...WORKING, admin: { listen: new URL(broker.admin).host } })
}

void t.test('status and drain ask the running broker', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const backend = await startBackend(t, broker)
  t.equal((await fetch(broker.url())).status, 200)
  const file = asking(t, broker)
  const id = (await broker.status()).services[0]?.backends[0]?.id ?? ''

  await t.test('status', async (t) => {
    const { code, lines } = await baton(t, 'status', '--config', file)
    t.equal(code, 0)
    t.match(lines[0], new RegExp(`^broker [0-9A-Z]{26}: running, version .*, pid ${broker.pid}, since`))
    const text = lines.join('\n')
    t.match(text, new RegExp(`^web +127\\.0\\.0\\.1:${broker.port()} +http +web +1$`, 'm'))
    t.match(text, new RegExp(`^web/web-1 +ready .* ${backend.pid} .* ${id}$`, 'm'))
  })

  await t.test('status --json is what the API answers', async (t) => {
    const { code, lines } = await baton(t, 'status', '--json', '--config', file)
    t.equal(code, 0)
    const printed = JSON.parse(lines.join('\n')) as Status
    t.match(printed.services[0]?.backends, [{ id, slot: 'web-1', pid: backend.pid, state: 'ready' }])
    t.match(printed.services[0]?.outcomes, { handed_off: 1 })
  })

  await t.test('drain of what is not there: exit code 1, by its name', async (t) => {
    const cases = [
      { args: ['drain', 'wbe', '--config', file], says: 'baton: there is no service "wbe"; there are: web' },
      { args: ['drain', 'web/web-7', '--config', file], says: 'baton: service web has no backend "web-7"' },
    ]
    await eachRun(t, cases, ({ code, lines }, { says }) => {
      t.equal(code, 1)
      t.same(lines, [says])
    })
    t.equal((await broker.status()).services[0]?.backends[0]?.state, 'ready', 'nobody was drained')
  })

  const other = await startBackend(t, broker)
  await t.test('drain of one backend, by its slot', async (t) => {
    const run = await baton(t, 'drain', 'web/web-1', '--deadline', '0', '--config', file)
    t.same(run, { code: 0, lines: ['web/web-1: draining 1 backend, for at most 0s'] })
    await broker.until(({ services }) => services[0]?.backends.length === 1, 'it has left')
    t.equal((await fetch(broker.url())).headers.get('x-pid'), String(other.pid))
  })

  await t.test('drain of a service', async (t) => {
    const { code, lines } = await baton(t, 'drain', 'web', '--config', file)
    t.equal(code, 0)
    t.match(lines, ['web: draining 1 backend, for at most 30s'])
  })

  await t.test('after its end nobody answers: exit code 1, and where', async (t) => {
    broker.program.kill('SIGTERM')
    t.equal((await broker.program.exited).code, 0)
    const { host } = new URL(broker.admin)
    const { code, lines } = await baton(t, 'status', '--config', file)
    t.equal(code, 1)
    t.same(lines, [
      `baton: nobody answers at ${host} (admin.listen of ${file}): ECONNREFUSED; is the broker running?`,
    ])
  })
})

void t.test('SIGTERM and SIGINT drain and exit 0; a client that waits has until drainDeadline', async (t) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const broker = await startBroker(t, { config: { drainDeadline: '300ms' } })
    const waiting = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
    waiting.request()
    await broker.until(({ services }) => services[0]?.held === 1, 'the client is held')
    broker.program.kill(signal)
    const answer = await waiting.answer()
    t.equal(answer.status, 503, 'then it is told')
    t.same(await broker.program.exited, { code: 0, signal: null }, signal)
    t.match(
      broker.program
        .messages()
        .map(({ msg }) => msg)
        .filter((msg) => msg === 'draining' || msg === 'stopped'),
      ['draining', 'stopped'],
    )
  }
})

void t.test('a second signal ends it at once, with exit code 1', async (t) => {
  const broker = await startBroker(t, {
    config: { drainDeadline: '5m', services: { web: { holdTimeout: '5m' } } },
  })
  const waiting = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  await broker.until(
    ({ services }) => services[0]?.held === 1,
    'a client is held, so the drain takes its time',
  )
  broker.program.kill('SIGTERM')
  await broker.program.message('draining')
  t.ok(waiting.open)
  broker.program.kill('SIGTERM')
  t.same(await broker.program.exited, { code: 1, signal: null })
})

void t.test('a drained broker can be started again at once on the same addresses', async (t) => {
  const first = await startBroker(t)
  const settings = {
    listeners: [{ ...LISTENER, listen: first.address() }],
    admin: { listen: new URL(first.admin).host },
  }
  const kept = await Client.open(t, { host: '127.0.0.1', port: first.port() })
  first.program.kill('SIGTERM')
  kept.socket.destroy()
  t.equal((await first.program.exited).code, 0)
  const second = await startBroker(t, { config: settings })
  t.equal(second.address(), first.address())
})

void t.test("a worker keeps little room for what is new, unless Node's options say otherwise", async (t) => {
  const isSmall = (broker: Broker) =>
    readFileSync(`/proc/${broker.pid}/cmdline`, 'utf8').split('\0').includes('--max-semi-space-size=4')
  t.ok(isSmall(await startBroker(t)))
  t.notOk(isSmall(await startBroker(t, { env: { NODE_OPTIONS: '--max-semi-space-size=32' } })))
})
