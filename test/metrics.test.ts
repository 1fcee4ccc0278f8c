import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { NACK_REASONS, type NackReason, type Offer } from '@baton/backend-sdk/protocol'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { LIMIT, starts } from './support/limits.ts'
import { Program, root } from './support/process.ts'

// The operator's view: /metrics, /healthz and /readyz of a real broker, after real traffic and real failures.

/** No deadline expires except where a scene is about that. */
const PATIENT = { ackDeadline: '10m', tokenTtl: '20m', holdTimeout: '20m' }
const HELD_BRIEFLY = { holdTimeout: '300ms' }
const SERVICES = {
  web: PATIENT,
  brief: HELD_BRIEFLY,
  full: { ...PATIENT, maxHeld: 1 },
  raw: HELD_BRIEFLY,
  refused: { ...PATIENT, failureLimit: { failures: 1000 } },
  // Far longer than it takes to connect three clients and to take two of them, and shorter than the three heartbeats that a scripted backend may miss.
  silent: { ...PATIENT, ackDeadline: Math.min(starts(0.2), 3000), maxStuck: 1 },
}
type Service = keyof typeof SERVICES

function start(t: Test): Promise<Broker> {
  return startBroker(t, {
    config: {
      listeners: Object.keys(SERVICES).map((name) => ({
        name,
        listen: '127.0.0.1:0',
        protocol: name === 'raw' ? 'tcp' : 'http',
        service: name,
      })),
      services: SERVICES,
      drainDeadline: '10m',
    },
  })
}

/** Every sample of the exposition; the key is the series as printed. */
async function samples(broker: Broker): Promise<Map<string, number>> {
  const text = await broker.metrics()
  return new Map(
    text
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map((line) => {
        const space = line.lastIndexOf(' ')
        return [line.slice(0, space), Number(line.slice(space + 1))]
      }),
  )
}

/** The counters that have changed since, and by how much; gauges are left out. */
function moved(before: Map<string, number>, after: Map<string, number>): Record<string, number> {
  return Object.fromEntries(
    [...after]
      .filter(([series]) => /^baton_\w+_(total|count)\b/.test(series))
      .map(([series, value]) => [series, value - (before.get(series) ?? 0)] as const)
      .filter(([, by]) => by !== 0),
  )
}

/** One process with an honest backend for each service that it has joined. */
class Honest {
  readonly program: Program
  #asked = 0

  constructor(t: Test, broker: Broker) {
    this.program = new Program(t, process.execPath, [join(root, 'test/programs/service-backends.mjs')], {
      env: { BATON_SOCKET: broker.control },
    })
  }

  get pid(): number {
    return this.program.pid
  }

  /** Resolves when the process confirms. */
  async tell(command: 'join' | 'leave', service: Service): Promise<void> {
    this.#asked += 1
    this.program.say(`${command} ${service}`)
    const done = () => this.program.messages().length === this.#asked
    await eventually(done, `${command} ${service}`)
  }
}

function connectTo(t: Test, broker: Broker, service: Service): Promise<Client> {
  return Client.open(t, { host: '127.0.0.1', port: broker.port(service) })
}

function isHeld(broker: Broker, service: Service, count: number): Promise<unknown> {
  return broker.until(
    ({ services }) => services.find(({ name }) => name === service)?.held === count,
    `${count} clients of ${service} are held`,
  )
}

void t.test(
  'counters move as expected, and no others do; health is correct',
  { timeout: LIMIT },
  async (t) => {
    const broker = await start(t)
    const honest = new Honest(t, broker)
    /** Runs `act` and compares every Baton counter that moved, whatever its name. */
    const counts = (title: string, wanted: Record<string, number>, act: (t: Test) => Promise<void>) =>
      t.test(title, { timeout: LIMIT }, async (t) => {
        const before = await samples(broker)
        await act(t)
        await broker.until(
          (status) =>
            unaccounted(status) === 0 && status.services.every(({ held, inFlight }) => held + inFlight === 0),
          'every client is accounted for',
        )
        t.same(moved(before, await samples(broker)), wanted)
      })

    await counts(
      'handed_off, directly',
      {
        'baton_connections_accepted_total{listener="web"}': 3,
        'baton_connections_total{service="web",outcome="handed_off"}': 3,
        'baton_handoff_duration_seconds_count{service="web"}': 3,
      },
      async (t) => {
        await honest.tell('join', 'web')
        for (let turn = 0; turn < 3; turn++) {
          t.equal((await (await connectTo(t, broker, 'web')).get()).body, String(honest.pid))
        }
        await broker.until(
          ({ services }) => services[0]?.backends[0]?.load === 3,
          'they count as the load of the backend',
        )
        t.equal(await broker.metric('baton_backend_connections{service="web",backend="web-1"}'), 3)
        t.equal(await broker.metric('baton_backends{service="web",state="ready"}'), 1)
      },
    )

    await counts(
      'handed_off, after being held',
      {
        'baton_connections_accepted_total{listener="web"}': 1,
        'baton_connections_total{service="web",outcome="handed_off"}': 1,
        'baton_fallbacks_total{service="web",action="hold",reason="NoReadyBackend"}': 1,
        'baton_handoff_duration_seconds_count{service="web"}': 1,
      },
      async (t) => {
        await honest.tell('leave', 'web')
        await broker.backends(0)
        const client = await connectTo(t, broker, 'web')
        client.request()
        await isHeld(broker, 'web', 1)
        t.equal(await broker.metric('baton_connections_held{service="web"}'), 1)
        t.notOk((await broker.metrics()).includes('backend="web-1"'), 'the series of a backend goes with it')
        await honest.tell('join', 'web')
        t.equal((await client.answer()).status, 200)
      },
    )

    for (const leaves of ['RST', 'FIN'] as const) {
      await counts(
        `client_gone: a client that leaves while it is held, by ${leaves}`,
        {
          'baton_connections_accepted_total{listener="full"}': 1,
          'baton_connections_total{service="full",outcome="client_gone"}': 1,
          'baton_fallbacks_total{service="full",action="hold",reason="NoReadyBackend"}': 1,
        },
        async (t) => {
          const client = await connectTo(t, broker, 'full')
          if (leaves === 'RST') client.request()
          await isHeld(broker, 'full', 1)
          if (leaves === 'RST') client.socket.resetAndDestroy()
          else client.socket.end()
        },
      )
    }

    await counts(
      'rejected, hold_full: a client over the limit is rejected at once; a held one stays held',
      {
        'baton_connections_accepted_total{listener="full"}': 2,
        'baton_connections_total{service="full",outcome="client_gone"}': 1,
        'baton_connections_total{service="full",outcome="rejected"}': 1,
        'baton_rejections_total{service="full",reason="hold_full"}': 1,
        'baton_fallbacks_total{service="full",action="hold",reason="NoReadyBackend"}': 1,
        'baton_fallbacks_total{service="full",action="reject",reason="NoReadyBackend"}': 1,
      },
      async (t) => {
        const waits = await connectTo(t, broker, 'full')
        await isHeld(broker, 'full', 1)
        const turnedAway = await connectTo(t, broker, 'full')
        turnedAway.request()
        t.equal((await turnedAway.answer()).status, 503)
        t.same([waits.open, waits.received], [true, ''])
        waits.socket.end()
      },
    )

    await counts(
      'rejected, hold_timeout on http: 503 with Retry-After, and nothing else',
      {
        'baton_connections_accepted_total{listener="brief"}': 1,
        'baton_connections_total{service="brief",outcome="rejected"}': 1,
        'baton_rejections_total{service="brief",reason="hold_timeout"}': 1,
        'baton_fallbacks_total{service="brief",action="hold",reason="NoReadyBackend"}': 1,
        'baton_fallbacks_total{service="brief",action="reject",reason="NoReadyBackend"}': 1,
      },
      async (t) => {
        const began = performance.now()
        const client = await connectTo(t, broker, 'brief')
        client.request()
        t.equal(await client.ended, 'end', 'a close, not a reset')
        t.ok(performance.now() - began >= 290, 'not before its time')
        const body = 'No backend could take this connection.\n'
        t.equal(
          client.received,
          'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n' +
            `Content-Type: text/plain; charset=utf-8\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
        )
      },
    )

    await counts(
      'rejected, hold_timeout on tcp: a plain close',
      {
        'baton_connections_accepted_total{listener="raw"}': 1,
        'baton_connections_total{service="raw",outcome="rejected"}': 1,
        'baton_rejections_total{service="raw",reason="hold_timeout"}': 1,
        'baton_fallbacks_total{service="raw",action="hold",reason="NoReadyBackend"}': 1,
        'baton_fallbacks_total{service="raw",action="reject",reason="NoReadyBackend"}': 1,
      },
      async (t) => {
        const client = await connectTo(t, broker, 'raw')
        // Half-closed, and on tcp kept: the protocol may only care about the response.
        client.socket.end()
        t.equal(await client.ended, 'end')
        t.equal(client.received, '')
      },
    )

    const tokenReasons = NACK_REASONS.filter((reason) => reason.startsWith('Token'))
    const perReason = (series: (reason: NackReason) => string, reasons: readonly NackReason[]) =>
      Object.fromEntries(reasons.map((reason) => [series(reason), 1]))
    await counts(
      'every reason of a NACK, by name',
      {
        'baton_connections_accepted_total{listener="refused"}': NACK_REASONS.length,
        'baton_connections_total{service="refused",outcome="handed_off"}': NACK_REASONS.length,
        'baton_handoff_duration_seconds_count{service="refused"}': NACK_REASONS.length,
        ...perReason(
          (reason) => `baton_handoff_failures_total{service="refused",reason="${reason}"}`,
          NACK_REASONS,
        ),
        ...perReason(
          (reason) => `baton_tokens_rejected_total{service="refused",reason="${reason}"}`,
          tokenReasons,
        ),
        ...perReason(
          (reason) => `baton_fallbacks_total{service="refused",action="next_backend",reason="${reason}"}`,
          NACK_REASONS,
        ),
      },
      async (t) => {
        // It is the only backend when the clients arrive, so each is offered to it first.
        const peer = await FalseBackend.register(t, broker.control, hello('refused'))
        peer.wire.answersProbes = true
        const clients = []
        for (const _ of NACK_REASONS) clients.push(await connectTo(t, broker, 'refused'))
        const offers = await peer.offers(NACK_REASONS.length)
        for (const { fd } of peer.take(NACK_REASONS.length)) fd.close()
        await honest.tell('join', 'refused')
        const nacks = NACK_REASONS.map((reason, index) => {
          const { sequence, token } = offers[index] as Offer
          return { sequence, token, reason }
        })
        peer.wire.write({ type: 'nack', nacks })
        for (const client of clients) t.equal((await client.get()).status, 200)
      },
    )

    await counts(
      'BackendAckTimeout; relinquished, when more than maxStuck were taken; BackendGone for the rest',
      {
        'baton_connections_accepted_total{listener="silent"}': 3,
        'baton_connections_total{service="silent",outcome="handed_off"}': 2,
        'baton_connections_total{service="silent",outcome="relinquished"}': 1,
        'baton_handoff_duration_seconds_count{service="silent"}': 2,
        'baton_handoff_failures_total{service="silent",reason="BackendAckTimeout"}': 1,
        'baton_handoff_failures_total{service="silent",reason="BackendGone"}': 1,
        'baton_fallbacks_total{service="silent",action="hold",reason="BackendAckTimeout"}': 1,
        'baton_fallbacks_total{service="silent",action="hold",reason="BackendGone"}': 1,
      },
      async (t) => {
        const peer = await FalseBackend.register(t, broker.control, hello('silent'))
        const clients = []
        for (let index = 0; index < 3; index++) clients.push(await connectTo(t, broker, 'silent'))
        await peer.offers(3)
        peer.take(2)
        await broker.until(
          ({ services }) =>
            services.some(({ held, stuck, inFlight }) => held + stuck === 2 && inFlight === 1),
          'one is held, one stuck, one relinquished',
        )
        t.equal(await broker.metric('baton_handoffs_in_flight{service="silent"}'), 1)
        t.equal(await broker.metric('baton_backends{service="silent",state="unresponsive"}'), 1)
        peer.die()
        await isHeld(broker, 'silent', 2)
        await honest.tell('join', 'silent')
        for (const client of clients.slice(1)) t.equal((await client.get()).status, 200)
        await clients[0]?.ended
      },
    )

    await t.test('the sum of the outcomes is what was accepted', async (t) => {
      const sum = (all: Map<string, number>, name: string) =>
        [...all]
          .filter(([series]) => series.startsWith(`${name}{`))
          .reduce((total, [, value]) => total + value, 0)
      const all = await samples(broker)
      t.equal(sum(all, 'baton_connections_total'), sum(all, 'baton_connections_accepted_total'))
      t.ok(sum(all, 'baton_connections_accepted_total') > 15)
      t.equal(sum(all, 'baton_relay_bytes_total'), 0, 'and no byte of them went through the broker')
    })

    const noPromtool = spawnSync('promtool', ['--version']).error !== undefined && !process.env['CI']
    await t.test(
      'promtool has no complaints',
      { skip: noPromtool && 'promtool is not installed' },
      async (t) => {
        const promtool = spawn('promtool', ['check', 'metrics'])
        let said = ''
        for (const stream of [promtool.stdout, promtool.stderr])
          stream.on('data', (chunk) => (said += String(chunk)))
        promtool.stdin.end(await broker.metrics())
        const [code] = await once(promtool, 'close')
        t.same({ code, said }, { code: 0, said: '' })
      },
    )

    await t.test('every metric exists', async (t) => {
      const text = await broker.metrics()
      const types = new Map(
        [...text.matchAll(/^# TYPE (baton_\w+) (\w+)$/gm)].map(([, name, type]) => [name, type]),
      )
      t.same(Object.fromEntries(types), {
        baton_connections_accepted_total: 'counter',
        baton_connections_total: 'counter',
        baton_rejections_total: 'counter',
        baton_connections_held: 'gauge',
        baton_connections_peeked: 'gauge',
        baton_service_paused: 'gauge',
        baton_service_maintenance: 'gauge',
        baton_shift_share: 'gauge',
        baton_shift_connections_total: 'counter',
        baton_connections_unrouted_total: 'counter',
        baton_connections_parked: 'gauge',
        baton_connections_handed_back_total: 'counter',
        baton_connections_resumed_total: 'counter',
        baton_handback_pause_seconds: 'histogram',
        baton_handoffs_in_flight: 'gauge',
        baton_handoff_failures_total: 'counter',
        baton_fallbacks_total: 'counter',
        baton_handoff_duration_seconds: 'histogram',
        baton_relay_connections: 'gauge',
        baton_relay_bytes_total: 'counter',
        baton_backends: 'gauge',
        baton_backend_connections: 'gauge',
        baton_tokens_rejected_total: 'counter',
        baton_build_info: 'gauge',
        baton_reloads_total: 'counter',
        baton_last_reload_timestamp_seconds: 'gauge',
        baton_worker_deaths_total: 'counter',
        baton_log_lines_dropped_total: 'counter',
        baton_worker_hangs_total: 'counter',
        baton_backend_replacements_total: 'counter',
        baton_files_restored_total: 'counter',
      })
      const odd = [...(await samples(broker))].filter(
        ([series, value]) => series.startsWith('baton_') && !(value >= 0),
      )
      t.same(odd, [])
      t.match(text, /^process_cpu_seconds_total /m)
      t.notMatch(text, /nodejs_active_\w+_total/)
      t.notMatch(text, / # \{/, 'no exemplars')
    })

    await t.test(
      '/healthz reports that the process answers, /readyz that it can serve',
      { timeout: LIMIT },
      async (t) => {
        const others = (['brief', 'full', 'raw'] as const).map((service) => honest.tell('join', service))
        await Promise.all(others)
        await honest.tell('leave', 'web')
        await broker.backends(0)
        const ask = async (path: string) => {
          const response = await fetch(`${broker.admin}${path}`, { headers: { connection: 'close' } })
          return { status: response.status, body: await response.json() }
        }
        const ready = { status: 200, body: { ready: true, reasons: [] } }
        const lacking = (...reasons: string[]) => ({ status: 503, body: { ready: false, reasons } })
        const none = 'service web has no ready backend'

        t.same(await ask('/healthz'), { status: 200, body: { status: 'ok' } })
        t.same(await ask('/readyz'), lacking(none), 'none has registered')
        t.same(await ask('/readyz?service=full'), ready, 'another service is')
        t.same(await ask('/readyz?service=web'), lacking(none))
        t.same(await ask('/readyz?service=other'), {
          status: 404,
          body: { ready: false, reasons: ['there is no service "other"'] },
        })
        const backend = await startBackend(t, broker)
        t.same(await ask('/readyz'), ready)
        backend.kill('SIGKILL')
        await broker.backends(0)
        t.same(await ask('/readyz'), lacking(none), 'the only backend has died')

        // The second backend drains while a request is served, and then the broker itself while a client is held.
        const next = await startBackend(t, broker, 'http-backend.mjs', { env: { DRAIN_DEADLINE: '10m' } })
        t.same(await ask('/readyz'), ready)
        const busy = await connectTo(t, broker, 'web')
        busy.request('/wait')
        await broker.until(({ services }) => services[0]?.backends[0]?.adopted === 1, 'it has the request')
        next.kill('SIGTERM')
        await broker.until(({ services }) => services[0]?.backends[0]?.state === 'draining', 'it drains')
        t.same(await ask('/readyz'), lacking(none), 'a draining backend takes nothing new')
        t.equal(await broker.metric('baton_backends{service="web",state="draining"}'), 1)

        const held = await connectTo(t, broker, 'web')
        await isHeld(broker, 'web', 1)
        broker.program.kill('SIGTERM')
        await broker.until(({ broker: { state } }) => state === 'draining', 'the broker drains')
        const deaf = Object.keys(SERVICES).map((name) => `listener ${name} is not accepting`)
        t.same(await ask('/readyz'), lacking('the broker is draining', ...deaf, none))
        t.same(
          await ask('/readyz?service=web'),
          lacking('the broker is draining', 'listener web is not accepting', none),
        )
        t.same(await ask('/healthz'), { status: 200, body: { status: 'ok' } }, 'still alive')
        held.socket.resetAndDestroy()
        t.equal((await broker.program.exited).code, 0)
      },
    )
  },
)
