import { randomBytes } from 'node:crypto'
import { type HandBack, HANDBACK_CAPABILITY, type Offer } from '@baton/backend-sdk/protocol'
import { type OwnedFd, send, sendMessage } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { LIMIT, starts } from './support/limits.ts'
import { onlyWorker, samples } from './support/operator.ts'
import { Program, root } from './support/process.ts'

// A connection with state goes from the backend that hands it back to one that resumes its schema. A real broker, and backends that speak the
// wire themselves.

const SCHEMA = 'chat/1'
const PATIENT = { ackDeadline: '10m', tokenTtl: '20m', holdTimeout: '20m' }
const SERVICES = {
  web: PATIENT,
  // Long enough for a backend of the test to take what it is offered.
  prompt: { ...PATIENT, ackDeadline: starts(0.2) },
  brief: { ...PATIENT, holdTimeout: starts(0.1) },
  spread: PATIENT,
}

/** A backend that can hand connections back, and resume those of `schemas`. */
async function join(
  t: Test,
  broker: Broker,
  service: keyof typeof SERVICES,
  schemas: string[] = [SCHEMA],
): Promise<FalseBackend> {
  const backend = await FalseBackend.register(
    t,
    broker.control,
    hello(service, { capabilities: [HANDBACK_CAPABILITY] }),
  )
  backend.wire.answersProbes = true
  backend.wire.write({ type: 'stats', adopted: 0, closed: 0, lag: 0 }, { type: 'resumes', schemas })
  await backend.probe()
  return backend
}

/** A client that this backend, the only one of its service, has adopted. */
async function adopted(t: Test, broker: Broker, backend: FalseBackend, service: keyof typeof SERVICES) {
  const before = backend.wire.all('offer').length
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port(service) })
  await eventually(() => backend.wire.all('offer').length > before, 'it is offered')
  const { fd, offer } = await take(backend)
  return { client, fd, offer }
}

/** Adopts what was offered last. */
async function take(backend: FalseBackend): Promise<{ fd: OwnedFd; offer: Offer }> {
  const { fd } = backend.take(1)[0] as { fd: OwnedFd }
  const offer = backend.wire.all('offer').at(-1)?.offers.at(-1) as Offer
  backend.ack(offer)
  await backend.probe()
  return { fd, offer }
}

let sequences = 0

const STATE = {
  kind: 'raw' as const,
  schema: SCHEMA,
  prefix: Buffer.from('half a line'),
  requestHead: Buffer.alloc(0),
  answerHead: Buffer.alloc(0),
  state: Buffer.from('{"room":7}'),
}

/** Hands one connection back; the backend keeps its copy, as it must until TAKEN. */
function handBack(backend: FalseBackend, fd: OwnedFd, offer: Offer, over: Partial<HandBack> = {}): number {
  const token = randomBytes(16)
  const sequence = ++sequences
  sendMessage(backend.lane.fd, { bytes: token, fds: [fd.fd] })
  const { connection, listener, meta } = offer
  const entry = { sequence, token, connection, keepAlive: 0, listener, meta, ...STATE, ...over }
  backend.wire.write({ type: 'handback', entries: [entry] })
  return sequence
}

async function taken(backend: FalseBackend, sequence: number, fd: OwnedFd): Promise<void> {
  await backend.wire.frame('taken', ({ sequences }) => sequences.includes(sequence))
  fd.close()
}

async function settled(backend: FalseBackend, sequence: number): Promise<string | undefined> {
  const { entries } = await backend.wire.frame('settled', ({ entries }) =>
    entries.some((entry) => entry.sequence === sequence),
  )
  return entries.find((entry) => entry.sequence === sequence)?.outcome
}

/** The offer of a connection to resume, once it has come. */
async function resumedOffer(backend: FalseBackend): Promise<Offer> {
  const { offers } = await backend.wire.frame('offer', ({ offers }) => offers.some(({ resumed }) => resumed))
  return offers.find(({ resumed }) => resumed) as Offer
}

/** Proves that whoever has `fd` serves this client. */
async function serves(t: Test, fd: OwnedFd, client: Client, text: string): Promise<void> {
  send(fd.fd, Buffer.from(text))
  await eventually(() => client.received.endsWith(text), `the client receives ${text}`)
  t.ok(client.open)
}

/** M9 at rest, over all workers there have been. */
async function unaccountedByAll(broker: Broker): Promise<number> {
  let sum = 0
  for (const [series, value] of await samples(broker)) {
    if (series.startsWith('baton_connections_accepted_total{')) sum += value
    if (series.startsWith('baton_connections_handed_back_total{') && series.includes('result="taken"'))
      sum += value
    if (/^baton_(connections_total|connections_held|connections_parked|handoffs_in_flight)\{/.test(series))
      sum -= value
  }
  return sum
}

void t.test('connections with state', { timeout: 4 * LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: {
      listeners: Object.keys(SERVICES).map((name) => ({
        name,
        listen: '127.0.0.1:0',
        protocol: 'http',
        service: name,
      })),
      services: SERVICES,
    },
  })
  const metric = (name: string, rest: string) => broker.metric(`${name}{service="web",${rest}}`)

  await t.test(
    'one goes with its state to a backend that resumes its schema, never to its giver',
    async (t) => {
      const giver = await join(t, broker, 'web')
      const { client, fd, offer } = await adopted(t, broker, giver, 'web')
      const other = await join(t, broker, 'web', ['mail/1'])
      const next = await join(t, broker, 'web')
      const sequence = handBack(giver, fd, offer)
      await taken(giver, sequence, fd)
      const resumed = await resumedOffer(next)
      t.match(resumed, { kind: 'resumed', resumed: STATE, listener: 'web' })
      t.same(resumed.connection, offer.connection)
      const { fd: its } = await take(next)
      t.equal(await settled(giver, sequence), 'resumed')
      await serves(t, its, client, 'from the next one')
      t.same([giver.wire.all('offer').length, other.wire.all('offer').length], [1, 0])
      t.equal(await metric('baton_connections_handed_back_total', 'kind="raw",result="taken"'), 1)
      t.equal(await metric('baton_connections_resumed_total', 'kind="raw"'), 1)
      t.equal(await metric('baton_handback_pause_seconds_count', 'kind="raw"'), 1)
      t.equal(unaccounted(await broker.status()), 0)

      await t.test('back again: giver is whoever hands it back', async (t) => {
        const again = handBack(next, its, resumed, { state: Buffer.from('{"room":8}') })
        await taken(next, again, its)
        t.same(String((await resumedOffer(giver)).resumed?.state), '{"room":8}')
        await serves(t, (await take(giver)).fd, client, 'from the first')
      })
      for (const backend of [giver, other, next]) backend.die()
    },
  )

  await t.test(
    'a successor that is killed before its ACK: the next one has it, and only that one',
    async (t) => {
      const giver = await join(t, broker, 'web')
      const { client, fd, offer } = await adopted(t, broker, giver, 'web')
      const mute = new Program(t, process.execPath, [
        `${root}/test/programs/mute-backend.mjs`,
        broker.control,
      ])
      await mute.message('registered')
      await broker.backends(2)
      const sequence = handBack(giver, fd, offer)
      await taken(giver, sequence, fd)
      await mute.message('has it')
      const next = await join(t, broker, 'web')
      t.same(next.wire.all('offer'), [])
      mute.kill('SIGKILL')
      t.match(await resumedOffer(next), { resumed: STATE })
      const { fd: its } = await take(next)
      await serves(t, its, client, 'alive')
      t.equal(await settled(giver, sequence), 'resumed')
      t.equal(giver.wire.all('offer').length, 1)
      t.equal(unaccounted(await broker.status()), 0)
      for (const backend of [giver, next]) backend.die()
    },
  )

  await t.test('no ACK in time: it is read back from the lane, and the next one has it', async (t) => {
    const giver = await join(t, broker, 'prompt')
    const { client, fd, offer } = await adopted(t, broker, giver, 'prompt')
    const stuck = await join(t, broker, 'prompt')
    const sequence = handBack(giver, fd, offer)
    await taken(giver, sequence, fd)
    await resumedOffer(stuck)
    const next = await join(t, broker, 'prompt')
    await resumedOffer(next)
    await stuck.wire.frame('revoke')
    t.same(stuck.restOfLane().count, 0)
    await serves(t, (await take(next)).fd, client, 'in time')
    t.equal(await settled(giver, sequence), 'resumed')
    for (const backend of [giver, stuck, next]) backend.die()
  })

  await t.test('no backend resumes it: it is given back, and the giver goes on', async (t) => {
    const giver = await join(t, broker, 'web')
    const { client, fd, offer } = await adopted(t, broker, giver, 'web')
    const other = await join(t, broker, 'web', ['mail/1'])
    const sequence = handBack(giver, fd, offer)
    const { entries } = await giver.wire.frame('given_back')
    t.same(entries, [{ sequence, reason: 'NoTaker' }])
    await serves(t, fd, client, 'still here')

    await t.test('until one does: RESUMES replaces the last list', async (t) => {
      other.wire.write({ type: 'resumes', schemas: ['mail/1', SCHEMA] })
      await other.probe()
      await taken(giver, handBack(giver, fd, offer), fd)
      await resumedOffer(other)
      await serves(t, (await take(other)).fd, client, 'there now')
    })
    for (const backend of [giver, other]) backend.die()
  })

  await t.test('refused by all: it is held, and moves with a reload', async (t) => {
    const giver = await join(t, broker, 'web')
    const { client, fd, offer } = await adopted(t, broker, giver, 'web')
    const unwilling = await join(t, broker, 'web')
    const sequence = handBack(giver, fd, offer)
    await taken(giver, sequence, fd)
    const { sequence: refused, token } = await resumedOffer(unwilling)
    unwilling.take(1)[0]?.fd.close()
    unwilling.wire.write(
      { type: 'resumes', schemas: [] },
      { type: 'nack', nacks: [{ sequence: refused, reason: 'NotResumable', token }] },
    )
    await broker.until(({ services }) => services[0]?.held === 1, 'held')
    const fresh = await Client.open(t, { host: '127.0.0.1', port: broker.port('web') })
    const offered = () => [giver, unwilling].flatMap(({ wire }) => wire.all('offer')).length
    await eventually(() => offered() === 3, 'a fresh client does not wait behind it')

    // Not by the command, which waits for backends that do not register with the next worker, as these do not.
    broker.program.kill('SIGHUP')
    t.equal(await settled(giver, sequence), 'parked', 'it waits in the broker')
    for (const backend of [giver, unwilling]) backend.die()
    await onlyWorker(t, broker)
    t.equal((await broker.status()).services[0]?.held, 2, 'and the client whose backends are gone')
    const next = await join(t, broker, 'web')
    t.match(await resumedOffer(next), { resumed: STATE })
    const before = next.wire.all('offer').flatMap(({ offers }) => offers)
    t.equal(before.length, 2)
    for (const [index, { fd: its }] of next.take(2).entries()) {
      next.ack(before[index] as Offer)
      if (before[index]?.kind === 'resumed') await serves(t, its, client, 'after the reload')
    }
    await next.probe()
    t.ok(fresh.open)
    t.equal(await unaccountedByAll(broker), 0)
    next.die()
  })

  await t.test('no backend takes it in time: it is closed, without a byte', async (t) => {
    const giver = await join(t, broker, 'brief')
    const { client, fd, offer } = await adopted(t, broker, giver, 'brief')
    const unwilling = await join(t, broker, 'brief')
    const sequence = handBack(giver, fd, offer)
    await taken(giver, sequence, fd)
    const resumed = await resumedOffer(unwilling)
    unwilling.take(1)[0]?.fd.close()
    unwilling.die()
    t.ok(resumed)
    t.equal(await client.ended, 'end')
    t.equal(client.received, '', 'no 503 into the middle of a conversation')
    t.equal(await settled(giver, sequence), 'ended')
    const { services } = await broker.status()
    t.match(services.find(({ name }) => name === 'brief')?.outcomes, { rejected: 1 })
    giver.die()
  })

  await t.test('its client leaves while it is held: it has ended', async (t) => {
    const giver = await join(t, broker, 'web')
    const { client, fd, offer } = await adopted(t, broker, giver, 'web')
    const unwilling = await join(t, broker, 'web')
    const sequence = handBack(giver, fd, offer)
    await taken(giver, sequence, fd)
    await resumedOffer(unwilling)
    unwilling.take(1)[0]?.fd.close()
    unwilling.die()
    client.socket.destroy()
    t.equal(await settled(giver, sequence), 'ended')
    giver.die()
  })

  await t.test('RESUMES of a backend that was not granted handback/1 is a violation', async (t) => {
    const plain = await FalseBackend.register(t, broker.control, hello('web'))
    plain.wire.write({ type: 'resumes', schemas: [SCHEMA] })
    await plain.wire.end()
  })

  await t.test(
    'REBALANCE: a backend with more than its share is asked when another has joined',
    async (t) => {
      const full = await join(t, broker, 'spread')
      const mine: { fd: OwnedFd; offer: Offer; client: Client }[] = []
      for (let count = 0; count < 20; count++) mine.push(await adopted(t, broker, full, 'spread'))
      t.same(full.wire.all('rebalance'), [])
      const empty = await join(t, broker, 'spread')
      const [{ count }] = [await full.wire.frame('rebalance')]
      t.equal(count, 10)
      for (const { fd, offer } of mine.slice(0, count)) {
        const sequence = handBack(full, fd, offer)
        await taken(full, sequence, fd)
      }
      const all = () => empty.wire.all('offer').flatMap(({ offers }) => offers)
      await eventually(() => all().length === 10, 'the other one is offered what it has above its share')
      const fds = empty.take(10)
      empty.ack(...all())
      t.equal(fds.length, 10)
      full.wire.write({ type: 'stats', adopted: 20, closed: 10, lag: 0 })
      await full.probe()
      await broker.until(
        ({ services }) =>
          services.find(({ name }) => name === 'spread')?.backends.every(({ load }) => load === 10) === true,
        'ten each',
      )
      t.same(empty.wire.all('rebalance'), [])
      for (const backend of [full, empty]) backend.die()
    },
  )

  t.equal(await unaccountedByAll(broker), 0)
})
