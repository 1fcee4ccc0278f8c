/** Generators for the protocol's property tests: any frame that is valid on the wire. */
import * as fc from 'fast-check'
import {
  type Frame,
  GIVEN_BACK_REASONS,
  NACK_REASONS,
  OFFER_KINDS,
  SETTLED_OUTCOMES,
  ulidFromBytes,
} from '../src/protocol/index.ts'

export const bytes = (length: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ minLength: length, maxLength: length }).map((array) => Buffer.from(array))

export const ulid = bytes(16).map((array) => ulidFromBytes(array))

/** Records with the prototype of object literals. */
const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }) =>
  fc.record(model, { noNullPrototype: true })

const text = fc.string({ unit: 'binary', maxLength: 40 })
const name = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 40 }).filter(({ length }) => length <= 64)
const capability = fc.string({ unit: 'binary', maxLength: 30 })
const path = name.filter((value) => Buffer.byteLength(value) <= 107)
const orNull = <T>(inner: fc.Arbitrary<T>) => fc.option(inner, { nil: null })
const count = fc.maxSafeNat()
const milliseconds = fc.double({ min: 0, max: 1e9, noNaN: true }).map((value) => value + 0)
const period = fc.double({ min: 0, minExcluded: true, max: 1e9, noNaN: true })
const sequence = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER })

// Through JSON and back, so that the value has no -0 and compares equal after decoding.
const meta = fc
  .dictionary(fc.string({ maxLength: 8 }), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 4 })
  .map((value): Record<string, unknown> => JSON.parse(JSON.stringify(value)))

const type = <const T extends string>(value: T): fc.Arbitrary<T> => fc.constant(value)

const blob = fc.uint8Array({ maxLength: 40 }).map((array) => Buffer.from(array))
const carried = {
  kind: fc.constantFrom('replay' as const, 'raw' as const),
  schema: fc.string({ unit: 'binary', maxLength: 60 }),
  prefix: blob,
  requestHead: blob,
  answerHead: blob,
  state: blob,
}

const anyOffer = {
  token: bytes(16),
  connection: bytes(16),
  deadline: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  listener: fc.string({ unit: 'binary', maxLength: 60 }),
  meta: fc.option(meta, { nil: undefined }),
}
const offer = fc.oneof(
  record({
    ...anyOffer,
    kind: fc.constantFrom(...OFFER_KINDS).filter((kind) => kind !== 'resumed'),
    resumed: fc.constant(undefined),
  }),
  record({ ...anyOffer, kind: fc.constant('resumed' as const), resumed: record(carried) }),
)

const common = {
  token: bytes(16),
  connection: bytes(16),
  keepAlive: fc.nat(0xffff_ffff),
  listener: fc.string({ unit: 'binary', maxLength: 60 }),
  meta: fc.option(meta, { nil: undefined }),
}
const empty = fc.constant(Buffer.alloc(0))
const handBack = fc.oneof(
  record({
    ...common,
    kind: fc.constant('idle' as const),
    schema: fc.constant(''),
    prefix: empty,
    requestHead: empty,
    answerHead: empty,
    state: empty,
  }),
  record({ ...common, ...carried }),
)

// Strictly increasing sequences: a sorted set of numbers.
const inSequence = <T extends object>(entry: fc.Arbitrary<T>) =>
  fc.uniqueArray(sequence, { minLength: 1, maxLength: 100 }).chain((sequences) =>
    fc.array(entry, { minLength: sequences.length, maxLength: sequences.length }).map((drawn) =>
      drawn.map((one, index) => ({
        sequence: sequences.toSorted((a, b) => a - b)[index] ?? 0,
        ...one,
      })),
    ),
  )

const offers = inSequence(offer)
const handBacks = inSequence(handBack)

const batch = <T>(entry: fc.Arbitrary<T>) => fc.array(entry, { minLength: 1, maxLength: 100 })

export const frames: Record<Frame['type'], fc.Arbitrary<Frame>> = {
  hello: record({
    type: type('hello'),
    protocol: fc.integer({ min: 1 }),
    capabilities: fc.array(capability, { maxLength: 3 }),
    service: name,
    version: orNull(text),
    weight: fc.double({ min: 0, minExcluded: true, max: 1000, noNaN: true }),
    pid: fc.integer({ min: 1 }),
    backend: orNull(ulid),
    sdk: text,
    secret: orNull(text),
    reconnect: orNull(record({ path })),
    draining: orNull(fc.boolean()),
  }),
  welcome: record({
    type: type('welcome'),
    protocol: fc.integer({ min: 1 }),
    capabilities: fc.array(capability, { maxLength: 3 }),
    broker: ulid,
    backend: ulid,
    slot: name,
    service: name,
    heartbeatInterval: period,
    tokenTtl: period,
    ackDeadline: period,
    handBackWindow: fc.constant<number | null>(null),
    parkAfter: fc.constant<number | null>(null),
  }).chain((frame) =>
    // Without a window nothing is granted, and nothing of it is on the wire.
    fc.oneof(
      fc.constant(frame),
      record({ handBackWindow: fc.integer({ min: 1 }), parkAfter: orNull(milliseconds) }).map((granted) => ({
        ...frame,
        ...granted,
      })),
    ),
  ),
  refused: record({
    type: type('refused'),
    code: name,
    message: text,
    retry: fc.boolean(),
    retryAfter: orNull(milliseconds),
  }),
  reconnect: record({ type: type('reconnect'), reason: text }),
  drain: record({ type: type('drain'), deadline: orNull(milliseconds), reason: text }),
  drained: record({ type: type('drained') }),
  heartbeat: record({ type: type('heartbeat'), id: count, reply: fc.boolean() }),
  stats: record({ type: type('stats'), adopted: count, closed: count, lag: milliseconds }),
  offer: record({ type: type('offer'), offers }),
  ack: record({ type: type('ack'), acks: batch(record({ sequence, connection: bytes(16) })) }),
  nack: record({
    type: type('nack'),
    nacks: batch(
      record({
        sequence: fc.maxSafeNat(),
        reason: fc.constantFrom(...NACK_REASONS),
        token: bytes(16),
      }),
    ),
  }),
  revoke: record({ type: type('revoke'), sequences: batch(sequence) }),
  rebalance: record({ type: type('rebalance'), count: sequence }),
  resumes: record({ type: type('resumes'), schemas: fc.array(name, { maxLength: 5 }) }),
  ticket_keys: record({
    type: type('ticket_keys'),
    keys: fc.array(
      bytes(48).map((key) => Buffer.from(key).toString('base64')),
      { minLength: 1, maxLength: 8 },
    ),
  }),
  handback: record({ type: type('handback'), entries: handBacks }),
  taken: record({ type: type('taken'), sequences: batch(sequence) }),
  given_back: record({
    type: type('given_back'),
    entries: batch(record({ sequence, reason: fc.constantFrom(...GIVEN_BACK_REASONS) })),
  }),
  settled: record({
    type: type('settled'),
    entries: batch(record({ sequence, outcome: fc.constantFrom(...SETTLED_OUTCOMES) })),
  }),
}

export const anyFrame: fc.Arbitrary<Frame> = fc.oneof(...Object.values(frames))
