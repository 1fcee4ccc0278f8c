import { once } from 'node:events'
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createTcpServer, type AddressInfo, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

import { pino } from 'pino'
import t, { type Test } from 'tap'

import { createAdmin } from '../src/worker/admin/server.ts'
import { run } from '../src/cli/program.ts'
import { loadConfig } from '../src/config/config.ts'
import { fakeView, healthy } from './worker-view.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { freePort } from '../../../test/support/free-port.ts'

/** Runs `baton ARGS...` in this process. */
async function baton(...args: string[]) {
  const out: string[] = []
  const err: string[] = []
  const code = await run(args, { out: (line) => out.push(line), err: (line) => err.push(line) })
  return { code, out: out.join('\n'), err: err.join('\n') }
}

const listener = { name: 'web', listen: '127.0.0.1:0', service: 'web' }

/** A configuration file in its own folder. */
function configFile(t: Test, changes: Record<string, unknown> = {}): string {
  const folder = mkdtempSync(join(tmpdir(), 'baton-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'baton.json')
  const json = { runtimeDir: join(folder, 'run'), listeners: [listener], services: { web: {} }, ...changes }
  writeFileSync(file, JSON.stringify(json))
  return file
}

/** A server other than Baton, on a free port. */
async function listening(t: Test, server: Server): Promise<string> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

void t.test('help and version', async (t) => {
  const overview = await baton('--help')
  t.match(overview, { code: 0, err: '' })
  for (const name of [
    'start',
    'check',
    'status',
    'top',
    'events',
    'trace',
    'drain',
    'pause',
    'resume',
    'maintenance',
  ]) {
    t.match(overview.out, new RegExp(`^  ${name} `, 'm'))
    const help = await baton(name, '--help')
    t.match(help, { code: 0, err: '' })
    t.match(help.out, new RegExp(`^Usage: baton ${name} .*--config FILE  `, 's'))
  }
  t.match(await baton('drain', '--help'), { out: /^Usage: baton drain SERVICE\[\/BACKEND\] \[options\]\n/ })
  const manifest: { version: string } = JSON.parse(
    readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
  )
  t.same(await baton('--version'), { code: 0, out: manifest.version, err: '' })
})

void t.test('an invalid command line is exit code 2, with a suggestion', async (t) => {
  const cases: [args: string[], message: RegExp][] = [
    [[], /^baton: missing command\nTry: baton --help$/],
    [['strat'], /^baton: unknown command "strat" \(did you mean start\?\)\nTry: baton --help$/],
    [['chekc'], /^baton: unknown command "chekc" \(did you mean check\?\)\nTry: baton --help$/],
    // Of PM2. It is spelt like `start`, which would be refused beside a running broker.
    [['restart'], /^baton: unknown command "restart" \(did you mean deploy\?\)\n/],
    [['monit'], /^baton: unknown command "monit" \(did you mean top\?\)\n/],
    [['frobnicate'], /^baton: unknown command "frobnicate"\n/],
    [['--versoin'], /^baton: unknown option "--versoin" \(did you mean --version\?\)/],
    [
      ['check', '--confg', 'x'],
      /^baton: unknown option --confg \(did you mean --config\?\)\nTry: baton check --help$/,
    ],
    [
      ['start', '--confg', 'x'],
      /^baton: unknown option --confg \(did you mean --config\?\)\nTry: baton start --help$/,
    ],
    [['check', '-x'], /^baton: unknown option -x\n/],
    [['check', '--toString'], /^baton: unknown option --toString\n/],
    [
      ['deploy', 'web', '--canary', '0%', '--for', '1m'],
      /^baton: --canary: "0%": a share is a percentage such as 5%, 12\.5% or 100%, above 0%\n/,
    ],
    [['deploy', 'web', '--canary', '101%', '--for', '1m'], /^baton: --canary: "101%": a share is/],
    [['deploy', 'web', '--canary', 'five', '--for', '1m'], /^baton: --canary: "five": a share is/],
    [['deploy', 'web', '--canary', '5%'], /^baton: --canary needs --for DURATION\n/],
    [['deploy', 'web', '--canary', '5%', '--for', '0s'], /^baton: --for: "0s" is not a duration such as/],
    [['deploy', 'web', '--for', '1m'], /^baton: --for goes with --canary\n/],
    [
      ['deploy', 'web', '--abort', '--canary', '5%', '--for', '1m'],
      /^baton: --abort goes without --canary\n/,
    ],
    [['check', '--config'], /^baton: --config needs a value: --config FILE\n/],
    [['check', '--config='], /^baton: --config needs a value/],
    [['status', '--config', '--json'], /^baton: --config needs a value/],
    [['status', '--json=yes'], /^baton: --json takes no value/],
    [['check', 'baton.json'], /^baton: unexpected argument "baton\.json"/],
    [['drain'], /^baton: drain needs SERVICE\[\/BACKEND\]/],
    [['drain', 'web', 'api'], /^baton: unexpected argument "api"/],
    [['drain', 'web/'], /^baton: "web\/" is not SERVICE or SERVICE\/BACKEND/],
    [['drain', '/web-1'], /is not SERVICE/],
    [['drain', 'web', '--deadline', 'soon'], /^baton: --deadline: "soon" is not a duration such as/],
    [['trace'], /^baton: trace needs ID, or --slowest N\nTry: baton trace --help$/],
    [['trace', 'web-1'], /^baton: "web-1" is not a connection id/],
    [['trace', '01J00000000000000000000000', '--slowest', '3'], /^baton: trace takes either ID or --slowest/],
    [['trace', '01J00000000000000000000000', '--service', 'web'], /^baton: --service needs --slowest/],
    [['trace', '--slowest', '0'], /^baton: --slowest: "0" must be a number from 1 to 1000/],
    [['trace', '--slowest', '1001'], /^baton: --slowest: "1001" must be a number/],
    [['completion'], /^baton: completion needs bash\|zsh\|fish/],
    [['completion', 'tcsh'], /^baton: "tcsh" is not one of bash, zsh, fish/],
  ]
  for (const [args, message] of cases) {
    const { code, out, err } = await baton(...args)
    t.equal(code, 2, args.join(' '))
    t.equal(out, '')
    t.match(err, message)
    t.match(err, /^[^\n]*\nTry: baton .*--help$/, 'the error, where to look, and nothing else')
  }
})

void t.test('check confirms a valid configuration, and prints warnings', async (t) => {
  const file = configFile(t)
  t.same(await baton('check', '--config', file), {
    code: 0,
    out: `${file}: ok (1 listener, 1 service)`,
    err: '',
  })
  t.same(await baton('check', `--config=${file}`), {
    code: 0,
    out: `${file}: ok (1 listener, 1 service)`,
    err: '',
  })
  const idle = configFile(t, { services: { web: {}, idle: {} } })
  t.same(await baton('check', '--config', idle), {
    code: 0,
    out: `${idle}: ok (1 listener, 2 services)`,
    err: `${idle}: services.idle: warning: no listener sends connections here`,
  })
})

void t.test('check warns of what this machine lacks', async (t) => {
  const command = ['no-such-program']
  const missing = configFile(t, { services: { web: { command } } })
  t.same(await baton('check', '--config', missing), {
    code: 0,
    out: `${missing}: ok (1 listener, 1 service)`,
    err: `${missing}: services.web.command: warning: cannot start "no-such-program": it is not in PATH (ENOENT)`,
  })
  const moved = configFile(t, { services: { web: { command: ['node'], cwd: 'gone' } } })
  t.match(await baton('check', '--config', moved), {
    code: 0,
    err: /services\.web\.command: warning: cannot start "node": the working folder .*gone .*\(ENOENT\)$/,
  })
  const runtimeDir = configFile(t)
  t.match(await baton('check', '--config', configFile(t, { runtimeDir })), {
    code: 0,
    err: /runtimeDir: warning: .* is not a folder$/,
  })
})

void t.test('comments and trailing commas are allowed', async (t) => {
  const file = configFile(t)
  const json = readFileSync(file, 'utf8')
  writeFileSync(file, json.replace('{', '{ // of this test\n').replace(/}$/, ', /* end */ }'))
  t.match(await baton('check', '--config', file), { code: 0, err: '' })
})

void t.test('check and start refuse bad configurations: a line per problem, with its path', async (t) => {
  const cases: { changes: Record<string, unknown> | string; says: string[] }[] = [
    {
      changes: { listeners: [{ ...listener, listen: 'x' }], services: { web: { maxHeld: -1 } } },
      says: [
        'listeners[0].listen: expected "host:port", "[v6]:port" or "unix:/path"',
        'services.web.maxHeld: must be at least 0',
      ],
    },
    { changes: '{\n  "listeners": [,]\n}', says: ['line 2, column 17: expected a value, got ","'] },
    {
      changes: { services: { web: { holdTimout: '5s' } } },
      says: ['services.web.holdTimout: unknown key (did you mean "holdTimeout"?)'],
    },
    {
      changes: { services: { web: { maxHeld: '10' } } },
      says: ['services.web.maxHeld: expected a number, got "10"'],
    },
    {
      changes: { listeners: [listener, listener] },
      says: ['listeners[1].name: "web" is already the name of listeners[0]'],
    },
    {
      changes: { listeners: [{ ...listener, service: 'wbe' }], admin: { listen: '0.0.0.0:1' } },
      says: [
        'listeners[0].service: there is no service "wbe" (did you mean "web"?)',
        'admin.listen: 0.0.0.0:1 can be reached from other hosts',
      ],
    },
    {
      changes: { security: { registrationSecretFile: 'none' } },
      says: ['security.registrationSecretFile: cannot read'],
    },
  ]
  for (const { changes, says } of cases) {
    const wrong = configFile(t, typeof changes === 'string' ? {} : changes)
    if (typeof changes === 'string') writeFileSync(wrong, changes)
    for (const command of ['check', 'start']) {
      const { code, out, err } = await baton(command, '--config', wrong)
      const lines = err.split('\n')
      t.same({ code, out }, { code: 1, out: '' })
      t.match(err, /[ \n]\(BATON_ERR_CONFIG\)$/)
      t.equal(lines.length, says.length === 1 ? 1 : says.length + 1, `${err}: a line for each, and the code`)
      for (const [index, text] of says.entries())
        t.ok(lines[index]?.startsWith(`${wrong}: ${text}`), `${lines[index]}\nwanted: ${text}`)
    }
  }
  const missing = join(dirname(configFile(t)), 'missing.json')
  for (const command of ['check', 'start'])
    t.same(await baton(command, '--config', missing), {
      code: 1,
      out: '',
      err: `${missing}: no such file; "baton init" writes one, "baton ls" lists brokers that run, --config FILE names another (BATON_ERR_CONFIG)`,
    })
})

void t.test(
  'an address that cannot be bound: exit code 1, and the name of the listener and the address',
  { timeout: LIMIT },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'baton-'))
    t.teardown(() => rmSync(folder, { recursive: true }))
    const port = await listening(t, createTcpServer())
    const served = `unix:${join(folder, 'served.sock')}`
    const other = createTcpServer().listen(served.slice('unix:'.length))
    await once(other, 'listening')
    t.teardown(() => other.close())
    const file = `unix:${join(folder, 'file.sock')}`
    writeFileSync(file.slice('unix:'.length), '')
    const cases: [listen: string, why: string][] = [
      [port, 'the address is in use by another process (EADDRINUSE)'],
      // RFC 5737: reserved for documentation, so never an address of this machine.
      ['192.0.2.1:8080', 'no interface of this machine has the address (EADDRNOTAVAIL)'],
      [file, ''],
      // The error used to blame another broker's runtime folder.
      [served, 'the address is in use by another process (EADDRINUSE)'],
      // Not /nonexistent: it exists on machines where packages were installed for a user without a home.
      [`unix:${join(folder, 'missing/web.sock')}`, ''],
    ]
    for (const [listen, why] of cases) {
      const listeners = [listener, { ...listener, name: 'other', listen }]
      const config = configFile(t, { admin: { listen: '127.0.0.1:0' }, listeners })
      const { code, out, err } = await baton('start', '--config', config)
      t.equal(code, 1, listen)
      t.equal(out, '')
      t.ok(err.startsWith(`baton: cannot listen: listener "other" on ${listen}: ${why}`), err)
      t.ok(err.endsWith(' (BATON_ERR_LISTEN)'), err)
      t.notOk(err.includes('\n'), 'no stack')
    }
  },
)

void t.test('status works after a bad edit, also in a file with comments', async (t) => {
  const file = configFile(t)
  const folder = dirname(file)
  writeFileSync(
    file,
    `{ // being edited
      "listeners": "soon", "servces": {}, "admin": { "listen": "unix:${folder}/admin.sock" } }`,
  )
  const { view } = fakeView()
  const valid = configFile(t, { admin: { listen: `unix:${folder}/admin.sock` } })
  const admin = createAdmin({ config: loadConfig(valid), view, logger: pino({ level: 'silent' }) })
  await admin.listen()
  t.teardown(() => admin.close())
  t.match(await baton('status', '--config', file), { code: 0, err: '', out: /01J00000000000000000BROKER/ })
  // Where it does not say where, all of it is checked.
  writeFileSync(file, '{ "listeners": "soon", "admin": { "listen": 9180 } }')
  t.match(await baton('status', '--config', file), { code: 1, out: '', err: /admin\.listen/ })
})

void t.test('status and drain connect to the broker named by the configuration', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'baton-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  writeFileSync(join(folder, 'token'), 'open-sesame', { mode: 0o600 })
  chmodSync(join(folder, 'token'), 0o600)
  const file = configFile(t, {
    admin: { listen: `unix:${folder}/admin.sock`, tokenFile: join(folder, 'token') },
  })
  const { view, state, drained } = fakeView()
  const admin = createAdmin({ config: loadConfig(file), view, logger: pino({ level: 'silent' }) })
  await admin.listen()
  t.teardown(() => admin.close())

  const shown = await baton('status', '--config', file)
  t.match(shown, { code: 0, err: '' })
  t.equal(
    shown.out,
    [
      'broker 01J00000000000000000BROKER: running, version 1.2.3, pid 4000, since 2026-01-02T03:04:00.000Z',
      'master (send signals to it): pid 3999',
      '',
      'LISTENER  ADDRESS         PROTOCOL  SERVICE  ACCEPTED',
      'http      127.0.0.1:8080  http      web            12',
      '',
      'SERVICE  READY  HELD  PARKED  IN FLIGHT  STUCK  HANDED OFF  HANDED BACK  RELAYED  REJECTED',
      'web      1/2       0       0          1      0          10            0        0         1',
      '',
      'BACKEND    STATE     LOAD  HANDED BACK  WEIGHT   PID  LAG MS  VERSION  ID',
      'web/web-1  ready        3            0       1  4242  1.3     2.0.1    01J0000000000000000000WEB-1',
      'web/web-2  draining     3            0       1  4242  -       -        01J0000000000000000000WEB-2',
    ].join('\n'),
  )
  t.ok(
    shown.out.split('\n').every((line) => line.length <= 100),
    'no wider than 100 columns',
  )
  const json = await baton('status', '--json', '--config', file)
  t.same(JSON.parse(json.out), healthy)

  const [service] = healthy.services
  if (service === undefined) throw new Error('none')
  const counts = { parked: 40, handedBack: 100, givenBack: 2, handBacksRefused: 3 }
  const backends = service.backends.map((each) => ({ ...each, handedBack: 50 }))
  state.status = { ...healthy, services: [{ ...service, ...counts, backends }] }
  const after = await baton('status', '--config', file)
  t.match(after.out.split('\n').slice(6, 12), [
    /^SERVICE .* PARKED .* HANDED BACK /,
    /^web {6}1\/2 {7}0 {6}40 .* 10 {10}100 /,
    'of the connections handed back by web, 2 were given back to their backend; 3 were refused: a backend broke the protocol',
    '',
    /^BACKEND/,
    /^web\/web-1 {2}ready {8}3 {11}50 /,
  ])
  state.status = healthy

  t.same(await baton('drain', 'web', '--config', file), {
    code: 0,
    out: 'web: draining 2 backends, for at most 30s',
    err: '',
  })
  const one = await baton('drain', 'web/web-1', '--deadline', '90s', '--config', file)
  t.same(one, { code: 0, out: 'web/web-1: draining 1 backend, for at most 90s', err: '' })
  await baton('drain', 'web', '--deadline', '1500', '--config', file)
  t.same(
    drained.map(([service, ...rest]) => [service, rest.at(-1)]),
    [
      ['web', undefined],
      ['web', 90_000],
      ['web', 1500],
    ],
  )
  t.same(await baton('drain', 'api', '--config', file), {
    code: 2,
    out: '',
    err: 'baton: there is no service "api"; there are: web (BATON_ERR_ADMIN_NO_SERVICE)',
  })
  const unknown = await baton('drain', 'web/..', '--config', file)
  t.match(unknown, { code: 1, err: /^baton: / })
  t.equal(drained.length, 3)

  writeFileSync(join(folder, 'token'), 'close-sesame')
  const refused = await baton('status', '--config', file)
  t.same(refused, { code: 1, out: '', err: 'baton: the token is wrong (BATON_ERR_ADMIN_UNAUTHORIZED)' })
  const both = await baton('status', '--json', '--config', file)
  t.match(both, { code: 1, err: refused.err })
  t.same(JSON.parse(both.out), {
    error: { code: 'BATON_ERR_ADMIN_UNAUTHORIZED', message: 'the token is wrong' },
  })
})

void t.test(
  'an admin address that is closed, or served by another program, is reported as such',
  async (t) => {
    const closed = `127.0.0.1:${await freePort()}`
    const file = configFile(t, { admin: { listen: closed } })
    const expected = `baton: cannot reach the broker at ${closed} (admin.listen of ${file}): ECONNREFUSED; is it running? (BATON_ERR_NO_BROKER)`
    t.same(await baton('status', '--config', file), { code: 1, out: '', err: expected })
    t.match(await baton('drain', 'web', '--config', file), { code: 1, err: expected })

    const html = createServer((_request, response) => response.end('<h1>hello</h1>'))
    const stranger = await listening(t, html)
    const other = configFile(t, { admin: { listen: stranger } })
    t.match(await baton('status', '--config', other), {
      code: 1,
      err: /^baton: what listens at .* is not a Baton broker \(it answered 200\) \(BATON_ERR_UNEXPECTED_ANSWER\)$/,
    })
    const json = await listening(
      t,
      createServer((_request, response) => response.end('null')),
    )
    const odd = configFile(t, { admin: { listen: json } })
    t.match(await baton('status', '--config', odd), {
      code: 1,
      err: /^baton: the broker answered without a status/,
    })
    t.match(await baton('drain', 'web', '--config', odd), {
      code: 1,
      err: /^baton: the broker answered without a drain; is it a different version/,
    })

    const free = configFile(t, { admin: { listen: '127.0.0.1:0' } })
    t.match(await baton('status', '--config', free), {
      code: 1,
      err: /^baton: 127\.0\.0\.1:0 .* has port 0; look up the assigned port in the broker's log/,
    })
  },
)

void t.test('a unit for agent checks at a low port has the capability for it', async (t) => {
  const unit = async (config: Record<string, unknown>) =>
    (await baton('systemd', '--scope', 'system', '--config', configFile(t, config))).out
  t.match(await unit({ agentCheck: '127.0.0.1:181' }), /^AmbientCapabilities=CAP_NET_BIND_SERVICE$/m)
  t.match(await unit({ agentCheck: '127.0.0.1:9181' }), /^CapabilityBoundingSet=$/m)
})

void t.test('systemd --install', async (t) => {
  const file = configFile(t)
  const home = mkdtempSync(join(tmpdir(), 'baton-'))
  const before = process.env['XDG_CONFIG_HOME']
  process.env['XDG_CONFIG_HOME'] = home
  t.teardown(() => {
    rmSync(home, { recursive: true })
    if (before === undefined) delete process.env['XDG_CONFIG_HOME']
    else process.env['XDG_CONFIG_HOME'] = before
  })
  const path = join(home, 'systemd/user/shop.service')
  const install = (...more: string[]) =>
    baton('systemd', '--install', '--scope', 'user', '--name', 'shop', '--config', file, ...more)

  const first = await install()
  t.match(first, { code: 0, err: '' })
  t.same(first.out.split('\n'), [
    `wrote ${path}; to start it:`,
    '  systemctl --user daemon-reload',
    '  systemctl --user enable --now shop',
    'so that it runs while you are not logged in: loginctl enable-linger',
  ])
  const text = readFileSync(path, 'utf8')
  t.match(text, /^ExecStart=\S+ \S+ start --config \S+baton\.json$/m)
  t.match(text, /^WantedBy=default\.target$/m)
  t.notMatch(text, /^(?:User|CapabilityBoundingSet|ProtectSystem|PrivateTmp|RuntimeDirectory)=/m)
  t.equal(statSync(path).mode & 0o777, 0o644 & ~process.umask())

  t.match((await install()).out, `${path} is there already, and the same`)
  t.same(JSON.parse((await install('--json')).out), {
    path,
    changed: false,
    commands: ['systemctl --user daemon-reload', 'systemctl --user enable --now shop'],
  })

  await t.test('a different unit is kept without --force', async (t) => {
    writeFileSync(path, '[Service]\nExecStart=/bin/true\n')
    t.same(await install(), {
      code: 1,
      out: '',
      err: `baton: ${path} exists and differs; --force replaces it. Nothing was changed`,
    })
    t.equal(readFileSync(path, 'utf8'), '[Service]\nExecStart=/bin/true\n')
    t.match(JSON.parse((await install('--json', '--force')).out), { changed: true })
    t.equal(readFileSync(path, 'utf8'), text)
  })

  await t.test('a folder that cannot be made', async (t) => {
    rmSync(join(home, 'systemd'), { recursive: true })
    writeFileSync(join(home, 'systemd'), '')
    const { code, out, err } = await install()
    t.same({ code, out }, { code: 1, out: '' })
    t.match(err, /^baton: cannot write .*shop\.service \((?:ENOTDIR|EEXIST)\)$/)
  })

  await t.test('bad input', async (t) => {
    t.match(await install('--user', 'root'), { code: 2, err: /--user goes without --scope user/ })
    t.match(await install('--name', 'a/b'), { code: 2, err: /--name: "a\/b" is not a name of a unit/ })
    t.match(await baton('systemd', '--force', '--config', file), {
      code: 2,
      err: /--force goes with --install/,
    })
    t.match(await baton('systemd', '--scope', 'host', '--config', file), {
      code: 2,
      err: /--scope: "host" must be "system" or "user"/,
    })
  })
})
