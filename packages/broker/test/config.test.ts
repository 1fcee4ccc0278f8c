import { execFileSync } from 'node:child_process'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { inspect } from 'node:util'

import { parseDuration as readDuration } from '@baton/backend-sdk/duration'
import * as fc from 'fast-check'
import t from 'tap'

import { formatAddress, isLoopback, parseAddress } from '../src/config/address.ts'
import { type Config, loadConfig, parseConfig, warningsOf } from '../src/config/config.ts'
import { formatRate, parseRate } from '../src/config/rate.ts'
import { formatDuration, parseDuration } from '../src/config/duration.ts'
import { ConfigError } from '../src/config/error.ts'
import { jsonSchema } from '../src/config/schema.ts'
import { parseJson } from '../src/config/json.ts'
import { nearMiss } from '../src/config/near-miss.ts'
import { packConfig, unpackConfig } from '../src/config/packed.ts'
import { drainDeadlineOf, keptOutputOf, longestDrainDeadline } from '../src/config/service-rules.ts'
import { readSecretFile, Secret } from '../src/config/secret.ts'

const listener = { name: 'web', listen: '127.0.0.1:0', service: 'web' }
const smallest = { listeners: [listener], services: { web: {} } }

/** The problems of a configuration, as `path: message`. */
function problems(json: unknown): string[] {
  try {
    parseConfig(json)
    return []
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return error.problems.map(({ path, message }) => `${path}: ${message}`)
  }
}

/** A configuration whose one service has these keys. */
const withService = (service: Record<string, unknown>) => ({ ...smallest, services: { web: service } })

void t.test("a service's own drainDeadline, and that of the broker for the others", async (t) => {
  const config = parseConfig({
    ...smallest,
    drainDeadline: '20s',
    services: { web: {}, chat: { drainDeadline: '10m' }, jobs: { drainDeadline: '0s' } },
  })
  t.same(
    [...config.services.values()].map((service) => drainDeadlineOf(service, config)),
    [20_000, 600_000, 0],
  )
  t.equal(longestDrainDeadline(config), 600_000)
})

void t.test('the smallest configuration gets the documented defaults', async (t) => {
  const config = parseConfig(smallest)
  t.same(config.admin, { listen: { kind: 'tcp', host: '127.0.0.1', port: 9180 }, token: null })
  t.equal(config.drainDeadline, 30_000)
  t.same(config.keepOutput, { size: 4 * 2 ** 20, files: 4 })
  t.same(config.listeners, [
    {
      name: 'web',
      listen: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      protocol: 'http',
      service: 'web',
      routes: [],
      peekTimeout: 5000,
      proxyProtocol: null,
      limits: null,
    },
  ])
  t.same(
    [...config.services],
    [
      [
        'web',
        {
          name: 'web',
          balance: 'least-connections',
          handoff: 'auto',
          holdTimeout: 30_000,
          maxHeld: 10_000,
          ackDeadline: 500,
          tokenTtl: 5000,
          maxStuck: 1024,
          handBack: 'drain',
          parkAfter: null,
          handBackWindow: 64,
          ticketRotation: 12 * 3_600_000,
          sticky: 'address',
          drainDeadline: null,
          failureLimit: { failures: 8, window: 30_000, pause: 30_000 },
          command: null,
          external: false,
          instances: 1,
          env: {},
          envFiles: {},
          cwd: '.',
          maxMemory: null,
          restartEvery: null,
          keepOutput: null,
          minHealthy: 1000,
          healthCheck: null,
          upstreams: [],
        },
      ],
    ],
  )
  t.same(config.security, { allowUids: [process.getuid?.()], allowGids: [], registrationSecret: null })
})

void t.test('kept output: of the broker, or of a service', async (t) => {
  const kept = (broker: unknown, service: unknown) =>
    keptOutputOf(parseConfig({ ...withService({ keepOutput: service }), keepOutput: broker }), 'web')
  t.same(kept(undefined, undefined), { size: 4 * 2 ** 20, files: 4 })
  t.same(kept({ size: '1GiB' }, null), { size: 2 ** 30, files: 4 })
  t.same(kept('off', { size: 65_536, files: 2 }), { size: 65_536, files: 2 })
  t.equal(kept('off', undefined), undefined)
  t.equal(kept({}, 'off'), undefined)
  t.equal(keptOutputOf(parseConfig(smallest), 'gone'), undefined)
  for (const [value, why] of [
    [false, /expected "off" or an object/],
    [{ size: '63K' }, /keepOutput\.size: must be at least 64 KiB/],
    [{ size: 'much' }, /keepOutput\.size: expected bytes or a string like/],
    [{ files: 1 }, /keepOutput\.files: must be at least 2/],
  ] as const)
    t.throws(() => kept(value, undefined), { message: why })
})

void t.test('every problem is reported, with its path and the valid values', async (t) => {
  const cases: [json: unknown, problem: RegExp][] = [
    [
      { ...smallest, drainDedline: '1s' },
      /^drainDedline: unknown key \(did you mean "drainDeadline"\?\); allowed here: runtimeDir, drain/,
    ],
    [
      withService({ holdTimout: 1 }),
      /^services\.web\.holdTimout: unknown key \(did you mean "holdTimeout"\?\); allowed here: balance/,
    ],
    [
      withService({ failureLimit: { pauze: 1 } }),
      /^services\.web\.failureLimit\.pauze: .*did you mean "pause".*: failures, window, pause$/,
    ],
    [
      withService({ healthCheck: { url: '/' } }),
      /^services\.web\.healthCheck\.url: unknown key; allowed here: path, interval, timeout$/,
    ],
    [
      { ...smallest, listeners: [{ ...listener, port: 1 }] },
      /^listeners\[0\]\.port: unknown key.*: name, listen, protocol, service, routes, peekTimeout, proxyProtocol, limits$/,
    ],
    [
      withService({ balance: 'round-robbin' }),
      /^services\.web\.balance: "round-robbin" is not one of .*did you mean "round-robin"/,
    ],
    [withService({ maxHeld: '10' }), /^services\.web\.maxHeld: expected a number, got "10"$/],
    [withService({ maxHeld: -1 }), /^services\.web\.maxHeld: must be at least 0$/],
    [withService({ maxStuck: 1.5 }), /^services\.web\.maxStuck: expected a whole number, got 1\.5$/],
    [
      withService({ holdTimeout: '1.5s' }),
      /^services\.web\.holdTimeout: expected milliseconds or a string like/,
    ],
    [
      withService({ max_memory_restart: '150M' }),
      /^services\.web\.max_memory_restart: unknown key \(its name here is "maxMemory"\); allowed here: balance/,
    ],
    [withService({ script: 'app.js' }), /^services\.web\.script: unknown key \(its name here is "command"\)/],
    [
      withService({ restart_delay: 4000 }),
      /^services\.web\.restart_delay: unknown key \(a key of PM2 that does not exist here\); allowed here: balance/,
    ],
    [{ ...smallest, script: 'app.js' }, /^script: unknown key; allowed here: /],
    [withService({ holdTimeout: null }), /^services\.web\.holdTimeout: expected milliseconds/],
    [withService({ holdTimeout: '600h' }), /^services\.web\.holdTimeout: must be at most 2147483647 ms$/],
    [withService({ ackDeadline: 0 }), /^services\.web\.ackDeadline: must be at least 1 ms$/],
    [withService({ ackDeadline: '5s' }), /^services\.web\.ackDeadline: must be shorter than tokenTtl/],
    [{ services: { web: {} } }, /^listeners: is required$/],
    [{ ...smallest, listeners: [] }, /^listeners: needs at least one listener$/],
    [{ listeners: [listener] }, /^services: is required$/],
    [{ ...smallest, services: {} }, /^services: needs at least one service$/],
    [{ ...smallest, services: { web: {}, 'a b': {} } }, /^services\["a b"\]: a name has 1 to 63/],
    [{ ...smallest, services: { web: {}, [`a${'b'.repeat(63)}`]: {} } }, /: a name has 1 to 63/],
    [
      { ...smallest, listeners: [{ ...listener, service: 'wbe' }] },
      /^listeners\[0\]\.service: there is no service "wbe" \(did you mean "web"\?\); there are: web$/,
    ],
    [
      { ...smallest, listeners: [{ ...listener, service: 'toString' }] },
      /^listeners\[0\]\.service: there is no service "toString"/,
    ],
    [
      { ...smallest, listeners: [listener, listener] },
      /^listeners\[1\]\.name: "web" is already the name of listeners\[0\]$/,
    ],
    [
      { ...smallest, admin: { listen: '0.0.0.0:9180' } },
      /^admin\.listen: 0\.0\.0\.0:9180 can be reached from other hosts/,
    ],
    [{ ...smallest, runtimeDir: `/tmp/${'x'.repeat(100)}` }, /^runtimeDir: .*control\.sock has \d+ bytes/],
    [{ ...smallest, security: { allowUids: [-1] } }, /^security\.allowUids\[0\]: must be at least 0$/],
    [[], /^: expected an object, got an array$/],
    [null, /^: expected an object, got null$/],
  ]
  for (const [json, problem] of cases) {
    const found = problems(json)
    t.equal(found.length, 1, JSON.stringify(json).slice(0, 120))
    t.match(found[0], problem)
  }
  t.equal(
    problems({
      drainDeadline: 'x',
      listeners: [{ ...listener, listen: 'x' }],
      services: { web: { maxHeld: 'x' } },
    }).length,
    3,
  )
})

void t.test('an address has one purpose, however it is written', async (t) => {
  const twice = (a: string, b: string) =>
    problems({
      ...smallest,
      listeners: [
        { ...listener, listen: a },
        { ...listener, name: 'b', listen: b },
      ],
    })
  t.match(twice('127.0.0.1:8080', 'localhost:8080'), [
    /^listeners\[1\]\.listen: 127\.0\.0\.1:8080 is already the address of listeners\[0\]\.listen$/,
  ])
  t.match(twice('[::1]:8080', '[0:0:0:0:0:0:0:1]:8080'), [
    /^listeners\[1\]\.listen: \[::1\]:8080 is already the address of/,
  ])
  t.match(twice('unix:/tmp/a', 'unix:/tmp/a'), [/is already the address of/])
  t.match(twice('127.0.0.1:9180', '127.0.0.1:1'), [
    /^listeners\[0\]\.listen: .* is already the address of admin\.listen$/,
  ])
  t.same(twice('127.0.0.1:0', '127.0.0.1:0'), [], 'port 0 is another port each time')
  const control = {
    ...smallest,
    runtimeDir: '/tmp/r',
    listeners: [{ ...listener, listen: 'unix:/tmp/r/control.sock' }],
  }
  t.match(problems(control), [/is already the address of the control socket$/])
})

void t.test('an admin server that other hosts can reach needs a token', async (t) => {
  const dir = t.testdir({ token: 'open-sesame\n' })
  chmodSync(join(dir, 'token'), 0o600)
  const withAdmin = (listen: string, tokenFile: string | null) =>
    problems({ ...smallest, admin: { listen, tokenFile } })
  for (const listen of [
    '0.0.0.0:0',
    '[::]:9180',
    '192.0.2.1:9180',
    '[2001:db8::1]:9180',
    '[::ffff:192.0.2.1]:1',
  ]) {
    t.match(
      withAdmin(listen, null),
      [/^admin\.listen: .* can be reached from other hosts: set admin\.tokenFile/],
      listen,
    )
    t.same(withAdmin(listen, join(dir, 'token')), [], listen)
  }
  for (const listen of [
    '127.0.0.1:0',
    '127.9.9.9:9180',
    'localhost:9180',
    '[::1]:9180',
    'unix:/run/baton/admin.sock',
  ])
    t.same(withAdmin(listen, null), [], listen)
})

void t.test('the flight recorder is on by default', async (t) => {
  t.equal(parseConfig(smallest).recorder, 4096)
  t.equal(parseConfig({ ...smallest, recorder: 0 }).recorder, 0)
  t.match(problems({ ...smallest, recorder: -1 }), [/^recorder: must be at least 0$/])
  t.match(problems({ ...smallest, recorder: 100_001 }), [/^recorder: must be at most 100000$/])
  t.match(problems({ ...smallest, recorder: true }), [/^recorder: expected a number, got true$/])
})

void t.test('an upstream needs a port', async (t) => {
  t.match(problems(withService({ upstreams: [{ address: '127.0.0.1:0' }] })), [
    /upstreams\[0\]\.address: .*port other than 0/,
  ])
})

void t.test('a valid but doubtful configuration gets a warning', async (t) => {
  const config = parseConfig({ ...smallest, services: { web: { holdTimeout: 0 }, idle: {} } })
  t.match(warningsOf(config), [{ path: 'services.web.holdTimeout' }, { path: 'services.idle' }])
  t.same(warningsOf(parseConfig(smallest)), [])
  const checked = { services: { web: { healthCheck: {} } } }
  const tls = parseConfig({
    ...checked,
    listeners: [
      { name: 'plain', listen: '127.0.0.1:1', service: 'web' },
      { name: 'secure', listen: '127.0.0.1:2', protocol: 'tls', service: 'web' },
    ],
  })
  t.match(warningsOf(tls), [{ path: 'services.web.healthCheck', message: /plain HTTP/ }])
  t.same(warningsOf(parseConfig({ ...smallest, ...checked })), [])
})

void t.test('keys that another key makes useless get a warning', async (t) => {
  const warnings = (web: object) =>
    warningsOf(parseConfig({ ...smallest, services: { web } })).map(
      ({ path, message }) => `${path}: ${message}`,
    )
  t.match(warnings({ parkAfter: '0ms', handBack: 'off' }), [
    /^services\.web\.parkAfter: has no effect: handBack is "off"/,
  ])
  t.match(warnings({ parkAfter: '0ms', handoff: 'off' }), [
    /^services\.web\.parkAfter: has no effect: handoff is "off"/,
  ])
  t.same(warnings({ parkAfter: '0ms' }), [])
  const ofProcesses = {
    instances: 2,
    env: { A: 'b' },
    envFiles: { production: 'production.env' },
    cwd: 'app',
    external: true,
    keepOutput: 'off',
    maxMemory: '1GiB',
    restartEvery: '12h',
  }
  const why = 'has no effect: the service has no command, so Baton starts no process for it'
  t.same(
    warnings(ofProcesses),
    Object.keys(ofProcesses).map((key) => `services.web.${key}: ${why}`),
  )
  t.same(warnings({ ...ofProcesses, command: ['node', 'server.js'] }), [])
})

void t.test('durations', async (t) => {
  const good: [string, number][] = [
    ['250ms', 250],
    ['30s', 30_000],
    ['5m', 300_000],
    ['1h', 3_600_000],
    ['0s', 0],
  ]
  for (const [text, ms] of good) {
    t.equal(parseDuration(text), ms, text)
    t.equal(readDuration(text), ms, `${text} in a backend's options`)
  }
  for (const text of ['', '30', 's', '-1s', '1.5s', '30 s', '30S', '1d', '99999999999s']) {
    t.equal(parseDuration(text), undefined, JSON.stringify(text))
  }
  fc.assert(fc.property(fc.nat(2 ** 31 - 1), (ms) => parseDuration(formatDuration(ms)) === ms))
  t.equal(formatDuration(90_000), '90s')
  t.equal(parseConfig(withService({ holdTimeout: 1234 })).services.get('web')?.holdTimeout, 1234)
})

void t.test('addresses', async (t) => {
  const good: [text: string, address: object][] = [
    ['127.0.0.1:8080', { kind: 'tcp', host: '127.0.0.1', port: 8080 }],
    ['localhost:0', { kind: 'tcp', host: '127.0.0.1', port: 0 }],
    ['[::1]:65535', { kind: 'tcp', host: '::1', port: 65_535 }],
    ['[2001:DB8:0:0::1]:1', { kind: 'tcp', host: '2001:db8::1', port: 1 }],
    ['unix:/run/a b.sock', { kind: 'unix', path: '/run/a b.sock' }],
  ]
  for (const [text, address] of good) {
    const parsed = parseAddress(text)
    if (typeof parsed === 'string') throw new Error(parsed)
    t.same(parsed, address, text)
    t.same(parseAddress(formatAddress(parsed)), parsed, 'reads back')
  }
  const bad: [text: string, why: RegExp][] = [
    ['8080', /expected "host:port"/],
    ['127.0.0.1', /expected "host:port"/],
    ['127.0.0.1:http', /expected "host:port"/],
    ['127.0.0.1:65536', /out of range/],
    [':8080', /"0\.0\.0\.0:8080" or "\[::\]:8080"/],
    ['*:8080', /"0\.0\.0\.0:8080"/],
    ['::1:8080', /in brackets/],
    ['[127.0.0.1]:80', /not an IPv6 address/],
    ['[fe80::1%lo]:80', /zone/],
    ['example.com:80', /not an IP address; host names/],
    ['256.1.1.1:80', /not an IP address/],
    ['unix:relative', /absolute path/],
    ['unix:/a\0b', /NUL/],
    [`unix:/${'x'.repeat(107)}`, /108 bytes; the kernel allows at most 107/],
  ]
  for (const [text, why] of bad) t.match(parseAddress(text), why, JSON.stringify(text).slice(0, 40))
  t.type(parseAddress(`unix:/${'x'.repeat(106)}`), 'object', '107 bytes still fit')
  for (const [text, loopback] of [
    ['127.9.9.9:1', true],
    ['[::1]:1', true],
    ['unix:/a', true],
    ['[::]:1', false],
  ] as const) {
    const parsed = parseAddress(text)
    t.equal(typeof parsed === 'object' && isLoopback(parsed), loopback, text)
  }
})

void t.test('near misses', async (t) => {
  const known = ['start', 'check', 'status', 'drain']
  t.equal(nearMiss('chekc', known), 'check', 'swapped letters')
  t.equal(nearMiss('STATUS', known), 'status')
  t.equal(nearMiss('strat', known), 'start')
  t.equal(nearMiss('deploy', known), undefined)
  t.equal(nearMiss('', known), undefined)
})

void t.test('unusable files are named', async (t) => {
  const dir = t.testdir({
    'empty.json': '',
    'bad.json': '{\n  "listeners": [,]\n}',
    'twice.json': '{"a": 1, "a": 2}',
    folder: {},
  })
  const message = (name: string) => {
    try {
      loadConfig(join(dir, name))
      return 'loaded'
    } catch (error) {
      t.ok(error instanceof ConfigError && error.code === 'BATON_ERR_CONFIG')
      return String(error)
    }
  }
  t.match(
    message('none.json'),
    /none\.json: no such file; "baton init" writes one, "baton ls" lists brokers that run, --config FILE names another$/,
  )
  t.match(message('folder'), /folder: is a folder, not a file$/)
  t.match(message('empty.json'), /empty\.json: line 1, column 1: expected a value, got the end of the file$/)
  t.match(message('bad.json'), /bad\.json: line 2, column 17: expected a value, got ","$/)
  t.match(message('twice.json'), /twice\.json: line 1, column 10: duplicate key "a"$/)
})

void t.test(
  'a file that this user may not read is reported',
  { skip: process.getuid?.() === 0 && 'root reads everything' },
  async (t) => {
    const dir = t.testdir({ 'a.json': '{}' })
    chmodSync(join(dir, 'a.json'), 0)
    t.throws(() => loadConfig(join(dir, 'a.json')), /no permission to read the file \(EACCES\)/)
  },
)

void t.test(
  'the JSON reader agrees with JSON.parse, but for comments, trailing commas and two kinds of keys',
  async (t) => {
    const accepts = (text: string) => {
      try {
        JSON.parse(text)
        return true
      } catch {
        return false
      }
    }
    fc.assert(fc.property(fc.json(), (text) => parseJson(text).ok || /"__proto__"/.test(text)))
    // One character of a valid text is removed, doubled or replaced: mostly invalid, sometimes not.
    const damaged = fc.tuple(
      fc.json({ maxDepth: 3 }),
      fc.nat(),
      fc.constantFrom('', '"', '\\', ',', '}', '\u0001', '0', 'e'),
    )
    fc.assert(
      fc.property(damaged, ([text, at, replacement]) => {
        const index = at % text.length
        const changed = text.slice(0, index) + replacement + text.slice(index + 1)
        const result = parseJson(changed)
        if (!result.ok) return !accepts(changed) || /^duplicate key |cannot be a key/.test(result.message)
        if (!accepts(changed)) return /,\s*[\]}]|\/[/*]/.test(changed)
        return isDeepStrictEqual(result.value, JSON.parse(changed))
      }),
      { numRuns: 2000 },
    )
    t.match(parseJson('{"services": {"__proto__": {}}}'), {
      ok: false,
      line: 1,
      column: 15,
      message: /cannot be a key/,
    })
    t.match(parseJson('['.repeat(100_000)), { ok: false, message: /nested more than 64 deep/ })
    t.match(parseJson('{"a": 1} x'), {
      ok: false,
      column: 10,
      message: '"x" is not JSON; keys and text need double quotes',
    })
    t.match(parseJson('{a: 1}'), {
      ok: false,
      column: 2,
      message: '"a" is not JSON; keys and text need double quotes',
    })
    t.match(parseJson('{"a": 1 "b": 2}'), { ok: false, column: 9, message: 'expected ",", got "\\"b\\""' })
    t.match(parseJson('{"a": 1'), {
      ok: false,
      column: 8,
      message: 'expected "," or "}", got the end of the file',
    })
    t.match(parseJson('{\n/* open'), {
      ok: false,
      line: 2,
      column: 1,
      message: /is a comment without an end$/,
    })
    const commented = '// the app\n{ "a": [1, 2,], /* later: "b" */ "$schema": "x", }'
    t.same(parseJson(commented), { ok: true, value: { a: [1, 2], $schema: 'x' } })
  },
)

void t.test('what a worker gets is what its master has checked', async (t) => {
  const folder = t.testdir({ token: 'open-sesame' })
  chmodSync(join(folder, 'token'), 0o600)
  const config = parseConfig(
    {
      admin: { listen: '127.0.0.1:0', tokenFile: 'token' },
      listeners: [
        {
          name: 'edge',
          listen: '127.0.0.1:0',
          protocol: 'http',
          service: 'constructor',
          proxyProtocol: { from: ['10.0.0.0/8'] },
          limits: { perSource: { rate: '50/s', burst: 100 } },
          routes: [{ host: '*.shop.example', path: '/a', service: null }],
        },
      ],
      services: { constructor: { parkAfter: '1s' } },
      security: { registrationSecretFile: 'token' },
    },
    { file: join(folder, 'baton.json') },
  )
  const unpacked = unpackConfig(packConfig(config))
  t.ok(unpacked.admin.token?.matches('open-sesame'))
  t.ok(unpacked.security.registrationSecret?.matches('open-sesame'))
  t.ok(isDeepStrictEqual(withoutSecrets(unpacked), withoutSecrets(config)))
})

function withoutSecrets({ admin, security, ...rest }: Config): object {
  return { ...rest, listen: admin.listen, security: { ...security, registrationSecret: null } }
}

void t.test('a secret is never printed', async (t) => {
  const secret = new Secret('hunter2')
  t.equal(secret.reveal(), 'hunter2')
  for (const shown of [
    String(secret),
    JSON.stringify({ secret }),
    inspect({ secret }, { showHidden: true, depth: 9 }),
  ]) {
    t.notMatch(shown, 'hunter2')
    t.match(shown, '[secret]')
  }
  t.ok(secret.matches('hunter2'))
  for (const wrong of ['', 'hunter', 'hunter22', 'Hunter2']) t.notOk(secret.matches(wrong), wrong)
})

void t.test('secret files are relative to the configuration, private, and not empty', async (t) => {
  const config = {
    ...smallest,
    admin: { listen: '0.0.0.0:0', tokenFile: 'token' },
    security: { registrationSecretFile: 'key' },
  }
  const dir = t.testdir({ 'baton.json': JSON.stringify(config), token: 'one\n', key: ' two ' })
  const file = join(dir, 'baton.json')
  for (const name of ['token', 'key']) chmodSync(join(dir, name), 0o600)
  const { admin, security } = loadConfig(file)
  t.ok(admin.token?.matches('one') && security.registrationSecret?.matches('two'))

  chmodSync(join(dir, 'token'), 0o640)
  writeFileSync(join(dir, 'key'), '\n')
  const path = (name: string) => join(dir, name).replaceAll('/', '\\/')
  t.throws(
    () => loadConfig(file),
    new RegExp(
      `admin.tokenFile: ${path('token')} is accessible to other users \\(mode 0640\\); run: chmod 600 ${path('token')}`,
    ),
  )
  t.throws(() => loadConfig(file), /security\.registrationSecretFile: .*key is empty$/)
  // Such a token was accepted, and no request could carry it.
  chmodSync(join(dir, 'token'), 0o600)
  writeFileSync(join(dir, 'key'), 'two words')
  for (const token of ['two words', 'žeton']) {
    writeFileSync(join(dir, 'token'), token)
    t.throws(
      () => loadConfig(file),
      /: admin\.tokenFile: the token in .*token must be one word of ASCII characters: requests carry it in a header$/,
    )
  }
  t.match(readSecretFile(join(dir, 'none')), /cannot read .*none: ENOENT/)
  t.match(readSecretFile(dir), /not a regular file/)
  execFileSync('mkfifo', ['-m', '600', join(dir, 'fifo')])
  t.match(readSecretFile(join(dir, 'fifo')), /not a regular file/, 'and does not wait for a writer')
  writeFileSync(join(dir, 'key'), 'x'.repeat(5000))
  t.match(readSecretFile(join(dir, 'key')), /has 5000 bytes/)
})

void t.test('runtimeDir follows the environment, and the file', async (t) => {
  const dirWith = (xdg: string | undefined, runtimeDir?: string) => {
    const before = process.env['XDG_RUNTIME_DIR']
    if (xdg === undefined) delete process.env['XDG_RUNTIME_DIR']
    else process.env['XDG_RUNTIME_DIR'] = xdg
    try {
      return parseConfig(
        { ...smallest, ...(runtimeDir === undefined ? {} : { runtimeDir }) },
        { file: '/etc/baton/baton.json' },
      ).runtimeDir
    } finally {
      if (before === undefined) delete process.env['XDG_RUNTIME_DIR']
      else process.env['XDG_RUNTIME_DIR'] = before
    }
  }
  t.equal(dirWith('/run/user/7'), '/run/user/7/baton')
  t.match(
    dirWith('relative'),
    new RegExp(`/baton-${process.getuid?.()}$`),
    'the XDG specification says to ignore it',
  )
  t.match(dirWith(undefined), new RegExp(`/baton-${process.getuid?.()}$`))
  t.equal(dirWith('/run/user/7', 'run'), '/etc/baton/run')
})

void t.test('a service may be named like a method of Object', async (t) => {
  const config = parseConfig({
    listeners: [{ ...listener, service: 'constructor' }],
    services: { constructor: {} },
  })
  t.equal(config.services.get('constructor')?.balance, 'least-connections')
})

void t.test('the published JSON Schema is the one that Baton uses', async (t) => {
  const published: unknown = JSON.parse(
    readFileSync(new URL('../baton.schema.json', import.meta.url), 'utf8'),
  )
  t.same(published, JSON.parse(JSON.stringify(jsonSchema())), 'else: npm run docs')
})

/** A configuration whose one listener has these keys. */
const withListener = (more: Record<string, unknown>) => ({
  ...smallest,
  listeners: [{ ...listener, ...more }],
})

void t.test('routes are checked: each problem has the path of its route', async (t) => {
  const routes = (...all: object[]) =>
    withListener({ routes: all.map((route) => ({ service: 'web', ...route })) })
  const cases: [json: unknown, problem: RegExp][] = [
    [
      routes({ path: '/a', service: 'wev' }),
      /^listeners\[0\]\.routes\[0\]\.service: there is no service "wev" \(did you mean "web"/,
    ],
    [routes({}), /^listeners\[0\]\.routes\[0\]: needs a condition$/],
    [routes({ header: {} }), /^listeners\[0\]\.routes\[0\]\.header: must not be empty$/],
    [
      routes({ header: { 'a b': '1' } }),
      /routes\[0\]\.header\["a b"\]: expected the name of a header field$/,
    ],
    [routes({ header: { Host: 'a' } }), /routes\[0\]\.header\.Host: has a condition of its own$/],
    [routes({ header: { a: '' } }), /routes\[0\]\.header\.a: expected printable characters$/],
    [routes({ host: 'a:80' }), /routes\[0\]\.host: expected a host name without a port/],
    [routes({ host: 'a.*' }), /routes\[0\]\.host: a "\*" can only be the first label/],
    [routes({ path: 'a' }), /routes\[0\]\.path: a path starts with "\/"/],
    [routes({ path: '/a?b' }), /routes\[0\]\.path: a path starts with "\/"/],
    [
      routes({ sni: 'a' }),
      /routes\[0\]\.sni: does not apply to the protocol "http"; its conditions are host, path/,
    ],
    [
      routes({ path: '/a' }, { host: 'b' }, { path: '/a/b' }),
      /routes\[2\]: is never chosen: routes\[0\] takes all/,
    ],
    [routes({ path: '/', version: '' }), /routes\[0\]\.version: a version has 1 to 128 printable characters/],
    [routes({ path: '/', version: '2 0' }), /routes\[0\]\.version: a version has 1 to 128 printable/],
    [routes({ path: '/', version: 2 }), /routes\[0\]\.version: expected a string, got 2$/],
    [routes({ path: '/', version: 'v'.repeat(129) }), /routes\[0\]\.version: a version has 1 to 128/],
    [
      routes({ path: '/', service: null, version: '2.0' }),
      /routes\[0\]\.version: has no effect: the connections are rejected$/,
    ],
    [routes({ version: '2.0' }), /^listeners\[0\]\.routes\[0\]: needs a condition$/],
    [routes({ hots: 'a' }), /routes\[0\]\.hots: unknown key \(did you mean "host"\?\)/],
    [withListener({ service: null }), /^listeners\[0\]\.service: must name a service: there are no routes$/],
    [
      withListener({ protocol: 'tcp', routes: [{ path: '/', service: 'web' }] }),
      /^listeners\[0\]\.routes: needs the protocol "http" or "tls"$/,
    ],
    [
      withListener({ limits: { perSource: { rate: 'fast' } } }),
      /^listeners\[0\]\.limits\.perSource\.rate: expected a rate like "50\/s", "10\/m" or "100\/h"/,
    ],
    [
      withListener({ limits: { perSource: { rate: '0/s' } } }),
      /^listeners\[0\]\.limits\.perSource\.rate: expected a rate/,
    ],
    [
      withListener({ limits: { perSource: { rate: '1/s', burst: 0 } } }),
      /^listeners\[0\]\.limits\.perSource\.burst: /,
    ],
    [withListener({ limits: {} }), /^listeners\[0\]\.limits: needs connections or perSource$/],
    [
      withListener({ limits: { perSource: {} } }),
      /^listeners\[0\]\.limits\.perSource: needs connections or rate$/,
    ],
    [
      withListener({ limits: { perSource: { connections: 1, burst: 1 } } }),
      /^listeners\[0\]\.limits\.perSource\.burst: needs a rate$/,
    ],
    [
      withListener({ listen: 'unix:/tmp/in.sock', limits: { connections: 1 } }),
      /^listeners\[0\]\.limits\.connections: needs a TCP listener$/,
    ],
    [
      withListener({ listen: 'unix:/tmp/in.sock', limits: { perSource: { rate: '1/s' } } }),
      /^listeners\[0\]\.limits\.perSource\.rate: needs proxyProtocol: clients of a Unix socket have no address$/,
    ],
    [withListener({ peekTimeout: 0 }), /^listeners\[0\]\.peekTimeout: must be at least 1 ms$/],
    [
      withListener({ proxyProtocol: { from: [] } }),
      /^listeners\[0\]\.proxyProtocol\.from: must not be empty$/,
    ],
    [
      withListener({ proxyProtocol: { from: ['10.0.0.0/33'] } }),
      /proxyProtocol\.from\[0\]: a prefix has at most 32 bits/,
    ],
    [withListener({ proxyProtocol: { from: ['lb'] } }), /proxyProtocol\.from\[0\]: expected a network/],
    [
      withListener({ proxyProtocol: { from: ['uid:0'] } }),
      /proxyProtocol\.from\[0\]: only peers of a Unix socket/,
    ],
    [
      withListener({ listen: 'unix:/tmp/a.sock', proxyProtocol: { from: ['10.0.0.1'] } }),
      /proxyProtocol\.from\[0\]: peers of a Unix socket have no address; use "uid:N"$/,
    ],
  ]
  for (const [json, problem] of cases) {
    const found = problems(json)
    t.equal(found.length, 1, JSON.stringify(found))
    t.match(found[0], problem)
  }
  const config = parseConfig(
    routes({ host: '*.Shop.Example', header: { 'X-A': '1' } }, { path: '/a', service: null }),
  )
  t.match(config.listeners[0]?.routes, [
    { host: '*.shop.example', header: { 'x-a': '1' } },
    { path: '/a', service: null },
  ])
  const both = { ...routes({ path: '/a', service: 'api' }), services: { web: {}, api: {}, idle: {} } }
  t.same(
    warningsOf(parseConfig(both)).map(({ path }) => path),
    ['services.idle'],
    'a service of a route is used',
  )
})

void t.test('a route to a version that no process of the service has is warned about', async (t) => {
  const warned = (service: Record<string, unknown>, version: string) =>
    warningsOf(
      parseConfig({
        ...withListener({ routes: [{ path: '/', service: 'web', version }] }),
        services: { web: service },
      }),
    ).map(({ path, message }) => `${path}: ${message}`)
  const managed = { command: ['app'], env: { BATON_VERSION: '1.0' } }
  t.match(warned(managed, '2.0'), [
    /^listeners\[0\]\.routes\[0\]\.version: the processes of service "web" have the version "1\.0"/,
  ])
  t.same(warned(managed, '1.0'), [])
  t.same(warned({ ...managed, external: true }, '2.0'), [], 'others may register')
  t.same(warned({}, '2.0'), [])
})

void t.test('a rate is shown in the smallest unit in which it is a whole number', async (t) => {
  const shown = {
    '50/s': '50/s',
    '1/m': '1/m',
    '100/h': '100/h',
    '7/h': '7/h',
    '120/m': '2/s',
    '60/h': '1/m',
  }
  for (const [text, expected] of Object.entries(shown)) {
    const rate = parseRate(text)
    t.equal(rate && formatRate(rate), expected)
  }
})
