import { join } from 'node:path'
import type { NackReason, Offer } from '@baton/backend-sdk/protocol'
import { NACK_REASONS } from '@baton/backend-sdk/protocol'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { answerOn, FalseBackend, hello } from './support/false-backend.ts'
import { LIMIT, starts } from './support/limits.ts'
import { Program, root } from './support/process.ts'
import { signal } from './support/signal.ts'

// Every failure of a handoff, caused by a scripted backend; the client must not notice it.

/** Half a broker start: far longer than an honest backend needs, and short for one that never answers. */
const ACK_DEADLINE = starts(0.05)
/** That of a service whose broker sleeps over it. */
const SLEEP = starts(0.1)
/** No deadline expires except where a test is about that. */
const PATIENT = { ackDeadline: '10m', tokenTtl: '20m', holdTimeout: '20m', failureLimit: { failures: 1000 } }
const PROMPT = { ...PATIENT, ackDeadline: ACK_DEADLINE }

/** Each has its own service: the failure, and what the scripted backend does with the one offer it gets. */
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

function refuse(peer: FalseBackend, reason: NackReason): void {
  const [offer] = peer.wire.all('offer').flatMap(({ offers }) => offers)
  if (offer === undefined) throw new Error('nothing was offered')
  for (const { fd } of peer.take(1)) fd.close()
  const { sequence, token } = offer
  peer.wire.write({ type: 'nack', nacks: [{ sequence, reason, token }] })
}

void t.test('failures of a handoff, seen by the client', { timeout: LIMIT }, async (t) => {
  const services: Record<string, object> = {
    // A held client may be offered to the faulty backend again, which then lets the deadline expire.
    ...Object.fromEntries(Object.keys(FAULTS).map((name) => [name, PROMPT])),
    prompt: PROMPT,
    relayed: { ...PROMPT, handoff: 'off' },
    slept: { ...PATIENT, ackDeadline: SLEEP },
    forbidden: { ...PATIENT, handoff: 'off', holdTimeout: '200ms' },
  }
  const broker = await startBroker(t, {
    config: {
      listeners: Object.keys(services).map((name) => ({
        name,
        listen: '127.0.0.1:0',
        protocol: 'http',
        service: name,
      })),
      services,
      // It is stopped for a moment, which may take long on a busy machine.
      workerTimeout: '1h',
    },
  })
  // An honest backend for each service, once told to join.
  const honest = new Program(t, process.execPath, [join(root, 'test/programs/service-backends.mjs')], {
    env: { BATON_SOCKET: broker.control },
  })
  const register = (t: Test, name: string) => FalseBackend.register(t, broker.control, hello(name))
  const ask = async (t: Test, name: string): Promise<Client> => {
    const client = await Client.open(t, { host: '127.0.0.1', port: broker.port(name) })
    client.request()
    return client
  }
  const failures = (name: string, reason: string) =>
    broker.metric(`baton_handoff_failures_total{service="${name}",reason="${reason}"}`)

  await t.test(
    'no ACK by the deadline is BackendAckTimeout, and untaken clients move on',
    { timeout: LIMIT },
    async (t) => {
      const peer = await register(t, 'prompt')
      const asked = performance.now()
      const client = await ask(t, 'prompt')
      const [offer] = await peer.offers(1)
      honest.say('join prompt')
      t.equal((await client.answer()).body, `${honest.pid}`)

      t.same((await peer.wire.frame('revoke')).sequences, [offer?.sequence])
      const waited = (peer.wire.frames.find(({ frame }) => frame.type === 'revoke')?.at ?? 0) - asked
      t.ok(waited >= ACK_DEADLINE, `not before the deadline: ${Math.round(waited)} ms`)
      t.equal(await failures('prompt', 'BackendAckTimeout'), 1)
      t.equal(unaccounted(await broker.status()), 0)
    },
  )

  // The broker blamed each backend for its own sleep: they were not chosen for a moment, and paused after a few of them.
  await t.test('an ACK that came while the broker did not run is in time', { timeout: LIMIT }, async (t) => {
    const peer = await FalseBackend.responsive(t, broker.control, hello('slept'))
    const client = await ask(t, 'slept')
    const [offer] = (await peer.offers(1)) as [Offer]
    const from = performance.now()
    signal(broker.pid, 'SIGSTOP')
    const [taken] = peer.take(1)
    peer.ack(offer)
    await eventually(() => performance.now() - from > SLEEP + 100, 'the deadline is over')
    signal(broker.pid, 'SIGCONT')
    if (taken) answerOn(taken.fd, 'mine')
    t.equal((await client.answer()).body, 'mine')
    const { services } = await broker.until(
      (status) => status.services.some(({ name, outcomes }) => name === 'slept' && outcomes.handed_off === 1),
      'the ACK is read',
    )
    t.equal(await failures('slept', 'BackendAckTimeout'), 0)
    t.same(peer.wire.all('revoke'), [])
    const { backends } = services.find(({ name }) => name === 'slept') ?? {}
    t.match(backends, [{ state: 'ready' }])
    client.socket.destroy()
    peer.die()
  })

  await t.test('a relay without an ACK by the deadline moves on, too', { timeout: LIMIT }, async (t) => {
    // An endpoint that reads the header and sends nothing.
    const silent = await startBackend(t, broker, 'http-backend.mjs', { service: 'relayed' })
    silent.kill('SIGSTOP')
    const client = await ask(t, 'relayed')
    const relayed = ({ services }: Awaited<ReturnType<typeof broker.status>>) =>
      services.find(({ name }) => name === 'relayed')
    // Afterwards it is held: the deadline may be over before the first look.
    await broker.until((status) => {
      const { inFlight = 0, held = 0 } = relayed(status) ?? {}
      return inFlight + held === 1
    }, 'the relay is offered')
    honest.say('join relayed')
    t.equal((await client.answer()).body, `${honest.pid}`)
    t.equal(await failures('relayed', 'BackendAckTimeout'), 1)
    silent.kill('SIGCONT')
    const status = await broker.backends(2, 'relayed')
    t.equal(relayed(status)?.outcomes.relayed, 1, 'it has one owner')
    t.equal(unaccounted(status), 0)
  })

  await t.test(
    'if policy forbids the handoff, no attempt is made, and the reason is ServicePolicyDisabled',
    { timeout: LIMIT },
    async (t) => {
      const peer = await register(t, 'forbidden')
      const client = await ask(t, 'forbidden')
      t.equal((await client.answer()).status, 503, 'it is not relayed either')
      const reason = 'ServicePolicyDisabled'
      const held = `baton_fallbacks_total{service="forbidden",action="hold",reason="${reason}"}`
      t.equal(await broker.metric(held), 1)
      const attempts = /^baton_handoff_failures_total\{service="forbidden".* [1-9]/m
      t.notMatch(await broker.metrics(), attempts, 'it counts as no attempt')
      await peer.probe()
      t.same(peer.restOfLane(), { count: 0, ended: false })
      t.same(peer.wire.all('offer'), [])
    },
  )

  await t.test(
    'whatever goes wrong with a handoff, the client does not notice and is served',
    { timeout: LIMIT },
    async (t) => {
      const all = t
      const waiting = new Map<string, Client>()
      for (const [name, [failure, act]] of Object.entries(FAULTS)) {
        await t.test(`${name}: ${failure}`, { timeout: LIMIT }, async (t) => {
          const faulty = await register(all, name)
          const client = await ask(all, name)
          await faulty.offers(1)
          await act(faulty)
          await broker.until(
            ({ services }) => services.find((service) => service.name === name)?.held === 1,
            'its client waits for another one',
          )
          t.equal(await failures(name, failure), 1)
          t.ok(client.open, 'no FIN and no RST')
          t.equal(client.received, '', 'not a byte')
          waiting.set(name, client)
        })
      }
      for (const name of waiting.keys()) honest.say(`join ${name}`)
      for (const [name, client] of waiting) {
        t.equal((await client.answer()).body, `${honest.pid}`, `${name}: then it is served`)
      }
      t.equal(waiting.size, Object.keys(FAULTS).length)
      const status = await broker.until(
        ({ services }) =>
          services.every(({ name, outcomes }) => !(name in FAULTS) || outcomes.handed_off === 1),
        'each is handed off once',
      )
      t.equal(unaccounted(status), 0)
    },
  )
})
