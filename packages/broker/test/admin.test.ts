import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { Agent, type IncomingMessage, request as httpRequest, type RequestOptions } from 'node:http'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'

import { ulidFromBytes } from '@baton/backend-sdk/protocol'
import type { OwnedFd } from '@baton/native-sendmsg'
import { pino } from 'pino'
import t, { type Test } from 'tap'

import { eventually } from '../../../test/support/eventually.ts'
import { ADMIN_ERRORS, AdminError } from '../src/worker/admin/errors.ts'
import { MAX_PIPELINED } from '../src/worker/admin/connection-limit.ts'
import { MAX_CONNECTIONS, createAdmin } from '../src/worker/admin/server.ts'
import { parseAddress, type Address } from '../src/config/address.ts'
import { Secret } from '../src/config/secret.ts'
import type { ClientConnection } from '../src/worker/connection/connection.ts'
import { createConnectionId } from '../src/worker/connection/connection-id.ts'
import { MAX_STREAMS } from '../src/worker/events/event-feed.ts'
import type { FlightRecord } from '../src/api/flight-record.ts'
import { backend, fakeView, healthy } from './worker-view.ts'
import { LIMIT } from '../../../test/support/limits.ts'

/** A Unix socket path is limited to 107 bytes, and a folder below the tests may be longer. */
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

/** An admin server that runs until the test ends, and a function to send it requests. */
async function serve(
  t: Test,
  {
    listen = '127.0.0.1:0',
    token,
    recorder,
    pressed,
  }: { listen?: string; token?: string; recorder?: number; pressed?: () => boolean } = {},
) {
  const fake = fakeView(recorder === undefined ? {} : { recorder })
  const logged: string[] = []
  const logger = pino(
    new Writable({ write: (line, _encoding, done) => done(void logged.push(String(line))) }),
  )
  const config = {
    runtimeDir: '/nonexistent',
    admin: { listen: addressOf(listen), token: token === undefined ? null : new Secret(token) },
  }
  const admin = createAdmin({ config, view: fake.view, logger, pressed })
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
    'listener http is not accepting',
    'service web has no ready backend',
  ]
  t.match(await ask({ path: '/readyz' }), { status: 503, json: { ready: false, reasons } })
  t.equal((await ask({ path: '/healthz' })).status, 200, 'still alive')
})

void t.test('drain starts for a service, or for a backend by slot or id', async (t) => {
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

void t.test('a service is paused, resumed, and put into maintenance', async (t) => {
  const { ask, ordered, asked } = await serve(t)
  const post = (what: string, body: object) =>
    ask({
      method: 'POST',
      path: `/api/v1/services/web/${what}`,
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    })
  const none = { paused: null, maintenance: null }
  t.match(await post('pause', { for: '30s' }), { status: 200, json: none })
  t.match(await post('pause', {}), { status: 200, json: none })
  t.match(await post('resume', {}), { status: 200, json: { ...none, resumed: false } })
  t.match(await post('maintenance', { page: 'eA==' }), { status: 200, json: { ...none, ended: false } })
  t.match(await post('maintenance', { off: true }), { status: 200, json: { ...none, ended: false } })
  t.same(ordered, [
    ['pause', 'web', 30_000],
    ['pause', 'web', undefined],
    ['maintain', 'web', { page: 'eA==', type: 'text/html; charset=utf-8' }],
  ])
  t.match(asked, [
    { kind: 'pause', service: 'web', by: /without a token/, text: /pauses service web for 30000 ms$/ },
    { kind: 'pause' },
    { kind: 'maintenance', to: 'on' },
  ])
})

void t.test('an invalid request is answered with a typed error, and nothing is drained', async (t) => {
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
    [{ path: '/api/v1/services/web/drain' }, 'BATON_ERR_ADMIN_METHOD', /only POST$/],
    [{ path: '/metrics', method: 'DELETE' }, 'BATON_ERR_ADMIN_METHOD', /only GET, HEAD$/],
    [{ path: '/healthz', method: 'PROPFIND' }, 'BATON_ERR_ADMIN_METHOD', /only GET, HEAD$/],
    [{ path: '/healthz/%E0%A4%A' }, 'BATON_ERR_ADMIN_BAD_REQUEST', /./],
    [{ path: `/${'x'.repeat(2100)}` }, 'BATON_ERR_ADMIN_URI_TOO_LONG', /2048/],
    [{ path: `/api/v1/services/${'x'.repeat(1500)}` }, 'BATON_ERR_ADMIN_NO_SERVICE', /"x{64}\.\.\."/],
    [{ path: `/api/v1/connections?${'x'.repeat(1900)}=1` }, 'BATON_ERR_ADMIN_BAD_REQUEST', /^.{512}$/],
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
    [{ path: '/api/v1/events', headers: { host: 'evil.example' } }, 'BATON_ERR_ADMIN_HOST', /evil/],
    [{ path: '/api/v1/events', method: 'HEAD' }, 'BATON_ERR_ADMIN_METHOD', /./],
    [
      { path: '/api/v1/connections?limit=0' },
      'BATON_ERR_ADMIN_BAD_REQUEST',
      /^limit: must be a whole number from 1/,
    ],
    [{ path: '/api/v1/connections?limit=1001' }, 'BATON_ERR_ADMIN_BAD_REQUEST', /^limit: .* to 1000$/],
    [{ path: '/api/v1/connections?limit=1e1' }, 'BATON_ERR_ADMIN_BAD_REQUEST', /^limit: /],
    [{ path: '/api/v1/connections?outcome=lost' }, 'BATON_ERR_ADMIN_BAD_REQUEST', /^outcome: .*handed_off/],
    [{ path: '/api/v1/connections?slowest=yes' }, 'BATON_ERR_ADMIN_BAD_REQUEST', /^slowest: /],
    [{ path: '/api/v1/connections?servise=web' }, 'BATON_ERR_ADMIN_BAD_REQUEST', /servise/],
    [{ path: '/api/v1/connections?service=wbe' }, 'BATON_ERR_ADMIN_NO_SERVICE', /"wbe"/],
    [{ path: '/api/v1/connections/1' }, 'BATON_ERR_ADMIN_BAD_REQUEST', /"1" is not a connection id/],
    [
      { path: '/api/v1/connections/01ARZ3NDEKTSV4RRFFQ69G5FAV' },
      'BATON_ERR_ADMIN_NO_CONNECTION',
      /"01ARZ3NDEKTSV4RRFFQ69G5FAV"; the last 16 are kept, and a reload starts without any/,
    ],
  ]
  for (const [options, code, message] of cases) {
    const answer = await ask(options)
    if (options.method !== 'HEAD')
      t.match(answer.json, { error: { code, message } }, `${options.method ?? 'GET'} ${options.path}`)
    t.equal(answer.status, ADMIN_ERRORS[code], code)
  }
  t.same(drained, [])
})

void t.test('requests from the server’s own page and under every loopback name are allowed', async (t) => {
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

void t.test('a token opens everything but health and readiness, and is shown nowhere', async (t) => {
  const { ask, state, logged } = await serve(t, { token: 'open-sesame' })
  t.equal((await ask({ path: '/healthz' })).status, 200)
  t.equal((await ask({ path: '/readyz?x=1' })).status, 200)
  const bad = [undefined, 'Bearer', 'Bearer open-sesam', 'Basic open-sesame', 'Bearer open-sesame x']
  for (const authorization of bad) {
    for (const path of [
      '/metrics',
      '/api/v1/status',
      '/api/v1/connections',
      '/api/v1/events',
      '/nothing',
      '/healthz/../metrics',
    ]) {
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

void t.test('no request that a page of another origin can send changes anything', async (t) => {
  const { ask, address, drained, asked } = await serve(t)
  const port = address.kind === 'tcp' ? address.port : 0
  const own = `http://127.0.0.1:${port}`
  const foreign: Record<string, string>[] = [
    { origin: 'http://evil.example' },
    { origin: 'null' },
    { origin: `http://127.0.0.1:${port + 1}` },
    { origin: `http://127.0.0.1.evil.example:${port}` },
    // For proxies and old browsers that leave Origin out.
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
    { origin: own, 'sec-fetch-site': 'cross-site' },
  ]
  // Content types that fetch or a form may send without preflight (https://fetch.spec.whatwg.org/#cors-safelisted-request-header).
  const forms = ['application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'text/plain']
  for (const path of [
    '/api/v1/services/web/drain',
    '/api/v1/services/web/backends/web-1/drain',
    '/api/v1/reload',
  ]) {
    for (const headers of foreign) {
      const answer = await ask({ method: 'POST', path, headers })
      t.match(answer, { status: 403, json: { error: { code: 'BATON_ERR_ADMIN_ORIGIN' } } }, path)
      t.equal(answer.headers['access-control-allow-origin'], undefined)
    }
    for (const type of forms) {
      for (const body of ['', '{}']) {
        const headers = { 'content-type': type, 'content-length': String(body.length) }
        const answer = await ask({ method: 'POST', path, headers, body })
        t.match(
          answer,
          { status: 415, json: { error: { code: 'BATON_ERR_ADMIN_MEDIA_TYPE' } } },
          `${type} ${path}`,
        )
      }
    }
    for (const method of ['GET', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
      const answer = await ask({ method, path })
      t.match(answer, { status: 405 }, `${method} ${path}: a preflight is answered with no permission`)
      t.equal(answer.headers['access-control-allow-origin'], undefined)
    }
  }
  t.same([drained, asked], [[], []])
  const site = { origin: own, 'sec-fetch-site': 'same-origin' }
  t.equal((await ask({ method: 'POST', path: '/api/v1/services/web/drain', headers: site })).status, 202)
  const typed = { 'sec-fetch-site': 'none' }
  t.equal((await ask({ method: 'POST', path: '/api/v1/services/web/drain', headers: typed })).status, 202)
})

void t.test('the requester of a change is recorded: the address, or the user of a Unix socket', async (t) => {
  const open = await serve(t)
  await open.ask({ method: 'POST', path: '/api/v1/services/web/drain' })
  t.match(open.asked, [
    {
      kind: 'drain',
      service: 'web',
      backend: undefined,
      by: /^127\.0\.0\.1:\d+ without a token$/,
      text: /^127\.0\.0\.1:\d+ without a token drains service web$/,
    },
  ])
  const headers = { authorization: 'Bearer open-sesame' }
  const guarded = await serve(t, { token: 'open-sesame', listen: '[::1]:0' })
  await guarded.ask({ method: 'POST', path: '/api/v1/services/web/backends/web-1/drain', headers })
  const { id, pid, version } = backend('web-1')
  t.match(guarded.asked, [
    {
      backend: { id, slot: 'web-1', pid, version },
      by: /^\[::1\]:\d+ with a token$/,
      text: /drains web-1 of service web$/,
    },
  ])
  const local = await serve(t, { listen: `unix:${join(shortFolder(t), 'admin.sock')}` })
  await local.ask({ method: 'POST', path: '/api/v1/services/web/drain' })
  t.equal(local.asked[0]?.by, 'a Unix socket without a token')
  await local.ask({ method: 'POST', path: '/api/v1/services/wbe/drain' })
  t.equal(local.asked.length, 1, 'a refused request is not a change')
})

/** A client of the listener `http`, known to the recorder. */
function passenger(order: number): ClientConnection {
  return {
    order,
    fd: {} as OwnedFd,
    listener: { name: 'http', protocol: 'http' },
    peer: { family: 'IPv4', address: '192.0.2.7', port: 40_000 + order },
    id: createConnectionId(1_700_000_000_000 + order),
    acceptedAt: 1000,
    tried: undefined,
    pressedSince: undefined,
  }
}

void t.test('flight records: as a list, and each by its id', async (t) => {
  const { ask, connections } = await serve(t)
  t.same((await ask({ path: '/api/v1/connections' })).json, { connections: [], recorded: 0, capacity: 16 })
  const clients = [1, 2, 3].map(passenger)
  for (const client of clients) connections?.accepted(client, 'web')
  connections?.note('rejected', [clients[0] as ClientConnection], 1030, undefined, 'hold_full')
  connections?.note('rejected', [clients[1] as ClientConnection], 1010, undefined, 'hold_timeout')

  const list = async (query: string) =>
    ((await ask({ path: `/api/v1/connections${query}` })).json['connections'] as FlightRecord[]).map(
      ({ peer }) => Number(peer.slice(-1)),
    )
  t.same(await list(''), [3, 2, 1])
  t.same(await list('?service=web&limit=1'), [3])
  t.same(await list('?outcome=rejected&slowest=false'), [2, 1])
  t.same(await list('?outcome=rejected&slowest=true&limit=1000'), [1, 2])
  t.same(await list('?outcome=relayed'), [])

  const id = ulidFromBytes((clients[1] as ClientConnection).id)
  const answer = await ask({ path: `/api/v1/connections/${id}` })
  t.match(answer, { status: 200, json: { id, outcome: 'rejected', reason: 'hold_timeout', durationMs: 10 } })
  t.same((await ask({ path: `/api/v1/connections/${id.toLowerCase()}` })).json, answer.json)
})

void t.test('without a recorder there are no records', async (t) => {
  const { ask } = await serve(t, { recorder: 0 })
  t.same((await ask({ path: '/api/v1/connections' })).json, { connections: [], recorded: 0, capacity: 0 })
  t.match((await ask({ path: '/api/v1/connections/01ARZ3NDEKTSV4RRFFQ69G5FAV' })).json, {
    error: { code: 'BATON_ERR_ADMIN_NO_CONNECTION', message: /"recorder": 0/ },
  })
})

/** A stream of events; `ended` is set once the server has ended it. */
async function listenTo(t: Test, address: Address, headers: Record<string, string> = {}) {
  if (address.kind !== 'tcp') throw new Error('not TCP')
  const path = '/api/v1/events'
  const request = httpRequest({ host: address.host, port: address.port, path, agent: false, headers })
  t.teardown(() => request.destroy())
  request.end()
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  let text = ''
  response.setEncoding('utf8')
  response.on('data', (chunk: string) => (text += chunk))
  // This side may abort it.
  request.on('error', () => {})
  response.on('error', () => {})
  const ended = new Promise((resolve) => response.on('close', resolve))
  return { request, response, ended, text: () => text }
}

void t.test(
  'events are streamed until the feed ends, and closing does not wait',
  { timeout: LIMIT },
  async (t) => {
    const { admin, address, events } = await serve(t, { token: 'open-sesame' })
    const listener = await listenTo(t, address, { authorization: 'Bearer open-sesame' })
    t.match(listener.response, {
      statusCode: 200,
      headers: {
        'content-type': 'text/event-stream',
        'cache-control': 'no-store',
        'x-content-type-options': 'nosniff',
      },
    })
    await eventually(() => listener.text() !== '', 'the first event')
    t.match(listener.text(), /^id: fake\/1\nevent: status\ndata: \{"at":"[^"]+","status":\{"broker":/)
    const gone = await listenTo(t, address, { authorization: 'Bearer open-sesame' })
    t.equal(events.streams, 2)
    gone.request.destroy()
    await eventually(() => events.streams === 1, 'a disconnected client is forgotten')

    const from = performance.now()
    events.close()
    await listener.ended
    t.ok(listener.response.complete, 'the end is an ordinary one')
    await admin.close()
    t.ok(performance.now() - from < 900, 'at once, and not after the grace of a second')
  },
)

void t.test('streams over the limit are refused', { timeout: LIMIT }, async (t) => {
  const { ask, address, events } = await serve(t)
  const listeners = await Promise.all(Array.from({ length: MAX_STREAMS }, () => listenTo(t, address)))
  t.match(await ask({ path: '/api/v1/events' }), {
    status: 503,
    json: { error: { code: 'BATON_ERR_ADMIN_STREAMS', message: /64 event streams/ } },
  })
  listeners[0]?.request.destroy()
  await eventually(() => events.room, 'room again')
  await listenTo(t, address)
  events.close()
  t.match(await ask({ path: '/api/v1/events' }), {
    status: 503,
    json: { error: { message: /reconnect/ } },
  })
})

void t.test(
  'a client that disconnects before its stream has begun is forgotten',
  { timeout: LIMIT },
  async (t) => {
    // The stream was queued after a response on the same connection (pipelining). If its client disconnected before that was
    // written, its slot was never freed: after 64 of them no further stream was possible.
    const { address, events, state } = await serve(t)
    if (address.kind !== 'tcp') throw new Error('not TCP')
    let answer: (text: string) => void = () => {}
    state.metrics = new Promise((resolve) => (answer = resolve))
    t.teardown(() => answer(''))
    const client = connect(address.port, address.host)
    const lines = (path: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`
    client.write(lines('/metrics') + lines('/api/v1/events'))
    await eventually(() => events.streams === 1, 'the feed has the stream')
    client.resetAndDestroy()
    await eventually(() => events.streams === 0, 'it is forgotten')
  },
)

void t.test(
  'the page is served to every client, under a policy that allows only its own files',
  async (t) => {
    const { ask } = await serve(t, { token: 'open-sesame' })
    const files: [path: string, type: string][] = [
      ['/', 'text/html; charset=utf-8'],
      ['/page/app.js', 'text/javascript; charset=utf-8'],
      ['/page/app.css', 'text/css; charset=utf-8'],
      ['/page/icon.svg', 'image/svg+xml'],
    ]
    for (const [path, type] of files) {
      const { status, headers, text } = await ask({ path })
      t.equal(status, 200, path)
      t.match(headers, {
        'content-type': type,
        'content-security-policy':
          /^default-src 'none'; script-src 'self'; style-src 'self';.*frame-ancestors 'none'/,
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'no-referrer',
      })
      t.notMatch(text, 'sesame')
    }
    t.equal((await ask({ method: 'HEAD', path: '/' })).status, 200)
    for (const path of [
      '/page/none.js',
      '/page/..%2fpackage.json',
      '/page/tsconfig.json',
      '/page/shapes.d.ts',
    ])
      t.match(
        await ask({ path }),
        { status: 404, json: { error: { code: 'BATON_ERR_ADMIN_NO_ROUTE' } } },
        path,
      )
    for (const path of ['/page/', '/page/../package.json', '/package.json'])
      t.match(await ask({ path }), { status: /^40[14]$/ }, path)
    t.equal((await ask({ path: '/', headers: { host: 'evil.example' } })).status, 403)
  },
)

void t.test('every code has a status', async (t) => {
  for (const [code, status] of Object.entries(ADMIN_ERRORS)) {
    t.equal(new AdminError(code as keyof typeof ADMIN_ERRORS, 'x').statusCode, status)
  }
})

void t.test('the error for an address in use names the address and the key', async (t) => {
  const { address, admin } = await serve(t)
  const text = address.kind === 'tcp' ? `${address.host}:${address.port}` : ''
  const { view } = fakeView()
  const second = createAdmin({
    config: { runtimeDir: '/nonexistent', admin: { listen: address, token: null } },
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
    t.ok(existsSync(path), 'the file of the dead process exists')

    const { ask, admin, address } = await serve(t, { listen: `unix:${path}` })
    t.same(address, { kind: 'unix', path })
    t.equal(statSync(path).mode & 0o777, 0o600)
    t.equal((await ask({ path: '/api/v1/status', headers: { host: 'anything' } })).status, 200)

    const { view } = fakeView()
    const config = { runtimeDir: '/nonexistent', admin: { listen: address, token: null } }
    const second = createAdmin({ config, view, logger: pino({ level: 'silent' }) })
    await t.rejects(second.listen(), /admin\.listen: unix:.* is in use by another process \(EADDRINUSE\)/)
    await second.close()
    t.equal((await ask({ path: '/healthz' })).status, 200, 'the first one serves on')
    await admin.close()

    writeFileSync(path, 'not a socket')
    const third = createAdmin({ config, view, logger: pino({ level: 'silent' }) })
    await t.rejects(third.listen(), /EADDRINUSE/)
    t.ok(statSync(path).isFile(), 'another program’s file stays')
    await third.close()
  },
)

void t.test('a response in flight when the server drains does not keep its connection', async (t) => {
  const { admin, ask, view } = await serve(t)
  // Otherwise a browser that reloads the broker would stay with the worker that answered, and miss the next one.
  let reloaded: () => void = () => {}
  const asked = new Promise<void>((resolve) => {
    view.reload = () => {
      resolve()
      return new Promise((done) => {
        reloaded = () => done({ success: true, log: [] })
      })
    }
  })
  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  t.equal((await ask({ path: '/api/v1/status', agent })).headers['connection'], 'keep-alive')
  const answer = ask({ method: 'POST', path: '/api/v1/reload', agent })
  await asked
  const left = admin.drain()
  reloaded()
  t.match(await answer, { status: 200, headers: { connection: 'close' } })
  await left
})

/** Requests of clients that keep their connections without using them. */
const HOARDERS = {
  'says nothing': '',
  'sends half a head': 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ',
  'sends half a body':
    'POST /api/v1/services/web/drain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{',
  'asks and keeps the connection': 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n',
  'reads no answer': 'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(20),
}

for (const [what, text] of Object.entries(HOARDERS)) {
  void t.test(
    `/healthz and /metrics answer while hundreds of clients keep a connection: each ${what}`,
    { timeout: LIMIT },
    async (t) => {
      // Any user of the host could take all of the worker's descriptors; and once there was a limit, all of the connections.
      const { address, ask, logged } = await serve(t)
      if (address.kind !== 'tcp') throw new Error('not TCP')
      const stream = connect(address.port, address.host)
      t.teardown(() => stream.destroy())
      stream.write('GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n')
      await once(stream, 'data')
      const sockets = new Set<Socket>()
      t.teardown(() => sockets.forEach((socket) => socket.destroy()))
      for (let round = 0; round < 8; round++) {
        for (let index = 0; index < 50; index++) {
          const socket = connect(address.port, address.host)
          sockets.add(socket)
          socket.on('error', () => {}).once('close', () => sockets.delete(socket))
          if (text !== '') socket.write(text)
          if (what !== 'reads no answer') socket.resume()
        }
        t.equal((await ask({ path: '/healthz' })).status, 200)
        t.equal((await ask({ path: '/metrics' })).status, 200)
      }
      // A client that does not read does not see the end of its connection.
      for (const socket of sockets) socket.resume()
      await eventually(
        () => sockets.size <= MAX_CONNECTIONS,
        () => `at most ${MAX_CONNECTIONS} are kept: ${sockets.size}`,
      )
      t.notOk(stream.destroyed, 'a stream of events is not cut off for others')
      t.ok(logged.filter((line) => line.includes('too many admin connections')).length <= 1)
    },
  )
}

void t.test(
  'short of descriptors, the admin server keeps fewer connections',
  { timeout: LIMIT },
  async (t) => {
    let pressed = false
    const { address, ask } = await serve(t, { pressed: () => pressed })
    if (address.kind !== 'tcp') throw new Error('not TCP')
    const sockets = Array.from({ length: 100 }, () => connect(address.port, address.host))
    t.teardown(() => sockets.forEach((socket) => socket.destroy()))
    for (const socket of sockets) socket.resume().on('error', () => {})
    await Promise.all(sockets.map((socket) => once(socket, 'connect')))
    t.equal((await ask({ path: '/healthz' })).status, 200)
    pressed = true
    t.equal((await ask({ path: '/healthz' })).status, 200)
    const open = () => sockets.filter(({ destroyed }) => !destroyed).length
    await eventually(
      () => open() < 32,
      () => `${open()} are left`,
    )
  },
)

/** The server's response to these bytes, to the end of the connection. */
async function sayRaw(port: number, bytes: string): Promise<string> {
  const client = connect(port, '127.0.0.1')
  let answer = ''
  client.on('data', (chunk) => (answer += String(chunk))).on('error', () => {})
  client.write(bytes)
  await once(client, 'close')
  return answer
}

void t.test(
  'requests refused by the HTTP parser get the same form of error as others',
  { timeout: LIMIT },
  async (t) => {
    const { address } = await serve(t)
    if (address.kind !== 'tcp') throw new Error('not TCP')
    const host = 'Host: localhost\r\n'
    const post = `POST /api/v1/services/web/drain HTTP/1.1\r\n${host}Content-Type: application/json\r\n`
    const cases: [bytes: string, code: keyof typeof ADMIN_ERRORS][] = [
      ['this is not HTTP\r\n\r\n', 'BATON_ERR_ADMIN_BAD_REQUEST'],
      ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'BATON_ERR_ADMIN_BAD_REQUEST'],
      ['\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 'BATON_ERR_ADMIN_BAD_REQUEST'],
      ['GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n', 'BATON_ERR_ADMIN_BAD_REQUEST'],
      [
        `POST /api/v1/reload HTTP/1.1\r\n${host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n`,
        'BATON_ERR_ADMIN_BAD_REQUEST',
      ],
      [
        `GET /healthz HTTP/1.1\r\n${host}X: ${'x'.repeat(20_000)}\r\n\r\n`,
        'BATON_ERR_ADMIN_HEADERS_TOO_LARGE',
      ],
      [`GET /${'x'.repeat(20_000)} HTTP/1.1\r\n${host}\r\n`, 'BATON_ERR_ADMIN_URI_TOO_LONG'],
      [`CONNECT db:5432 HTTP/1.1\r\n${host}\r\n`, 'BATON_ERR_ADMIN_METHOD'],
      [`GET /healthz HTTP/1.1\r\n${host}X: half`, 'BATON_ERR_ADMIN_TIMEOUT'],
      // Their handler has started, but nothing was answered yet.
      [`${post}Content-Length: 10\r\n\r\n{`, 'BATON_ERR_ADMIN_TIMEOUT'],
      [`${post}Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n`, 'BATON_ERR_ADMIN_TIMEOUT'],
      [`${post}Transfer-Encoding: chunked\r\n\r\nzz\r\n`, 'BATON_ERR_ADMIN_BAD_REQUEST'],
      ['', 'BATON_ERR_ADMIN_TIMEOUT'],
    ]
    await Promise.all(
      cases.map(async ([bytes, code]) => {
        const answer = await sayRaw(address.port, bytes)
        const [head = '', body = ''] = answer.split('\r\n\r\n')
        t.match(head, new RegExp(`^HTTP/1.1 ${ADMIN_ERRORS[code]} `), JSON.stringify(bytes.slice(0, 40)))
        t.match(head, /^content-type: application\/json/im)
        t.match(JSON.parse(body || '{}'), { error: { code, message: /./ } })
      }),
    )
    const unknown = await sayRaw(
      address.port,
      `GET /healthz HTTP/1.1\r\n${host}Expect: nothing\r\nConnection: close\r\n\r\n`,
    )
    t.match(unknown, /^HTTP\/1.1 200 /)
  },
)

void t.test('requests that pile up on one connection are refused', { timeout: LIMIT }, async (t) => {
  // One read gives Node thousands of them, and all were handled in one turn: the worker was taken for hung, and killed.
  const { address, ask, state } = await serve(t)
  if (address.kind !== 'tcp') throw new Error('not TCP')
  let handled = 0
  let finish: (text: string) => void = () => {}
  const text = new Promise<string>((resolve) => (finish = resolve))
  Object.defineProperty(state, 'metrics', { get: () => ((handled += 1), text) })
  const client = connect(address.port, address.host)
  t.teardown(() => client.destroy())
  let answers = ''
  client.setEncoding('utf8').on('data', (chunk: string) => (answers += chunk))
  client.write('GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(1000))
  await eventually(() => handled > 0, 'the first ones are handled')
  t.equal((await ask({ path: '/healthz' })).status, 200)
  t.equal(handled, MAX_PIPELINED, 'and no others')
  finish('# the text\n')
  await once(client, 'close')
  t.equal(answers.split('# the text').length - 1, MAX_PIPELINED, 'they are answered')
  const last = answers.slice(answers.lastIndexOf('HTTP/1.1'))
  t.match(
    last,
    /^HTTP\/1.1 429 [^]*BATON_ERR_ADMIN_TOO_MANY_REQUESTS/,
    'and one response gives the reason for the end',
  )

  const flood = connect(address.port, address.host)
  t.teardown(() => flood.destroy())
  const cut = new Promise((resolve) => flood.on('close', resolve))
  flood.on('error', () => {})
  flood.write('GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(20_000))
  await cut
  t.pass('a client that keeps sending is cut off, also during an endless response')
})

void t.test('close ends a connection that sends half a request', { timeout: LIMIT }, async (t) => {
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
