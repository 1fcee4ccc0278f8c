import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import t, { type Test } from 'tap'

import type { Status } from '../src/api/status.ts'
import { coloured, plain, wantsColours } from '../src/cli/output/colours.ts'
import { quotedForShell } from '../src/cli/completion/words.ts'
import { run } from '../src/cli/program.ts'
import { table } from '../src/cli/output/table.ts'
import { describeRecord, listRecords } from '../src/cli/output/timeline.ts'
import { cut, depth, fit } from '../src/cli/top/fit.ts'
import { elapsed, frameOf, linesOf } from '../src/cli/top/frame.ts'
import { Snapshots } from '../src/cli/top/snapshot.ts'
import { sparkline } from '../src/cli/top/frame.ts'
import { type Observation, watch } from '../src/cli/top/watch.ts'
import { loadConfig } from '../src/config/config.ts'
import type { ServiceRates } from '../src/api/events.ts'
import { printable } from '../src/log/printable.ts'
import { readable } from '../src/log/readable.ts'
import type { FlightRecord } from '../src/api/flight-record.ts'
import { backend, healthy } from './worker-view.ts'

// The parts of the terminal output, one by one. test/slow/terminal.test.ts runs the commands.

const ESC = '\u001B'

void t.test('NO_COLOR: any value that is not empty', async (t) => {
  t.equal(wantsColours({}), true)
  t.equal(wantsColours({ NO_COLOR: '' }), true)
  for (const value of ['1', '0', 'false']) t.equal(wantsColours({ NO_COLOR: value }), false, value)
})

void t.test('the name of a backend cannot control the terminal', async (t) => {
  t.equal(printable('1.2.3-ü ✓'), '1.2.3-ü ✓')
  t.equal(printable(`${ESC}[2J\u009B1m\r\n\u202E`), String.raw`\u{1b}[2J\u{9b}1m\u{d}\u{a}\u{202e}`)
  t.same(table([['VERSION'], [`${ESC}]0;owned\u0007`]]), ['VERSION', String.raw`\u{1b}]0;owned\u{7}`])
})

void t.test('a readable log: text from backends cannot control the terminal', async (t) => {
  // A backend's reason for draining was printed unescaped in the terminal of `baton run`: it could move the cursor, or print
  // lines that looked like the broker's.
  const line = (entry: object) => readable(JSON.stringify({ level: 30, time: 1, name: 'baton', ...entry }))
  t.equal(
    line({ slot: 'web-1', reason: `done${ESC}[2J\u009B1m`, msg: 'backend is draining' }),
    String.raw`backend is draining: done\u{1b}[2J\u{9b}1m slot=web-1`,
  )
  t.equal(
    line({ level: 50, reason: 'first\nsecond', msg: 'refused' }),
    'error: refused: first\n  second',
    'a multi-line text keeps its lines, and none looks like another entry',
  )
  t.equal(line({ version: '1\u202E\u009B', msg: 'new' }), String.raw`new version="1\u{202e}\u{9b}"`)
  const printed = `${ESC}[32mready${ESC}[0m`
  t.equal(
    line({ instance: 'web-1', stream: 'stdout', msg: printed }),
    `web-1 | ${printed}`,
    'the output of a managed backend is unchanged, including colours',
  )
})

void t.test('a table: columns of numbers are right-aligned, styles take no width', async (t) => {
  const rows = [
    ['NAME', 'STATE', 'LOAD', 'MS'],
    ['web-1', { text: 'ready', style: 'green' }, 7, { text: '1.5', right: true }],
    ['a', { text: 'gone' }, '-', { text: '-', right: true }],
  ] as const
  t.same(table(rows), ['NAME   STATE  LOAD   MS', 'web-1  ready     7  1.5', 'a      gone      -    -'])
  const painted = table(rows, coloured)
  t.equal(painted[1], `web-1  ${ESC}[32mready${ESC}[39m     7  1.5`)
  t.equal(painted[0], `${ESC}[1mNAME   STATE  LOAD   MS${ESC}[22m`)
})

void t.test('a line is cut by its visible width', async (t) => {
  t.equal(cut('abcdef', 4), 'abcd')
  t.equal(
    cut(`${ESC}[1mab${ESC}[22m${ESC}[31mcdef${ESC}[39m`, 3),
    `${ESC}[1mab${ESC}[22m${ESC}[31mc${ESC}[39m`,
  )
  t.equal(cut('▁▂▃', 2), '▁▂')
})

void t.test('a frame is as high as the screen, and its body can be scrolled to its end', async (t) => {
  const frame = { head: ['head'], body: ['1', '2', '3', '4', '5'] }
  const screen = { columns: 10, rows: 4 }
  t.same(fit(frame, screen, { offset: 0, foot: 'foot' }), ['head', '1', '2', 'foot'])
  t.equal(depth(frame, 4), 3)
  t.same(fit(frame, screen, { offset: 3, foot: 'foot' }), ['head', '4', '5', 'foot'])
  t.equal(depth(frame, 40), 0)
  t.same(fit(frame, { columns: 10, rows: 8 }, { offset: 0, foot: 'foot' }).length, 8)
  t.same(fit(frame, { columns: 10, rows: 1 }, { offset: 0, foot: 'foot' }), ['head'], 'no room for more')
})

void t.test('small things', async (t) => {
  t.equal(sparkline([0, 1, 2, 4, 8]), '▁▂▃▅█')
  t.equal(sparkline([0, 0]), '▁▁')
  t.equal(sparkline([]), '')
  t.same([0, 999, 59_000, 185_000, 7_380_000, 435_600_000, -1, Number.NaN].map(elapsed), [
    '0s',
    '0s',
    '59s',
    '3m 5s',
    '2h 3m',
    '5d 1h',
    '-',
    '-',
  ])
})

const RATES: ServiceRates = {
  handoffsPerSecond: 120.25,
  acceptedPerSecond: 121,
  latencyMs: { p50: 0.125, p90: 0.5, p99: 12.5 },
  fallbacksPerSecond: { 'next_backend/BackendGone': 0.5, 'reject/NoReadyBackend': 1 },
  rejectsPerSecond: { hold_timeout: 1 },
  handBacksPerSecond: 2.5,
  notTakenPerSecond: { 'given_back/TooMany': 0.2 },
  fallbacks: { 'next_backend/BackendGone': 40, 'hold/WouldBlock': 3, 'reject/NoReadyBackend': 7 },
  rejects: { hold_timeout: 7, hold_full: 0 },
  notTaken: { 'given_back/TooMany': 5 },
}

/** Like `healthy`, some time later. */
function later(changes: { handedOff?: number; rejected?: number; accepted?: number; id?: string }): Status {
  const { handedOff = 0, rejected = 0, accepted = 0, id = healthy.broker.id } = changes
  const [service] = healthy.services
  const [listener] = healthy.listeners
  if (service === undefined || listener === undefined) throw new Error('none')
  const { outcomes } = service
  return {
    broker: { ...healthy.broker, id },
    listeners: [{ ...listener, accepted: listener.accepted + accepted }],
    services: [
      {
        ...service,
        outcomes: {
          ...outcomes,
          handed_off: outcomes.handed_off + handedOff,
          rejected: outcomes.rejected + rejected,
        },
        backends: [backend('web-1', { adopted: 10 + handedOff }), backend('web-3')],
      },
    ],
  }
}

const AT = Date.parse('2026-01-02T03:14:00.000Z')

void t.test('rates: the broker’s own, if it sends events', async (t) => {
  const snapshots = new Snapshots()
  snapshots.next(AT, healthy, { web: RATES })
  const snapshot = snapshots.next(AT + 2000, later({ handedOff: 30 }), { web: RATES })
  t.match(snapshot.rates.get('web'), {
    accepted: 121,
    handoffs: 120.25,
    handBacks: 2.5,
    rejects: 1,
    // A rejection is reported once, by its own reason.
    fallbacks: 0.5,
    latencyMs: { p99: 12.5 },
    reasons: [
      { what: 'reject/hold_timeout', perSecond: 1, total: 7 },
      { what: 'next_backend/BackendGone', perSecond: 0.5, total: 40 },
      { what: 'given_back/TooMany', perSecond: 0.2, total: 5 },
      { what: 'hold/WouldBlock', perSecond: 0, total: 3 },
    ],
  })
  t.same([...snapshot.adopted], [['01J0000000000000000000WEB-1', 15]], 'web-3 was not there before')
})

void t.test('rates: the difference of two answers, if it does not', async (t) => {
  const snapshots = new Snapshots()
  const first = snapshots.next(AT, healthy, undefined)
  t.match(first.rates.get('web'), { accepted: null, handoffs: null, rejects: null })
  const second = snapshots.next(AT + 2000, later({ handedOff: 30, rejected: 1, accepted: 40 }), undefined)
  t.match(second.rates.get('web'), {
    accepted: 20,
    handoffs: 15,
    rejects: 0.5,
    fallbacks: null,
    latencyMs: null,
    reasons: [],
  })
  const successor = snapshots.next(AT + 3000, later({ id: '01J00000000000000000OTHER0' }), undefined)
  t.match(successor.rates.get('web'), { handoffs: null }, 'a new worker counts from 0')
  t.equal(successor.adopted.size, 0)
})

void t.test('the screen of top', async (t) => {
  const snapshots = new Snapshots()
  const [web] = healthy.services
  const status = { ...healthy, services: web === undefined ? [] : [{ ...web, parked: 7 }] }
  const snapshot = snapshots.next(AT, status, { web: RATES })
  const { head, body } = frameOf(snapshot, { paint: plain, history: [0, 60, 120.3] })
  t.same(head, [
    'baton 1.2.3  running  up 10m 0s  master 3999, worker 4000  03:14:00',
    'handoffs/s 120.3  ▁▄█',
  ])
  t.same(body, [
    '',
    'SERVICE  READY  ACCEPT/S  HANDOFF/S  REJECT/S  FALLBACK/S  HELD  P50 MS  P90 MS  P99 MS  PARKED  BACK/S  IN FLIGHT  STUCK  RELAYING',
    'web      1/2       121.0      120.3       1.0         0.5     0    0.13    0.50   12.50       7     2.5          1      0         0',
    '',
    'SERVICE  FALLBACK/REASON           PER S  TOTAL',
    'web      reject/hold_timeout         1.0      7',
    'web      next_backend/BackendGone    0.5     40',
    'web      given_back/TooMany          0.2      5',
    'web      hold/WouldBlock             0.0      3',
    '',
    'BACKEND    STATE     LOAD  ADOPT/S  BACK  LAG MS  WEIGHT   PID      UP  VERSION',
    'web/web-1  ready        3        -     0     1.3       1  4242  9m 55s  2.0.1',
    'web/web-2  draining     3        -     0       -       1  4242  9m 55s  -',
  ])
  t.match(cut(body[1] ?? '', 80), /HELD {2}P50 MS {2}P90 MS $/, 'as much as ever on 80 columns')
  t.match(cut(body[1] ?? '', 100), /PARKED/)
  const lost = frameOf(snapshot, { paint: plain, history: [], lost: `no answer${ESC}` })
  t.equal(lost.head[1], String.raw`retrying: no answer\u{1b}`)

  const polled = snapshots.next(AT, { ...healthy, services: [] }, undefined)
  const frame = frameOf(polled, { paint: plain, history: [] })
  t.match(frame.head[0], /no events: polling once a second$/)
  t.equal(frame.body.at(-1), 'no backend is registered')
  const closed = { ...healthy, listeners: healthy.listeners.map((each) => ({ ...each, accepting: false })) }
  t.match(
    frameOf(snapshots.next(AT, closed, {}), { paint: plain, history: [] }).head[0],
    /not accepting: http$/,
  )
})

void t.test('the output of top without a terminal', async (t) => {
  const [line] = linesOf(new Snapshots().next(AT, healthy, { web: RATES }))
  t.equal(
    line,
    'time=2026-01-02T03:14:00.000Z service=web ready=1 backends=2 accepted_per_second=121.0 handoffs_per_second=120.3 ' +
      'p50_ms=0.125 p90_ms=0.500 p99_ms=12.500 held=0 in_flight=1 stuck=0 relaying=0 fallbacks_per_second=0.5 rejects_per_second=1.0 ' +
      'parked=0 hand_backs_per_second=2.5 paused=0 maintenance=0',
  )
  const [unknown] = linesOf(new Snapshots().next(AT, healthy, undefined))
  t.match(unknown, / handoffs_per_second=- p50_ms=- /)
  const { maintenance: _, ...web } = healthy.services[0]!
  const services = [{ ...web, paused: { since: '2026-01-02T03:14:00.000Z', until: null } }]
  const [paused] = linesOf(new Snapshots().next(AT, { ...healthy, services }, undefined))
  t.match(paused, / paused=1 maintenance=-$/)
})

const RECORD: FlightRecord = {
  id: '01J00000000000000000000000',
  service: 'web',
  listener: 'http',
  peer: '127.0.0.1:5000',
  acceptedAt: '2026-01-02T03:04:05.678Z',
  outcome: 'handed_off',
  reason: null,
  backend: { id: '01J0000000000000000000WEB2', slot: 'web-2' },
  durationMs: 500.25,
  steps: [
    { at: 0, step: 'accepted' },
    { at: 0.02, step: 'offered', backend: 'web-1' },
    { at: 500, step: 'returned', backend: 'web-1', reason: 'BackendAckTimeout' },
    { at: 500.05, step: 'offered', backend: 'web-2' },
    { at: 500.25, step: 'acknowledged', backend: 'web-2' },
  ],
}

void t.test('the timeline of a connection', async (t) => {
  t.same(describeRecord(RECORD, plain), [
    'connection 01J00000000000000000000000: handed_off after 500.250 ms',
    'service web, listener http, client 127.0.0.1:5000, accepted 2026-01-02T03:04:05.678Z',
    'backend web/web-2, 01J0000000000000000000WEB2',
    '',
    '  AT MS  0                     500.250 ms  STEP          BACKEND  REASON',
    '  0.000  ●                                 accepted',
    '  0.020  ●                                 offered       web-1',
    '500.000  ───────────────────────────────●  returned      web-1    BackendAckTimeout',
    '500.050                                 ●  offered       web-2',
    '500.250                                 ●  acknowledged  web-2',
  ])
  const held = { ...RECORD, outcome: null, durationMs: null, backend: null, steps: RECORD.steps.slice(0, 1) }
  t.match(describeRecord(held, plain)[0], /: not yet settled$/)
  const rejected: FlightRecord = { ...RECORD, outcome: 'rejected', reason: 'hold_timeout' }
  t.match(describeRecord(rejected, plain)[0], /: rejected after 500\.250 ms \(hold_timeout\)$/)
  t.match(describeRecord(rejected, coloured)[0], `${ESC}[31mrejected${ESC}[39m`)
  const later = { ...RECORD, outcome: 'of a newer broker', steps: [{ at: 0, step: 'constructor' }] }
  t.match(
    describeRecord(later as unknown as FlightRecord, coloured).join('\n'),
    /of a newer broker[^]*constructor/,
  )
})

void t.test('the timeline of a connection that has outlived a process', async (t) => {
  const parked: FlightRecord = {
    ...RECORD,
    outcome: null,
    backend: null,
    durationMs: 0.25,
    steps: [
      { at: 0, step: 'accepted' },
      { at: 0.25, step: 'acknowledged', backend: 'web-1' },
      { at: 400, step: 'handed_back', backend: 'web-1', omitted: 12 },
      { at: 400, step: 'parked' },
    ],
  }
  t.same(describeRecord(parked, plain), [
    'connection 01J00000000000000000000000: parked, until its next request',
    'service web, listener http, client 127.0.0.1:5000, accepted 2026-01-02T03:04:05.678Z',
    '',
    '  AT MS  0                     400.000 ms  STEP          BACKEND  REASON',
    '  0.000  ●                                 accepted',
    '  0.250  ●                                 acknowledged  web-1',
    '    ...                                    12 steps',
    '400.000  ───────────────────────────────●  handed_back   web-1',
    '400.000                                 ●  parked',
  ])
  t.match(listRecords([parked], plain)[1], / parked +0\.250 +- .* handed_back by web-1$/)
  const closed: FlightRecord = {
    ...parked,
    outcome: 'idle_closed',
    steps: [...parked.steps, { at: 900, step: 'idle_closed' }],
  }
  t.match(describeRecord(closed, plain)[0], /: idle_closed$/)
})

void t.test('a list of connections', async (t) => {
  t.same(listRecords([RECORD], plain), [
    'ID                          SERVICE  OUTCOME          MS  BACKEND  STEPS  ACCEPTED                  DETOURS',
    '01J00000000000000000000000  web      handed_off  500.250  web-2        5  2026-01-02T03:04:05.678Z  returned by web-1: BackendAckTimeout',
  ])
})

/** A server that answers with `answer`, and a configuration that points to it. */
async function answering(
  t: Test,
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<string> {
  const server = createServer(answer).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const folder = mkdtempSync(join(tmpdir(), 'baton-'))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
    rmSync(folder, { recursive: true })
  })
  const file = join(folder, 'baton.json')
  const { port } = server.address() as AddressInfo
  writeFileSync(
    file,
    JSON.stringify({
      runtimeDir: join(folder, 'run'),
      admin: { listen: `127.0.0.1:${port}` },
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: {} },
    }),
  )
  return file
}

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}

function refusal(response: ServerResponse, status: number, code: string, message: string): void {
  json(response, status, { error: { code, message } })
}

/** The first `count` observations of a watcher. */
async function seen(file: string, count: number): Promise<Observation[]> {
  const end = new AbortController()
  const all: Observation[] = []
  for await (const look of watch(async () => loadConfig(file), end.signal)) {
    all.push(look)
    if (all.length === count) break
  }
  end.abort()
  return all
}

const statusEvent = `event: status\ndata: ${JSON.stringify({
  at: new Date(AT).toISOString(),
  status: healthy,
  services: { web: RATES },
})}\n\n`

void t.test('a stream that ends is reopened', async (t) => {
  let streams = 0
  const file = await answering(t, (_request, response) => {
    streams += 1
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.end(`: hello\n\nevent: change\ndata: {}\n\n${statusEvent}`)
  })
  const all = await seen(file, 2)
  t.match(all, [
    { kind: 'snapshot', snapshot: { source: 'events', at: AT } },
    { kind: 'snapshot', snapshot: { source: 'events' } },
  ])
  t.equal(streams, 2)
})

void t.test('a broker without events, or with too many streams, is polled', async (t) => {
  for (const [status, code] of [
    [404, 'BATON_ERR_ADMIN_NO_ROUTE'],
    [503, 'BATON_ERR_ADMIN_SOMETHING'],
  ] as const) {
    const file = await answering(t, ({ url }, response) => {
      if (url === '/api/v1/status') json(response, 200, healthy)
      else refusal(response, status, code, 'no')
    })
    t.match(await seen(file, 2), [
      { kind: 'snapshot', snapshot: { source: 'polling' } },
      { kind: 'snapshot', snapshot: { source: 'polling' } },
    ])
  }
})

void t.test('a wrong token, another server, and no server are reported as lost', async (t) => {
  const refusing = await answering(t, (_request, response) =>
    refusal(response, 401, 'BATON_ERR_ADMIN_UNAUTHORIZED', 'the token is wrong'),
  )
  const code = 'BATON_ERR_ADMIN_UNAUTHORIZED'
  t.same(await seen(refusing, 1), [{ kind: 'lost', message: 'the token is wrong', code }])
  const stranger = await answering(t, (_request, response) => response.end('<h1>hello</h1>'))
  t.match(await seen(stranger, 1), [{ kind: 'lost', message: /is not a Baton broker \(it answered 200\)$/ }])
  const odd = await answering(t, (_request, response) =>
    response
      .writeHead(200, { 'content-type': 'text/event-stream' })
      .end('event: status\ndata: {"status":{}}\n\n'),
  )
  t.match(await seen(odd, 1), [{ kind: 'lost', message: /without a status; is it a different version\?$/ }])
  const gone = await answering(t, (request) => request.socket.destroy())
  t.match(await seen(gone, 1), [{ kind: 'lost', message: /^cannot reach the broker at / }])
})

/** Runs `baton ARGS...` in this process until it has printed `enough` lines. */
async function baton(enough: number, ...args: string[]) {
  const out: string[] = []
  const err: string[] = []
  const unread = new AbortController()
  const code = await run(args, {
    out: (line) => {
      out.push(line)
      if (out.length === enough) unread.abort()
    },
    err: (line) => err.push(line),
    unread: unread.signal,
  })
  return { code, out, err }
}

void t.test('events: one line each, and continues after an interruption', async (t) => {
  const change = {
    at: '2026-01-02T03:04:05.678Z',
    kind: 'backend_state',
    service: 'web',
    backend: { id: '01J0000000000000000000WEB1', slot: 'web-1', version: `${ESC}[2J`, pid: 1 },
    from: 'ready',
    to: 'draining',
    by: 'uid 0',
    text: `web-1 is draining${ESC}[2J`,
  }
  let streams = 0
  const file = await answering(t, (request, response) => {
    streams += 1
    // The broker is gone for a moment.
    if (streams === 2) {
      request.socket.destroy()
      return
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.end(`${statusEvent}event: change\nid: 7\ndata: ${JSON.stringify(change)}\n\n`)
  })
  const line = String.raw`2026-01-02T03:04:05.678Z  backend_state         web/web-1  web-1 is draining\u{1b}[2J (by uid 0)`
  const followed = await baton(2, 'events', '--config', file)
  t.match(followed, { code: 0, out: [line, line] })
  t.match(followed.err, [
    /^baton: cannot reach the broker at .* \(retrying\)$/,
    /^baton: reconnected to worker 01J00000000000000000BROKER, version 1\.2\.3$/,
  ])
  streams = 2
  const { out } = await baton(1, 'events', '--json', '--config', file)
  t.same(
    out.map((text) => JSON.parse(text) as unknown),
    [change],
  )
})

void t.test('events, trace and top with a broker that has none of it, or refuses', async (t) => {
  const old = await answering(t, (_request, response) =>
    refusal(response, 404, 'BATON_ERR_ADMIN_NO_ROUTE', 'there is no GET /api/v1/events'),
  )
  t.same(await baton(0, 'events', '--config', old), {
    code: 1,
    out: [],
    err: ['baton: the broker has no events; is it a different version? (BATON_ERR_UNEXPECTED_ANSWER)'],
  })
  t.match(await baton(0, 'trace', '--slowest', '5', '--config', old), {
    code: 1,
    err: [
      'baton: the broker has no flight recorder; is it a different version? (BATON_ERR_UNEXPECTED_ANSWER)',
    ],
  })
  const refusing = await answering(t, (_request, response) =>
    refusal(response, 401, 'BATON_ERR_ADMIN_UNAUTHORIZED', 'the token is wrong'),
  )
  const commands = [['events'], ['top'], ['top', '--once'], ['trace', RECORD.id]]
  for (const args of commands)
    t.same(await baton(0, ...args, '--config', refusing), {
      code: 1,
      out: [],
      err: ['baton: the token is wrong (BATON_ERR_ADMIN_UNAUTHORIZED)'],
    })
})

void t.test('trace says why nothing is recorded', async (t) => {
  let capacity = 8
  const file = await answering(t, (_request, response) =>
    json(response, 200, { connections: [], recorded: 0, capacity }),
  )
  const trace = () => baton(0, 'trace', '--slowest', '5', '--config', file)
  t.match(await trace(), { code: 0, out: [/^no connection is recorded yet: .* reload /] })
  capacity = 0
  t.match(await trace(), {
    code: 0,
    out: ['no connection is recorded: "recorder" is 0 in the configuration'],
  })
})

void t.test('a path in a command to be typed is quoted where a shell would split it', async (t) => {
  t.equal(quotedForShell('/tmp/baton-run-x1/baton.json'), '/tmp/baton-run-x1/baton.json')
  t.equal(quotedForShell("/tmp/my app's/baton.json"), String.raw`'/tmp/my app'\''s/baton.json'`)
})

void t.test('trace sends the typed query', async (t) => {
  const asked: string[] = []
  const file = await answering(t, ({ url = '' }, response) => {
    asked.push(url)
    json(response, 200, url.includes('?') ? { connections: [RECORD], recorded: 1, capacity: 8 } : RECORD)
  })
  const one = await baton(0, 'trace', RECORD.id.toLowerCase(), '--config', file)
  t.match(one, { code: 0, err: [] })
  t.same(one.out, describeRecord(RECORD, plain))
  const raw = await baton(0, 'trace', RECORD.id, '--json', '--config', file)
  t.same(JSON.parse(raw.out.join('\n')), RECORD)
  const list = await baton(0, 'trace', '--slowest', '7', '--service', 'a b', '--config', file)
  t.same(list.out, listRecords([RECORD], plain))
  t.same(asked, [
    `/api/v1/connections/${RECORD.id}`,
    `/api/v1/connections/${RECORD.id}`,
    '/api/v1/connections?slowest=true&limit=7&service=a+b',
  ])
})
