import { ulidFromBytes } from '@baton/backend-sdk/protocol'
import type { OwnedFd } from '@baton/native-sendmsg'
import * as fc from 'fast-check'
import t from 'tap'
import {
  AcceptedClient,
  type ClientConnection,
  FIRST_INHERITED,
  type ParkedClient,
} from '../src/worker/connection/connection.ts'
import { createConnectionId } from '../src/worker/connection/connection-id.ts'
import { noRecorder, type Recipient } from '../src/worker/recorder/recorder.ts'
import { FlightRecorder } from '../src/worker/recorder/flight-recorder.ts'
import type { FlightRecord, RecordedOutcome, Step, StepReason } from '../src/api/flight-record.ts'

const web1 = { ulid: '01J0000000000000000000WEB1', slot: 'web-1' }
const web2 = { ulid: '01J0000000000000000000WEB2', slot: 'web-2' }
const upstream = { ulid: null, slot: '127.0.0.1:3000' }
const listener = { name: 'public', protocol: 'http' } as const

/** Never used by the recorder. */
const noDescriptor = {} as OwnedFd

const START = 1000

/** Accepted from `START` on, one millisecond apart. */
function client(order: number, changes: Partial<ClientConnection> = {}): ClientConnection {
  return {
    order,
    fd: noDescriptor,
    listener,
    peer: { family: 'IPv4', address: '192.0.2.7', port: 40_000 + Math.abs(order % 1000) },
    id: createConnectionId(1_700_000_000_000 + Math.abs(order % 1000)),
    acceptedAt: START + order,
    tried: undefined,
    pressedSince: undefined,
    ...changes,
  }
}

const all = { slowest: false, limit: 1000 } as const

void t.test('the straight path, with times since accept', async (t) => {
  const recorder = new FlightRecorder(4)
  const connection = client(1)
  recorder.accepted(connection, 'web')
  t.match(recorder.list(all), [{ outcome: null, backend: null, durationMs: null, steps: [{ at: 0 }] }])
  recorder.note('chosen', [connection], START + 1.25, web1)
  t.match(recorder.list(all), [{ outcome: null, backend: { slot: 'web-1' } }], 'on its way')
  recorder.note('offered', [connection], START + 1.5)
  recorder.note('acknowledged', [connection], START + 3)
  recorder.note('released', [connection], START + 3.25)
  t.same(recorder.list(all), [
    {
      id: ulidFromBytes(connection.id),
      service: 'web',
      listener: 'public',
      peer: '192.0.2.7:40001',
      acceptedAt: '2023-11-14T22:13:20.001Z',
      outcome: 'handed_off',
      reason: null,
      backend: { id: web1.ulid, slot: 'web-1' },
      durationMs: 2,
      steps: [
        { at: 0, step: 'accepted' },
        { at: 0.25, step: 'chosen', backend: 'web-1' },
        { at: 0.5, step: 'offered', backend: 'web-1' },
        { at: 2, step: 'acknowledged', backend: 'web-1' },
        { at: 2.25, step: 'released', backend: 'web-1' },
      ],
    },
  ])
  t.same(recorder.find(connection.id), recorder.list(all)[0])
  t.equal(recorder.find(client(2).id), undefined)
})

void t.test('each end, with its reason and the owner of the client', async (t) => {
  type Note = [step: Step, recipient?: Recipient | undefined, reason?: StepReason]
  const cases: [what: string, notes: Note[], expected: object][] = [
    ['held', [['held', undefined, 'NoReadyBackend']], { outcome: null, durationMs: null, backend: null }],
    [
      'rejected',
      [
        ['held', undefined, 'NoReadyBackend'],
        ['rejected', undefined, 'hold_timeout'],
      ],
      { outcome: 'rejected', reason: 'hold_timeout', backend: null, durationMs: 2 },
    ],
    [
      'gone',
      [['held', undefined, 'NoReadyBackend'], ['client_gone']],
      { outcome: 'client_gone', reason: null },
    ],
    [
      'returned and taken by another',
      [
        ['chosen', web1],
        ['offered'],
        ['returned', undefined, 'BackendOverloaded'],
        ['chosen', web2],
        ['offered'],
        ['acknowledged'],
        ['released'],
      ],
      {
        outcome: 'handed_off',
        reason: null,
        backend: { slot: 'web-2' },
        durationMs: 6,
        steps: [{}, {}, {}, { step: 'returned', backend: 'web-1', reason: 'BackendOverloaded' }],
      },
    ],
    [
      'returned and held',
      [
        ['chosen', web1],
        ['offered'],
        ['returned', undefined, 'BackendGone'],
        ['held', undefined, 'BackendGone'],
      ],
      { outcome: null, backend: null },
    ],
    [
      'relinquished',
      [['chosen', web1], ['offered'], ['relinquished']],
      { outcome: 'relinquished', backend: { slot: 'web-1' }, durationMs: 3 },
    ],
    [
      'relayed by a backend, which acknowledged',
      [['relay_offered', web1], ['relayed'], ['closed']],
      {
        outcome: 'relayed',
        backend: { slot: 'web-1' },
        durationMs: 2,
        steps: [
          {},
          { step: 'relay_offered' },
          { step: 'acknowledged', at: 2 },
          { step: 'relayed', at: 2 },
          { step: 'closed', at: 3 },
        ],
      },
    ],
    [
      'relayed to an upstream, which cannot',
      [['relay_offered', upstream], ['relayed']],
      {
        outcome: 'relayed',
        backend: null,
        steps: [{}, { backend: '127.0.0.1:3000' }, { step: 'relayed', backend: '127.0.0.1:3000' }],
      },
    ],
    ['moved away', [['held', undefined, 'NoReadyBackend'], ['moved']], { outcome: 'moved', durationMs: 2 }],
    [
      'moved here',
      [['moved'], ['chosen', web1], ['offered'], ['acknowledged'], ['released']],
      { outcome: 'handed_off', durationMs: 4 },
    ],
  ]
  for (const [what, notes, expected] of cases) {
    const recorder = new FlightRecorder(4)
    const connection = client(1)
    recorder.accepted(connection, 'web')
    for (const [index, [step, recipient, reason]] of notes.entries())
      recorder.note(step, [connection], START + 2 + index, recipient, reason)
    t.match(recorder.find(connection.id) ?? recorder.list(all)[0], expected, what)
  }
})

void t.test('the ring keeps the last ones, and ignores steps of the others', async (t) => {
  const recorder = new FlightRecorder(3)
  const clients = [1, 2, 3, 4, 5].map((order) => client(order))
  for (const connection of clients) {
    recorder.accepted(connection, 'web')
    recorder.note('chosen', [connection], START + 10, web1)
    recorder.note('offered', [connection], START + 10)
  }
  recorder.note('acknowledged', clients, START + 11)
  recorder.note('released', clients, START + 11)
  const [first] = clients as [ClientConnection]
  t.equal(recorder.recorded, 3)
  t.equal(recorder.capacity, 3)
  t.same(
    recorder.list(all).map(({ id }) => id),
    clients
      .slice(2)
      .toReversed()
      .map(({ id }) => ulidFromBytes(id)),
  )
  t.equal(recorder.find(first.id), undefined)
  t.same(
    recorder.list(all).map(({ steps }) => steps.length),
    [5, 5, 5],
    'earlier clients’ steps are not in their records',
  )
})

void t.test('clients of a predecessor sort before all other clients, and are evicted first', async (t) => {
  for (const capacity of [4, 5, 7]) {
    const recorder = new FlightRecorder(capacity)
    const clients = [FIRST_INHERITED, FIRST_INHERITED + 1, 1, 2].map((order) => client(order))
    for (const connection of clients) recorder.accepted(connection, 'web')
    t.same(
      recorder.list(all).map(({ id }) => id),
      clients.toReversed().map(({ id }) => ulidFromBytes(id)),
    )
    for (let order = 3; order <= capacity; order++) {
      clients.push(client(order))
      recorder.accepted(clients.at(-1) as ClientConnection, 'web')
    }
    t.equal(recorder.recorded, capacity)
    t.same(
      recorder.list(all).map(({ id }) => id),
      clients
        .slice(2)
        .toReversed()
        .map(({ id }) => ulidFromBytes(id)),
      'they were evicted, and no others',
    )
  }
})

void t.test('by service, by outcome, the slowest, and not too many', async (t) => {
  const recorder = new FlightRecorder(16)
  const orders = [1, 2, 3, 4, 5, 6]
  const clients = orders.map((order) => client(order, { acceptedAt: performance.now() - 100 }))
  for (const [index, connection] of clients.entries()) {
    recorder.accepted(connection, index % 2 === 0 ? 'even' : 'odd')
    if (index === 5) continue
    recorder.note('chosen', [connection], connection.acceptedAt, web1)
    recorder.note('offered', [connection], connection.acceptedAt)
    recorder.note(index < 3 ? 'acknowledged' : 'relinquished', [connection], connection.acceptedAt + index)
    if (index < 3) recorder.note('released', [connection], connection.acceptedAt + 99)
  }
  const found = (query: { service?: string; outcome?: RecordedOutcome; slowest?: boolean; limit?: number }) =>
    recorder
      .list({ slowest: false, limit: 1000, ...query })
      .map(({ id }) => clients.findIndex((each) => ulidFromBytes(each.id) === id))
  t.same(found({}), [5, 4, 3, 2, 1, 0])
  t.same(found({ limit: 2 }), [5, 4])
  t.same(found({ service: 'even' }), [4, 2, 0])
  t.same(found({ service: 'none' }), [])
  t.same(found({ outcome: 'handed_off' }), [2, 1, 0])
  t.same(found({ outcome: 'relinquished', service: 'odd' }), [3])
  t.same(found({ slowest: true }), [5, 4, 3, 2, 1, 0], 'the one that still waits takes longest')
  t.same(found({ slowest: true, outcome: 'handed_off', limit: 1 }), [2])
})

void t.test('an endless path is limited, and its end is kept', async (t) => {
  const recorder = new FlightRecorder(2)
  const connection = client(1)
  recorder.accepted(connection, 'web')
  for (let round = 0; round < 100; round++) {
    recorder.note('chosen', [connection], START + round, web1)
    recorder.note('offered', [connection], START + round)
    recorder.note('returned', [connection], START + round, undefined, 'BackendAckTimeout')
  }
  recorder.note('rejected', [connection], START + 1000, undefined, 'shutdown')
  const record = recorder.find(connection.id)
  t.equal(record?.steps.length, 65)
  t.match(record, { outcome: 'rejected', reason: 'shutdown', durationMs: 999 })
  recorder.accepted(client(3), 'web')
  t.equal(recorder.list(all)[0]?.steps.length, 1, 'the next one in the slot has none of its steps')
})

void t.test('an id is created when it is read or offered, and not before', async (t) => {
  const recorder = new FlightRecorder(4)
  let made = 0
  const bytes = createConnectionId(Date.now())
  const connection = client(1)
  Object.defineProperty(connection, 'id', {
    get: () => {
      made += 1
      return bytes
    },
  })
  recorder.accepted(connection, 'web')
  recorder.note('held', [connection], START + 5, undefined, 'NoReadyBackend')
  t.equal(recorder.find(client(2).id), undefined)
  t.equal(made, 0)
  t.equal(recorder.list(all)[0]?.id, ulidFromBytes(bytes))
  t.equal(made, 1)
  t.equal(recorder.find(bytes)?.steps.length, 2)
  recorder.note('offered', [connection], START + 6)
  t.equal(made, 1)
})

void t.test('an accepted client and its record have the same id', async (t) => {
  const recorder = new FlightRecorder(4)
  const before = Date.now()
  const peer = { family: 'IPv6', address: '2001:db8::1', port: 443 } as const
  const accepted = new AcceptedClient(1, noDescriptor, peer, listener)
  recorder.accepted(accepted, 'web')
  recorder.note('relay_offered', [accepted], performance.now(), web1)
  const record = recorder.find(accepted.id)
  t.equal(record?.peer, '[2001:db8::1]:443')
  const at = Date.parse(record?.acceptedAt ?? '')
  t.ok(at >= before - 1 && at <= Date.now(), `${record?.acceptedAt}`)

  const local = client(2, {
    peer: { family: 'unix', address: '', port: 0 },
    acceptedAt: performance.now(),
  })
  recorder.accepted(local, 'web')
  t.equal(recorder.list(all)[0]?.peer, 'unix')
})

void t.test('the ring is the tail of a list that forgets nothing', async (t) => {
  const STEPS: readonly Step[] = ['chosen', 'offered', 'held', 'returned', 'relay_offered', 'rejected']
  const action = fc.oneof(
    fc.constant({ kind: 'accept' as const }),
    fc.record({ kind: fc.constant('note' as const), back: fc.nat(20), step: fc.constantFrom(...STEPS) }),
  )
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 8 }), fc.array(action, { maxLength: 120 }), (capacity, actions) => {
      const recorder = new FlightRecorder(capacity)
      const expected: { connection: ClientConnection; steps: Step[] }[] = []
      for (const [at, each] of actions.entries()) {
        if (each.kind === 'accept') {
          const connection = client(expected.length + 1)
          expected.push({ connection, steps: ['accepted'] })
          recorder.accepted(connection, 'web')
        } else {
          const met = expected.at(-1 - each.back)
          if (met === undefined) continue
          if (met.steps.length < 60) {
            met.steps.push(each.step)
            recorder.note(each.step, [met.connection], START + at)
          }
        }
      }
      const tail = expected.slice(-capacity).toReversed()
      t.same(
        recorder.list(all).map(({ id, steps }) => ({ id, steps: steps.map(({ step }) => step) })),
        tail.map(({ connection, steps }) => ({ id: ulidFromBytes(connection.id), steps })),
      )
      t.equal(recorder.recorded, tail.length)
    }),
    { numRuns: 200 },
  )
})

/** Parked, as a backend hands it back. */
function parked({ id }: Pick<ClientConnection, 'id'>): ParkedClient {
  return { fd: noDescriptor, listener, id, idleUntil: Number.POSITIVE_INFINITY }
}

/** Its next request has arrived. */
function awake({ id, record }: ParkedClient, at: number): ClientConnection {
  return client(1, { id, record, acceptedAt: at })
}

function handOff(recorder: FlightRecorder, connection: ClientConnection, at: number, to: Recipient): void {
  recorder.note('chosen', [connection], at, to)
  recorder.note('offered', [connection], at)
  recorder.note('acknowledged', [connection], at + 2)
  recorder.note('released', [connection], at + 2)
}

const names = (record: FlightRecord | undefined) =>
  record?.steps.map(({ step, backend }) => (backend === undefined ? step : `${step} ${backend}`))

void t.test('a connection that outlives a process keeps its record', async (t) => {
  // It got another one, with the same id, for each time that it was parked, and only the first was found.
  const recorder = new FlightRecorder(4)
  const connection = client(1)
  recorder.accepted(connection, 'web')
  handOff(recorder, connection, START + 1, web1)
  const idle = parked(connection)
  recorder.returned('handed_back', [idle], 'web', START + 5001, web1)
  t.match(recorder.find(connection.id), { outcome: null, backend: null, durationMs: 2 })
  const next = awake(idle, START + 9001)
  recorder.again('awake', next, 'web', START + 9001)
  t.match(recorder.find(connection.id), { outcome: null, durationMs: null }, 'on its way')
  handOff(recorder, next, START + 9001.5, web2)
  t.match(recorder.list(all), [{ outcome: 'handed_off', backend: { slot: 'web-2' }, durationMs: 2.5 }])
  t.equal(recorder.recorded, 1)
  t.same(names(recorder.find(connection.id)), [
    'accepted',
    'chosen web-1',
    'offered web-1',
    'acknowledged web-1',
    'released web-1',
    'handed_back web-1',
    'parked',
    'awake',
    'chosen web-2',
    'offered web-2',
    'acknowledged web-2',
    'released web-2',
  ])
  const again = parked(connection)
  recorder.returned('handed_back', [again], 'web', START + 10_000, web2)
  recorder.note('idle_closed', [again], START + 20_000)
  const record = recorder.find(connection.id)
  t.match(record, { outcome: 'idle_closed', backend: null, durationMs: 2.5 }, 'without the time it was idle')
  t.match(record?.steps.slice(-3), [
    { step: 'handed_back', backend: 'web-2', at: 9999 },
    { step: 'parked', at: 9999 },
    { step: 'idle_closed', at: 19_999 },
  ])
  t.same(recorder.list({ ...all, outcome: 'idle_closed' }), [record])
})

void t.test('one that goes on with its state is not parked', async (t) => {
  const recorder = new FlightRecorder(4)
  const connection = client(1)
  recorder.accepted(connection, 'web')
  handOff(recorder, connection, START + 1, web1)
  recorder.again('handed_back', connection, 'web', START + 100)
  recorder.note('chosen', [connection], START + 101, web2)
  recorder.note('acknowledged', [connection], START + 104)
  recorder.note('resumed', [connection], START + 104)
  recorder.note('released', [connection], START + 104)
  t.match(recorder.find(connection.id), {
    outcome: 'handed_off',
    durationMs: 4,
    backend: { slot: 'web-2' },
    steps: [{}, {}, {}, {}, {}, { step: 'handed_back' }, {}, {}, { step: 'resumed', backend: 'web-2' }],
  })
})

void t.test('idle connections without a record get one only while there is room', async (t) => {
  const recorder = new FlightRecorder(3)
  const id = () => createConnectionId(Date.now() - 5000)
  const idle = Array.from({ length: 15_000 }, () => parked({ id: id() }))
  const active = client(1)
  recorder.accepted(active, 'web')
  recorder.returned('moved', idle, 'web', START)
  t.equal(recorder.recorded, 3)
  t.equal(recorder.list(all).length, 3)
  t.equal(idle.filter(({ record }) => record !== undefined).length, 2)
  t.ok(
    recorder.list(all).some(({ id: each }) => each === ulidFromBytes(active.id)),
    'they replace no others',
  )
  const [first, second] = idle as [ParkedClient, ParkedClient]
  t.match(recorder.find(first.id), { peer: 'unknown', outcome: null, service: 'web', listener: 'public' })
  t.same(names(recorder.find(first.id)), ['accepted', 'moved', 'parked'])
  recorder.again('awake', awake(first, START + 2), 'web', START + 2)
  t.equal(recorder.find(first.id)?.peer, '192.0.2.7:40001', 'known from then on')
  recorder.note('idle_closed', [second], START + 3)
  t.match(recorder.find(second.id), { outcome: 'idle_closed', durationMs: null })

  const last = idle.at(-1) as ParkedClient
  const connection = awake(last, START + 10)
  recorder.again('awake', connection, 'web', START + 10)
  recorder.note('held', [connection], START + 11, undefined, 'NoReadyBackend')
  const record = recorder.find(last.id)
  t.match(
    record?.steps.map(({ step }) => step),
    ['accepted', 'awake', 'held'],
  )
  t.ok((record?.steps[1]?.at ?? 0) >= 5000, 'since accept, which its id tells')
  t.equal(recorder.recorded, 3, 'it has replaced the oldest')
})

// A record of each began, whatever was lost for it.
void t.test('connections with state continue their records, and push out no others', async (t) => {
  const recorder = new FlightRecorder(3)
  const [known, active] = [client(1), client(2)] as const
  for (const each of [known, active]) recorder.accepted(each, 'web')
  handOff(recorder, known, START + 1, web1)
  recorder.note('held', [active], START + 2, undefined, 'NoReadyBackend')
  // It comes from the backend with its id alone.
  recorder.again('handed_back', { ...client(3), id: known.id }, 'web', START + 100)
  t.equal(recorder.recorded, 2)
  t.equal(recorder.find(known.id)?.steps.at(-1)?.step, 'handed_back')
  for (let order = 4; order < 5000; order++)
    recorder.again(
      'handed_back',
      { ...client(order), id: createConnectionId(Date.now()) },
      'web',
      START + 100,
    )
  t.equal(recorder.recorded, 3)
  t.ok(recorder.list(all).some(({ id }) => id === ulidFromBytes(active.id)))
})

void t.test('an id from a backend touches no record that is not of a connection it could have', async (t) => {
  const recorder = new FlightRecorder(8)
  const held = client(1)
  const other = client(2)
  for (const each of [held, other]) recorder.accepted(each, 'web')
  recorder.note('chosen', [held, other], START + 5, web1)
  recorder.note('offered', [held], START + 5)
  handOff(recorder, other, START + 5, web1)
  const before = [recorder.find(held.id), recorder.find(other.id)]
  recorder.returned('handed_back', [parked(held)], 'web', START + 9, web2)
  recorder.returned('handed_back', [parked(other)], 'api', START + 9, web2)
  const shown = recorder
    .list(all)
    .filter(({ service, steps }) => service === 'web' && steps[1]?.step !== 'handed_back')
  t.same(
    shown.toSorted((a, b) => (a.id < b.id ? -1 : 1)),
    before,
  )
})

void t.test('records are found by their ids, however these collide', async (t) => {
  const tail = fc.integer({ min: 0, max: 2 })
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20 }), fc.array(tail, { maxLength: 60 }), (capacity, tails) => {
      const recorder = new FlightRecorder(capacity)
      const clients = tails.map((last, index) => {
        const id = createConnectionId(1_700_000_000_000 + index)
        id.writeInt32LE(last, 12)
        const connection = client(index + 1, { id })
        recorder.accepted(connection, 'web')
        recorder.note('offered', [connection], START + 100)
        return connection
      })
      for (const [index, { id }] of clients.entries()) {
        const kept = index >= clients.length - capacity
        t.equal(recorder.find(id)?.id, kept ? ulidFromBytes(id) : undefined)
      }
    }),
  )
})

void t.test('of a connection that is parked for days, the first steps and the last are kept', async (t) => {
  const recorder = new FlightRecorder(2)
  const connection = client(1)
  recorder.accepted(connection, 'web')
  handOff(recorder, connection, START + 1, web1)
  for (let turn = 1; turn <= 1000; turn++) {
    const idle = parked(connection)
    recorder.returned('handed_back', [idle], 'web', START + turn * 100_000, web1)
    const next = awake(idle, START + turn * 100_000 + 50)
    recorder.again('awake', next, 'web', next.acceptedAt)
    handOff(recorder, next, next.acceptedAt + 0.25, web1)
  }
  const record = recorder.find(connection.id)
  t.match(record, { outcome: 'handed_off', durationMs: 2.25 })
  t.equal(record?.steps.length, 65)
  t.equal(record?.steps[0]?.step, 'accepted')
  t.same(
    record?.steps.flatMap(({ omitted }, index) => (omitted === undefined ? [] : [[index, omitted]])),
    [[9, 7004 - 64]],
  )
  t.equal(recorder.recorded, 1)
})

void t.test('no recorder keeps no records', async (t) => {
  noRecorder.accepted(client(1), 'web')
  noRecorder.note('rejected', [client(1)], START, undefined, 'shutdown')
  t.pass()
})
