import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { NackReason } from '@baton/backend-sdk/protocol'
import { NACK_REASONS } from '@baton/backend-sdk/protocol'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { Program, root } from './support/process.ts'
import { LIMIT } from './support/limits.ts'

// Rows that speak of no single package: the failure is made by a backend's hand, the silence is the client's to observe.

const ACK_DEADLINE = 300

/** A broker with one backend by hand. */
async function world(t: Test, service: Record<string, unknown> = {}) {
  const config = {
    services: { web: { ackDeadline: ACK_DEADLINE, failureLimit: { failures: 1000 }, ...service } },
  }
  const broker = await startBroker(t, { config })
  return { broker, peer: await FalseBackend.register(t, broker.control, hello('web')) }
}

async function ask(t: Test, broker: Broker): Promise<Client> {
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  client.request()
  return client
}

function failures(broker: Broker, reason: string): Promise<number> {
  return broker.metric(`baton_handoff_failures_total{service="web",reason="${reason}"}`)
}

void t.test(
  'row 14: no ACK by the deadline is BackendAckTimeout, and what was not taken goes on',
  { timeout: LIMIT },
  async (t) => {
    const { broker, peer } = await world(t)
    const client = await ask(t, broker)
    const [offer] = await peer.offers(1)
    const honest = await startBackend(t, broker)
    t.equal((await client.answer()).headers['x-pid'], `${honest.pid}`)

    const at = (type: 'offer' | 'revoke') =>
      peer.wire.frames.find(({ frame }) => frame.type === type)?.at ?? 0
    t.same((await peer.wire.frame('revoke')).sequences, [offer?.sequence])
    const waited = at('revoke') - at('offer')
    t.ok(waited > ACK_DEADLINE - 50, `not before the deadline: ${Math.round(waited)} ms`)
    t.equal(await failures(broker, 'BackendAckTimeout'), 1)
    t.equal(unaccounted(await broker.status()), 0)
  },
)

void t.test('row 14: a relay without an ACK by the deadline goes on, too', { timeout: LIMIT }, async (t) => {
  // An endpoint that takes the header and says nothing.
  const broker = await startBroker(t, {
    config: { services: { web: { ackDeadline: ACK_DEADLINE, handoff: 'off' } } },
  })
  const silent = await startBackend(t, broker)
  silent.kill('SIGSTOP')
  const client = await ask(t, broker)
  await broker.until(({ services }) => services[0]?.inFlight === 1, 'the relay is offered')
  const honest = await startBackend(t, broker)
  t.equal((await client.answer()).headers['x-pid'], `${honest.pid}`)
  t.equal(await failures(broker, 'BackendAckTimeout'), 1)
  silent.kill('SIGCONT')
  const status = await broker.backends(2)
  t.equal(status.services[0]?.outcomes.relayed, 1, 'it has one owner')
  t.equal(unaccounted(status), 0)
})

void t.test(
  'row 15: where policy forbids the handoff no attempt is made, and the reason is ServicePolicyDisabled',
  { timeout: LIMIT },
  async (t) => {
    const { broker, peer } = await world(t, { handoff: 'off', holdTimeout: '200ms' })
    const client = await ask(t, broker)
    t.equal((await client.answer()).status, 503, 'nobody takes its bytes either')
    const reason = 'ServicePolicyDisabled'
    t.equal(await broker.metric(`baton_fallbacks_total{service="web",action="hold",reason="${reason}"}`), 1)
    t.notMatch(await broker.metrics(), /^baton_handoff_failures_total\{.* [1-9]/m, 'it counts as no attempt')
    await peer.probe()
    t.same(peer.restOfLane(), { count: 0, ended: false })
    t.same(peer.wire.all('offer'), [])
  },
)

/** Each on a service of its own: the failure, and what a backend by hand does with the one offer that it has. */
const FAULTS: Record<string, [failure: string, act: (peer: FalseBackend) => void | Promise<void>]> = {
  ...Object.fromEntries(
    NACK_REASONS.map((reason) => [reason, [reason, (peer: FalseBackend) => refuse(peer, reason)]]),
  ),
  late: ['BackendAckTimeout', async ({ wire }) => void (await wire.frame('revoke'))],
  babbles: ['ProtocolViolation', ({ wire }) => wire.write(Buffer.from([1, 0, 0, 0, 0x7f]))],
  dies: ['BackendGone', (peer) => peer.die()],
  'dies-with-it': [
    'BackendGone',
    (peer) => {
      peer.take(1)
      peer.die()
    },
  ],
}

void t.test(
  'row 17: whatever goes wrong with a handoff, the client hears nothing of it and is served',
  { timeout: LIMIT },
  async (t) => {
    const names = Object.keys(FAULTS)
    const broker = await startBroker(t, {
      config: {
        listeners: names.map((name) => ({ name, listen: '127.0.0.1:0', protocol: 'http', service: name })),
        services: Object.fromEntries(names.map((name) => [name, { ackDeadline: ACK_DEADLINE }])),
      },
    })
    const honest = new Program(t, process.execPath, [join(root, 'test/programs/service-backends.mjs')], {
      env: { BATON_SOCKET: broker.control },
    })
    for (const [name, [failure, act]] of Object.entries(FAULTS)) {
      await t.test(`${name}: ${failure}`, { timeout: LIMIT }, async (t) => {
        const faulty = await FalseBackend.register(t, broker.control, hello(name))
        const client = await Client.open(t, { host: '127.0.0.1', port: broker.port(name) })
        client.request()
        await faulty.offers(1)
        await act(faulty)
        await broker.until(
          ({ services }) => services.find((service) => service.name === name)?.held === 1,
          'its client waits for somebody else',
        )
        t.equal(await broker.metric(`baton_handoff_failures_total{service="${name}",reason="${failure}"}`), 1)
        t.ok(client.open, 'no FIN and no RST')
        t.equal(client.received, '', 'not a byte')
        honest.child.stdin?.write(`join ${name}\n`)
        t.equal((await client.answer()).body, `${honest.pid}`, 'then it is served')
      })
    }
    const status = await broker.until(
      ({ services }) => services.every(({ outcomes }) => outcomes.handed_off === 1),
      'each is handed off once',
    )
    t.equal(unaccounted(status), 0)
  },
)

function refuse(peer: FalseBackend, reason: NackReason): void {
  const [offer] = peer.wire.all('offer').flatMap(({ offers }) => offers)
  if (offer === undefined) throw new Error('nothing was offered')
  for (const { fd } of peer.take(1)) fd.close()
  const { sequence, token } = offer
  peer.wire.write({ type: 'nack', nacks: [{ sequence, reason, token }] })
}

void t.test('every row has a test that names it', async (t) => {
  const folders = ['test', ...readdirSync(join(root, 'packages')).map((name) => `packages/${name}/test`)]
  const files = folders.flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.test.ts'))
      .map((file) => join(root, folder, file)),
  )
  const named = new Set(files.flatMap((file) => rowsNamed(readFileSync(file, 'utf8'))))
  const wanted = range(1, 50)
  t.same(
    wanted.filter((row) => !named.has(row)),
    [],
    'no row without a test',
  )
})

/** `test('row 1, row 2: ...')`, `rows 9 to 12` in any quotes. */
function rowsNamed(source: string): number[] {
  return [...source.matchAll(/\btest\(\s*(['"`])((?:(?!\1)[^\\]|\\.)*)\1/g)].flatMap(([, , title = '']) =>
    [...title.matchAll(/\brows? (\d+)(?: to (\d+))?/g)].flatMap(([, from, to = from]) =>
      range(Number(from), Number(to)),
    ),
  )
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index)
}
