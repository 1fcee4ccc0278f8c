import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { residentBytes } from './support/proc.ts'
import { Program, root } from './support/process.ts'
import { LIMIT } from './support/limits.ts'

// The promise under load: whatever hangs or dies between accept and adoption, no client sees an error that another backend
// could have hidden. Short forms of `bench/stuck.mjs`, `bench/kill.mjs` and `bench/hold.mjs`.

const programPath = (name: string) => join(root, 'test/programs', name)

function recording(broker: Broker): NodeJS.ProcessEnv {
  return {
    BATON_SOCKET: broker.control,
    BATON_SERVICE: 'web',
    ADOPTIONS: join(broker.folder, 'adoptions'),
  }
}

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
  /** Of clients whose connection the stuck backend had taken already. */
  readonly apart: Waits
}

void t.test(
  'row 14: one of two backends is stuck: nobody waits longer than its ACK deadline allows, and none fails',
  { timeout: LIMIT },
  async (t) => {
    const ackDeadline = 500
    const broker = await startBroker(t, {
      config: { services: { web: { ackDeadline, balance: 'round-robin' } } },
    })
    const args = `--server ${programPath('recording-backend.mjs')} --port ${broker.port()} --rate 200 --busy 1500`
    const run = new Program(t, process.execPath, [programPath('stuck-run.mjs'), ...args.split(' ')], {
      env: recording(broker),
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
    t.ok(stuck.waits.worst > 0.8 * ackDeadline, 'some had been offered to the stuck one')
    t.ok(
      stuck.waits.worst <= ackDeadline + 100 + baseline.waits.worst,
      'nobody waits longer than ackDeadline and 100 ms, beside what the machine makes everybody wait',
    )
    const failures = 'baton_handoff_failures_total{service="web",reason="BackendAckTimeout"}'
    t.ok((await broker.metric(failures)) > 0, 'what lay on its lane was taken back')
    t.equal(unaccounted(await broker.status()), 0)
  },
)

void t.test(
  'row 27: SIGKILL of backends under load: no error for a connection that had no whole ACK',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const seed = Math.floor(Math.random() * 2 ** 31)
    const args = `--kills 25 --seed ${seed} --port ${broker.port()} --admin ${broker.admin}`
    const run = new Program(t, process.execPath, [programPath('kill-run.mjs'), ...args.split(' ')], {
      env: recording(broker),
    })
    const { msg, violations, ...found } = await run.message('done')
    t.comment(`${String(msg)}, seed ${seed}: ${JSON.stringify(found)}`)
    t.same(violations, [])
    t.equal(found['kills'], 25)
    t.ok(Number(found['answered']) > 100, 'there was load')
    t.equal(unaccounted(await broker.status()), 0)
  },
)

void t.test(
  'all backends down: who waited is served in order of arrival, who left is counted',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t)
    const env = recording(broker)
    const start = async () => {
      const program = new Program(t, process.execPath, [programPath('recording-backend.mjs')], { env })
      program.child.stdin?.write('register\n')
      await program.message('registered')
      return program
    }
    for (const backend of [await start(), await start()]) {
      backend.kill('SIGKILL')
      await backend.exited
    }
    await broker.backends(0)

    // More than are offered to one backend at once.
    const arrived = await arrive(t, broker, 100, 3000)
    const stayed = arrived.filter(({ kind }) => kind !== 'leaves')
    await broker.until(({ services }) => services[0]?.held === stayed.length, 'those who left are gone')
    t.ok(
      stayed.every(({ client }) => client.open && client.received === ''),
      'silence meanwhile',
    )

    const last = await start()
    const bodies = await Promise.all(stayed.map(async ({ client }) => (await client.answer()).body))
    t.same(new Set(bodies), new Set([`${last.pid}\n`]), 'everybody who waited is served')
    t.same(
      adoptedPorts(env['ADOPTIONS'] ?? ''),
      stayed.map(({ port }) => port),
      'in order of arrival',
    )
    const status = await broker.until(({ services }) => services[0]?.inFlight === 0, 'settled')
    t.equal(unaccounted(status), 0)
    t.match(status.services[0]?.outcomes, {
      handed_off: stayed.length,
      client_gone: arrived.length - stayed.length,
      rejected: 0,
      relinquished: 0,
    })
  },
)

void t.test('a held client costs less than 1 KiB of live memory', { timeout: LIMIT }, async (t) => {
  const count = 2000
  const broker = await startBroker(t, {
    config: { services: { web: { holdTimeout: '1m' } } },
    env: { NODE_OPTIONS: `--import=${pathToFileURL(programPath('live-memory.mjs')).href}` },
  })
  const { program } = broker
  let looks = 0
  const look = async () => {
    program.kill('SIGUSR2')
    const { bytes } = await program.message(`live memory ${++looks}`)
    return { live: Number(bytes), resident: residentBytes(program.pid) }
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

  // What is compiled and laid out once is no client's.
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

type Kind = 'waits' | 'half-closes' | 'leaves'

/** So many clients, one after the other, spread over `milliseconds`. Each has its place in the broker's order when the next comes. */
async function arrive(
  t: Test,
  broker: Broker,
  count: number,
  milliseconds: number,
): Promise<{ client: Client; port: number; kind: Kind }[]> {
  const kinds: Kind[] = ['waits', 'half-closes', 'waits', 'leaves']
  const arrived = []
  for (let index = 0; index < count; index++) {
    const pace = once(AbortSignal.timeout(milliseconds / count), 'abort')
    const kind = kinds[index % kinds.length] as Kind
    const client = await Client.open(t, { port: broker.port() })
    const { port } = client
    client.request()
    if (kind === 'half-closes') client.socket.end()
    if (kind === 'leaves') client.socket.resetAndDestroy()
    arrived.push({ client, port, kind })
    await pace
  }
  return arrived
}

/** Client ports in the order of their adoption, as `recording-backend.mjs` writes them down. */
function adoptedPorts(file: string): number[] {
  return readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => Number(line.split(' ')[1]))
}
