import { pathToFileURL } from 'node:url'
import t from 'tap'
import { startBroker } from '../support/broker.ts'
import { killBackends, programPath, recording } from '../support/kill-scene.ts'
import { LIMIT, starts } from '../support/limits.ts'
import { residentBytes } from '../support/proc.ts'
import { Program } from '../support/process.ts'
import { startServices } from '../support/service.ts'
import { signal } from '../support/signal.ts'

// The slow part of `test/exactly-once.test.ts`: series, and measurements. Short forms of `bench/stuck.mjs`,
// `bench/kill.mjs` and `bench/hold.mjs`, which produce the published figures.

/** Expires only for a stuck backend; far above any other delay of a client. */
const ACK_DEADLINE = starts(0.2)

interface Waits {
  readonly count: number
  readonly median: number
  readonly p99: number
  readonly worst: number
}

interface Round {
  readonly connections: number
  readonly failures: Record<string, number>
  readonly waits: Waits
  /** Clients whose connection the stuck backend had already taken. */
  readonly apart: Waits
}

void t.test(
  'one of two backends is stuck: no client waits longer than the ACK deadline allows, and none fails',
  { timeout: LIMIT },
  async (t) => {
    const config = { ackDeadline: ACK_DEADLINE, tokenTtl: 2 * ACK_DEADLINE, balance: 'round-robin' }
    const { broker, services } = await startServices(t, { web: { config } })
    const args = `--server ${programPath('recording-backend.mjs')} --port ${broker.port()} --rate 50 --busy ${3 * ACK_DEADLINE}`
    const run = new Program(t, process.execPath, [programPath('stuck-run.mjs'), ...args.split(' ')], {
      env: recording(services.web),
    })
    const { baseline, stuck } = (await run.message('done')) as unknown as { baseline: Round; stuck: Round }
    t.comment(
      `worst wait ${Math.round(stuck.waits.worst)} ms, with a processor burnt elsewhere ${Math.round(baseline.waits.worst)} ms`,
    )
    t.comment(
      `${stuck.apart.count} were the stuck backend's already, the worst of them ${stuck.apart.worst} ms`,
    )
    t.same(baseline.failures, {})
    t.same(stuck.failures, {}, 'none fails')
    t.ok(stuck.connections > 300, 'clients came all the time')
    t.ok(stuck.waits.worst > 0.8 * ACK_DEADLINE, 'some were offered to the stuck backend')
    t.ok(
      stuck.waits.worst < 1.5 * ACK_DEADLINE + baseline.waits.worst,
      'none waits for a second deadline, apart from the delay of the machine itself',
    )
    const failures = 'baton_handoff_failures_total{service="web",reason="BackendAckTimeout"}'
    t.ok((await broker.metric(failures)) > 0, 'clients on its lane were taken back')
    t.equal((await services.web.state()).unaccounted, 0)
  },
)

void t.test(
  'SIGKILL of backends under load: no error for a connection without a complete ACK',
  { timeout: LIMIT },
  async (t) => {
    await killBackends(t, (await startServices(t, { web: {} })).services.web, 25)
  },
)

void t.test('a held client costs less than 1 KiB of live memory', { timeout: LIMIT }, async (t) => {
  const count = 2000
  const broker = await startBroker(t, {
    config: { services: { web: { holdTimeout: '30m' } } },
    env: { NODE_OPTIONS: `--import=${pathToFileURL(programPath('live-memory.mjs')).href}` },
  })
  const { program } = broker
  let looks = 0
  const look = async () => {
    signal(broker.pid, 'SIGUSR2')
    const { bytes } = await program.message(`live memory ${++looks}`)
    return { live: Number(bytes), resident: residentBytes(broker.pid) }
  }
  const hold = async (clients: number) => {
    const waiting = new Program(t, process.execPath, [
      programPath('waiting-clients.mjs'),
      `${broker.port()}`,
      `${clients}`,
    ])
    await waiting.message('waiting')
    await broker.until(({ services }) => services[0]?.held === clients, `${clients} held`)
    return waiting
  }
  const leave = async (waiting: Program) => {
    waiting.kill('SIGKILL')
    await broker.until(({ services }) => services[0]?.held === 0, 'all gone')
  }

  // Compilation and first allocations must not count for a client.
  await leave(await hold(count / 4))
  const rest = await look()
  const waiting = await hold(count)
  const full = await look()
  const each = (kind: 'live' | 'resident') => Math.round((full[kind] - rest[kind]) / count)
  t.comment(`${each('live')} bytes live, ${each('resident')} bytes resident for each held client`)
  t.ok(each('live') < 1024, 'less than 1 KiB')
  await leave(waiting)
  t.equal((await broker.status()).services[0]?.outcomes.client_gone, count / 4 + count)
})
