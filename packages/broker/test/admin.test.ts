import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { request as httpRequest, type RequestOptions } from 'node:http'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'

import { pino } from 'pino'
import t, { type Test } from 'tap'

import { ADMIN_ERRORS, AdminError } from '../src/admin/errors.ts'
import { createAdmin } from '../src/admin/index.ts'
import { parseAddress, type Address } from '../src/config/address.ts'
import { Secret } from '../src/config/secret.ts'
import { backend, fakeView, healthy } from './worker-view.ts'

/** A Unix socket path has 107 bytes at most, which a folder below the tests may use up. */
function shortFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'baton-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

interface Answer {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  readonly text: string
  readonly json: {
    readonly error?: { readonly code: string; readonly message: string }
    readonly [key: string]: unknown
  }
}

type Ask = (options: RequestOptions & { body?: string }) => Promise<Answer>

function addressOf(text: string): Address {
  const address = parseAddress(text)
  if (typeof address === 'string') throw new Error(address)
  return address
}

/** An admin server that runs until the test ends, and a way to ask it. */
async function serve(t: Test, { listen = '127.0.0.1:0', token }: { listen?: string; token?: string } = {}) {
  const fake = fakeView()
  const logged: string[] = []
  const logger = pino(
    new Writable({ write: (line, _encoding, done) => done(void logged.push(String(line))) }),
  )
  const config = {
    admin: { listen: addressOf(listen), token: token === undefined ? null : new Secret(token) },
  }
  const admin = createAdmin({ config, view: fake.view, logger })
  const { address } = await admin.listen()
  t.teardown(() => admin.close())
  const target =
    address.kind === 'unix' ? { socketPath: address.path } : { host: address.host, port: address.port }
  const ask: Ask = ({ body, ...options }) => exchange({ ...target, agent: false, ...options }, body)
  return { ...fake, admin, address, ask, logged }
}

async function exchange(options: RequestOptions, body: string | undefined): Promise<Answer> {
  const request = httpRequest(options)
  request.end(body)
  const [response] = await once(request, 'response')
  let text = ''
  for await (const chunk of response) text += String(chunk)
  const json = String(response.headers['content-type']).startsWith('application/json')
    ? JSON.parse(text || '{}')
    : {}
  return { status: response.statusCode, headers: response.headers, text, json }
}

void t.test('health, readiness, metrics and status are read from the worker', async (t) => {
  const { ask, state } = await serve(t)
  t.match(await ask({ path: '/healthz' }), { status: 200, json: { status: 'ok' } })
  t.match(await ask({ path: '/readyz' }), { status: 200, json: { ready: true, reasons: [] } })
  const metrics = await ask({ path: '/metrics' })
  t.match(metrics, { status: 200, text: 'baton_build_info{version="1.2.3"} 1\n' })
  t.equal(metrics.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8')
  t.equal(metrics.headers['cache-control'], 'no-store')
  t.same((await ask({ path: '/api/v1/status' })).json, healthy)
  t.same((await ask({ path: '/api/v1/services/web' })).json, healthy.services[0])

  state.status = {
    broker: { ...healthy.broker, state: 'draining' },
    listeners: healthy.listeners.map((listener) => ({ ...listener, accepting: false })),
    services: healthy.services.map((service) => ({
      ...service,
      backends: [backend('web-2', { state: 'paused' })],
    })),
  }
  const reasons = [
    'the broker is draining',
    'listener http does not accept',
    'service web has no ready backend',
  ]
  t.match(await ask({ path: '/readyz' }), { status: 503, json: { ready: false, reasons } })
  t.equal((await ask({ path: '/healthz' })).status, 200, 'alive all the same')
})

void t.test('drain begins for a service, or for a backend by slot or id', async (t) => {
  const { ask, drained } = await serve(t)
  const post = (path: string, body?: string) =>
    ask({
      method: 'POST',
      path,
      ...(body === undefined ? {} : { body, headers: { 'content-type': 'application/json' } }),
    })
  t.match(await post('/api/v1/services/web/drain'), {
    status: 202,
    json: { draining: 2, deadlineMs: 30_000 },
  })
  t.match(await post('/api/v1/services/web/drain', '{"deadline":"5s"}'), {
    status: 202,
    json: { draining: 2, deadlineMs: 5000 },
  })
  t.match(await post('/api/v1/services/web/drain', ''), { status: 202 })
  const { id } = backend('web-1')
  t.match(await post(`/api/v1/services/web/backends/web-1/drain`, '{"deadline":250}'), {
    status: 202,
    json: { draining: 1 },
  })
  t.match(await post(`/api/v1/services/web/backends/${id}/drain`, '{}'), { status: 202 })
  t.same(drained, [
    ['web', undefined],
    ['web', 5000],
    ['web', undefined],
    ['web', id, 250],
    ['web', id, undefined],
  ])
})

void t.test('a request that is wrong is answered with a typed error, and nothing is drained', async (t) => {
  const { ask, drained } = await serve(t)
  const json = { 'content-type': 'application/json' }
  const drain = { method: 'POST', path: '/api/v1/services/web/drain' }
  const cases: [RequestOptions & { body?: string }, code: keyof typeof ADMIN_ERRORS, message: RegExp][] = [
    [{ path: '/api/v1/services/wbe' }, 'BATON_ERR_ADMIN_NO_SERVICE', /there is no service "wbe"/],
    [{ method: 'POST', path: '/api/v1/services/wbe/drain' }, 'BATON_ERR_ADMIN_NO_SERVICE', /wbe/],
    [
      { method: 'POST', path: '/api/v1/services/web/backends/web-9/drain' },
      'BATON_ERR_ADMIN_NO_BACKEND',
      /web has no backend "web-9"/,
    ],
    [{ path: '/nothing?token=1' }, 'BATON_ERR_ADMIN_NO_ROUTE', /^there is no GET \/nothing$/],
    [{ path: '/api/v1/services/web/drain' }, 'BATON_ERR_ADMIN_NO_ROUTE', /no GET/],
    [
      { ...drain, body: '{"deadline":"soon"}', headers: json },
      'BATON_ERR_ADMIN_BAD_REQUEST',
      /^deadline: expected milliseconds/,
    ],
    [{ ...drain, body: '{"dedline":"1s"}', headers: json }, 'BATON_ERR_ADMIN_BAD_REQUEST', /dedline/],
    [{ ...drain, body: '[]', headers: json }, 'BATON_ERR_ADMIN_BAD_REQUEST', /object/],
    [{ ...drain, body: '{', headers: json }, 'BATON_ERR_ADMIN_BAD_REQUEST', /not JSON/],
    [
      { ...drain, body: '{}', headers: { 'content-type': 'text/plain' } },
      'BATON_ERR_ADMIN_MEDIA_TYPE',
      /text\/plain|media/i,
    ],
    [
      { ...drain, body: 'a=b', headers: { 'content-type': 'application/x-www-form-urlencoded' } },
      'BATON_ERR_ADMIN_MEDIA_TYPE',
      /./,
    ],
    [
      { ...drain, body: JSON.stringify('x'.repeat(20_000)), headers: json },
      'BATON_ERR_ADMIN_BODY_TOO_LARGE',
      /large/,
    ],
    [{ ...drain, headers: { origin: 'http://evil.example' } }, 'BATON_ERR_ADMIN_ORIGIN', /another origin/],
    [{ ...drain, headers: { origin: 'null' } }, 'BATON_ERR_ADMIN_ORIGIN', /another origin/],
    [
      { path: '/api/v1/status', headers: { host: 'evil.example:9180' } },
      'BATON_ERR_ADMIN_HOST',
      /evil\.example/,
    ],
    [{ path: '/metrics', headers: { host: '127.0.0.1.evil.example' } }, 'BATON_ERR_ADMIN_HOST', /evil/],
  ]
  for (const [options, code, message] of cases) {
    const answer = await ask(options)
    t.match(answer.json, { error: { code, message } }, `${options.method ?? 'GET'} ${options.path}`)
    t.equal(answer.status, ADMIN_ERRORS[code], code)
  }
  t.same(drained, [])
})

void t.test('the page of the server itself, and every name of loopback, may ask', async (t) => {
  const { ask, address } = await serve(t)
  const port = address.kind === 'tcp' ? address.port : 0
  for (const host of [`localhost:${port}`, `127.0.0.1:${port}`, '[::1]:80', 'LOCALHOST']) {
    t.equal((await ask({ path: '/api/v1/status', headers: { host } })).status, 200, host)
    const post = {
      method: 'POST',
      path: '/api/v1/services/web/drain',
      headers: { host, origin: `http://${host}` },
    }
    t.equal((await ask(post)).status, host === '[::1]:80' ? 403 : 202, `POST from http://${host}`)
  }
})

void t.test('row 23: a token opens everything but health and readiness, and is shown nowhere', async (t) => {
  const { ask, state, logged } = await serve(t, { token: 'open-sesame' })
  t.equal((await ask({ path: '/healthz' })).status, 200)
  t.equal((await ask({ path: '/readyz?x=1' })).status, 200)
  const bad = [undefined, 'Bearer', 'Bearer open-sesam', 'Basic open-sesame', 'Bearer open-sesame x']
  for (const authorization of bad) {
    for (const path of ['/metrics', '/api/v1/status', '/nothing', '/healthz/../metrics']) {
      const answer = await ask({ path, headers: authorization === undefined ? {} : { authorization } })
      t.match(
        answer.json,
        { error: { code: 'BATON_ERR_ADMIN_UNAUTHORIZED' } },
        `${path} with ${authorization}`,
      )
      t.equal(answer.headers['www-authenticate'], 'Bearer')
      t.notMatch(answer.text, 'sesame')
    }
  }
  const good = { authorization: 'bearer open-sesame' }
  t.equal((await ask({ path: '/metrics', headers: good })).status, 200)
  t.equal((await ask({ path: '/nothing', headers: good })).status, 404)

  state.status = null as never
  t.match(await ask({ path: '/api/v1/services/web', headers: good }), {
    status: 500,
    json: { error: { code: 'BATON_ERR_ADMIN_INTERNAL' } },
  })
  t.match(logged.join(''), 'admin request failed', 'a fault of ours is logged')
  t.notMatch(logged.join(''), 'sesame')
})

void t.test('every code has its status', async (t) => {
  for (const [code, status] of Object.entries(ADMIN_ERRORS)) {
    t.equal(new AdminError(code as keyof typeof ADMIN_ERRORS, 'x').statusCode, status)
  }
})

void t.test('an address in use names it and the key', async (t) => {
  const { address, admin } = await serve(t)
  const text = address.kind === 'tcp' ? `${address.host}:${address.port}` : ''
  const { view } = fakeView()
  const second = createAdmin({
    config: { admin: { listen: address, token: null } },
    view,
    logger: pino({ level: 'silent' }),
  })
  await t.rejects(second.listen(), {
    code: 'BATON_ERR_ADMIN_LISTEN',
    message: `admin.listen: ${text} is in use by another process (EADDRINUSE)`,
  })
  await second.close()
  await admin.close()
  await admin.close()
})

void t.test(
  'a Unix socket is private, replaces what a killed process left, and leaves a live one alone',
  async (t) => {
    const path = join(shortFolder(t), 'admin.sock')
    const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
    t.equal(spawnSync(process.execPath, ['-e', script]).signal, 'SIGKILL')
    t.ok(existsSync(path), 'the file of the dead one is there')

    const { ask, admin, address } = await serve(t, { listen: `unix:${path}` })
    t.same(address, { kind: 'unix', path })
    t.equal(statSync(path).mode & 0o777, 0o600)
    t.equal((await ask({ path: '/api/v1/status', headers: { host: 'anything' } })).status, 200)

    const { view } = fakeView()
    const config = { admin: { listen: address, token: null } }
    const second = createAdmin({ config, view, logger: pino({ level: 'silent' }) })
    await t.rejects(second.listen(), /admin\.listen: unix:.* is in use by another process \(EADDRINUSE\)/)
    await second.close()
    t.equal((await ask({ path: '/healthz' })).status, 200, 'the first one serves on')
    await admin.close()

    writeFileSync(path, 'not a socket')
    const third = createAdmin({ config, view, logger: pino({ level: 'silent' }) })
    await t.rejects(third.listen(), /EADDRINUSE/)
    t.ok(statSync(path).isFile(), 'a file of somebody else stays')
    await third.close()
  },
)

void t.test('close ends a connection that sends half a request', { timeout: 10_000 }, async (t) => {
  const { admin, address } = await serve(t)
  if (address.kind !== 'tcp') throw new Error('not TCP')
  const client = connect(address.port, address.host)
  client.on('error', () => client.destroy())
  const ended = once(client, 'close')
  await once(client, 'connect')
  client.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /metr')
  await once(client, 'data')
  await admin.close()
  await ended
  const reborn = createServer().listen(address.port, address.host)
  await once(reborn, 'listening')
  t.pass('the port is free again')
  reborn.close()
})
