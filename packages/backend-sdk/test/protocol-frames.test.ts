import { deepStrictEqual, throws } from 'node:assert/strict'
import { inspect } from 'node:util'
import * as fc from 'fast-check'
import t from 'tap'
import {
  encodeBatch,
  encodeFrame,
  type Frame,
  FrameDecoder,
  FrameOrder,
  FrameType,
  type HelloFrame,
  isUlid,
  MAX_BATCH_ENTRIES,
  MAX_HANDBACK_BYTES,
  NACK_REASONS,
  type Offer,
  POST_WELCOME_LIMIT,
  ProtocolError,
  sealToken,
  ulidFromBytes,
  ulidTime,
  ulidToBytes,
} from '../src/protocol/index.ts'
import { anyFrame, bytes, frames } from './protocol-arbitraries.ts'

const decode = (encoded: Uint8Array): Frame[] => new FrameDecoder({ limit: POST_WELCOME_LIMIT }).push(encoded)

/** Plain copies for comparison: tokens and HELLO hide their secrets when printed. */
const plain = (frame: Frame): unknown => {
  if (frame.type === 'offer') {
    return { ...frame, offers: frame.offers.map((offer) => ({ ...offer, token: Buffer.from(offer.token) })) }
  }
  if (frame.type === 'nack') {
    return { ...frame, nacks: frame.nacks.map((nack) => ({ ...nack, token: Buffer.from(nack.token) })) }
  }
  if (frame.type === 'handback') {
    return {
      ...frame,
      entries: frame.entries.map((entry) => ({ ...entry, token: Buffer.from(entry.token) })),
    }
  }
  return { ...frame }
}

const jsonFrame = (code: number, payload: string | Buffer): Buffer => {
  const body = Buffer.concat([Buffer.from([code]), Buffer.from(payload)])
  const length = Buffer.alloc(4)
  length.writeUInt32LE(body.length)
  return Buffer.concat([length, body])
}

const anOffer = (sequence: number, over: Partial<Offer> = {}): Offer => ({
  sequence,
  token: Buffer.alloc(16, 0xaa),
  connection: Buffer.alloc(16, 0x01),
  deadline: 1n,
  kind: 'descriptor',
  listener: 'web',
  meta: undefined,
  resumed: undefined,
  ...over,
})

const offers = (...list: Offer[]): Buffer => encodeFrame({ type: 'offer', offers: list })

const shown = (value: unknown): string =>
  `${inspect(value, { depth: 9, showHidden: true })} ${JSON.stringify(value)}`

/** `test/long/repetitions.test.ts` draws ten times as many. */
const TIMES = Number(process.env['TIMES'] ?? 1)

const draw = (type: Frame['type']): Frame[] => fc.sample(frames[type], { numRuns: 1, seed: 1 })

const hello: HelloFrame = {
  type: 'hello',
  protocol: 1,
  capabilities: [],
  service: 'web',
  version: null,
  weight: 1,
  pid: 7,
  backend: null,
  sdk: 'test/1',
  secret: null,
  reconnect: null,
  draining: null,
}

void t.test('the decoder returns each frame as it was encoded', async (t) => {
  for (const [type, arbitrary] of Object.entries(frames)) {
    fc.assert(
      fc.property(arbitrary, (frame) => {
        const decoded = decode(encodeFrame(frame))
        deepStrictEqual(decoded.map(plain), [plain(frame)])
      }),
      { numRuns: 30 * TIMES },
    )
    t.pass(type)
  }
})

void t.test('the length field counts the type byte and the payload, little-endian', async (t) => {
  t.equal(encodeFrame({ type: 'drained' }).toString('hex'), '03000000067b7d')
  t.equal(
    encodeFrame({ type: 'revoke', sequences: [2 ** 40] }).toString('hex'),
    '0b0000001301000000000000010000',
  )
})

void t.test('a decoded frame can be kept: it shares no memory with the chunk and pins little', async (t) => {
  const chunk = Buffer.alloc(64 * 1024)
  const encoded = encodeFrame({ type: 'offer', offers: [1, 2].map((sequence) => anOffer(sequence)) })
  encoded.copy(chunk)
  const [frame] = decode(chunk.subarray(0, encoded.length))
  chunk.fill(0xff)
  if (frame?.type !== 'offer') throw new Error('expected OFFER')
  for (const { token, connection } of frame.offers) {
    t.ok(token.equals(Buffer.alloc(16, 0xaa)))
    t.ok(connection.equals(Buffer.alloc(16, 0x01)))
    for (const { buffer } of [token, connection])
      t.ok(buffer.byteLength <= 512, 'it pins at most one small allocation')
  }

  const many = Array.from({ length: 1000 }, (_, index) => anOffer(index + 1))
  const [big] = decode(encodeFrame({ type: 'offer', offers: many }))
  if (big?.type !== 'offer') throw new Error('expected OFFER')
  const allocations = new Set(
    big.offers.flatMap(({ token, connection }) => [token.buffer, connection.buffer]),
  )
  t.ok([...allocations].every(({ byteLength }) => byteLength <= 512))
  t.ok(allocations.size <= Math.ceil((1000 * 32) / 512) + 1, 'and shares it with others')
})

void t.test('JSON: unknown members are ignored and absent nullable members are null', async (t) => {
  const least = { protocol: 1, capabilities: [], service: 'web', weight: 1, pid: 7, sdk: 'test/1' }
  const payload = JSON.stringify({ ...least, type: 'welcome', later: { addition: true } })
  t.same(decode(jsonFrame(FrameType.HELLO, payload)).map(plain), [hello])
  t.same(decode(jsonFrame(FrameType.DRAINED, '{"__proto__":{"type":"hello"}}')), [{ type: 'drained' }])
})

void t.test(
  'JSON: a member of a wrong type is malformed, and named in the message without its value',
  async (t) => {
    const wrong: Partial<Record<keyof HelloFrame, unknown[]>> = {
      protocol: [0, 1.5, '1', null],
      capabilities: ['migrate', [1], {}, ['x'.repeat(65)], Array(65).fill('x')],
      service: ['', 7, null, 'x'.repeat(256)],
      version: [1, [], 'x'.repeat(129)],
      weight: [0, -1, 1000.5, '1'],
      pid: [0, 1.5, null],
      backend: ['', '01ARZ3NDEKTSV4RRFFQ69G5FAv', '81ARZ3NDEKTSV4RRFFQ69G5FAV', 7],
      sdk: [null, 7, 'x'.repeat(129)],
      secret: [7, ['hunter2'], { a: 'hunter2' }, 'hunter2'.repeat(1000)],
      reconnect: ['/run/a.sock', {}, { path: '' }, [], { path: 'é'.repeat(4097) }],
    }
    for (const [member, values] of Object.entries(wrong)) {
      for (const value of values) {
        const payload = JSON.stringify({ ...hello, [member]: value })
        throws(
          () => decode(jsonFrame(FrameType.HELLO, payload)),
          (error) =>
            error instanceof ProtocolError &&
            error.code === 'BATON_ERR_FRAME_MALFORMED' &&
            error.message.startsWith(`HELLO: member "${member}" is `) &&
            !inspect(error).includes('hunter2'),
          `${member}: ${JSON.stringify(value)}`,
        )
      }
      t.pass(member)
    }
    const longest = {
      ...hello,
      capabilities: Array(64).fill('x'.repeat(64)),
      service: 'x'.repeat(255),
      version: 'x'.repeat(128),
      sdk: 'x'.repeat(128),
      secret: 'x'.repeat(4096),
      reconnect: { path: `/${'é'.repeat(4095)}` },
    }
    t.same(decode(encodeFrame(longest)).map(plain), [longest], 'at its bounds a text is taken')
    t.throws(() => encodeFrame({ ...hello, version: 'x'.repeat(129) }), {
      code: 'BATON_ERR_FRAME_NOT_ENCODABLE',
    })
    const malformed = { code: 'BATON_ERR_FRAME_MALFORMED' }
    t.throws(() => decode(jsonFrame(FrameType.RECONNECT, `{"reason":"${'x'.repeat(1025)}"}`)), malformed)
    t.throws(
      () => decode(jsonFrame(FrameType.DRAIN, `{"deadline":null,"reason":"${'x'.repeat(1025)}"}`)),
      malformed,
    )
    t.throws(() => decode(jsonFrame(FrameType.HEARTBEAT, '{"id":1}')), {
      ...malformed,
      message: 'HEARTBEAT: member "reply" is absent, wanted a boolean',
    })
    t.throws(() => decode(jsonFrame(FrameType.STATS, '{"adopted":1,"closed":-1,"lag":0}')), malformed)
    t.throws(() => decode(jsonFrame(FrameType.STATS, '{"adopted":1,"closed":1,"lag":1e999}')), malformed)
    t.throws(() => decode(jsonFrame(FrameType.DRAIN, '{"deadline":"30s","reason":""}')), malformed)
  },
)

void t.test('JSON: anything but a UTF-8 JSON object is malformed, and is not quoted', async (t) => {
  const payloads = [
    '',
    'hunter2',
    '{"secret":"hunter2"',
    '[]',
    'null',
    '"hunter2"',
    '\ufeff{}',
    Buffer.from([0x22, 0xff, 0x22]),
  ]
  for (const payload of payloads) {
    try {
      decode(jsonFrame(FrameType.DRAINED, payload))
      t.fail(`took ${inspect(payload)}`)
    } catch (error) {
      t.match(error, { code: 'BATON_ERR_FRAME_MALFORMED' })
      t.notMatch(inspect(error), /hunter2/)
    }
  }
})

void t.test('binary: impossible entries are malformed', async (t) => {
  const malformed = { code: 'BATON_ERR_FRAME_MALFORMED' }
  const offer = encodeFrame({ type: 'offer', offers: [anOffer(1, { meta: { a: 1 } })] })
  const body = (change: (payload: Buffer) => Buffer | void) => {
    const payload = Buffer.from(offer.subarray(5))
    return jsonFrame(FrameType.OFFER, change(payload) ?? payload)
  }
  t.equal(decode(body((payload) => payload)).length, 1)
  t.throws(() => decode(body((payload) => void payload.writeUInt16LE(0, 0))), malformed, 'count 0')
  t.throws(() => decode(body((payload) => void payload.writeUInt16LE(2, 0))), malformed, 'count over entries')
  t.throws(() => decode(body((payload) => void payload.writeUInt32LE(0, 2))), malformed, 'sequence 0')
  t.throws(
    () => decode(body((payload) => void payload.writeUInt32LE(1 << 21, 6))),
    malformed,
    'sequence 2^53 and 1',
  )
  t.throws(() => decode(body((payload) => void payload.writeUInt8(0, 50))), malformed, 'kind 0')
  t.throws(() => decode(body((payload) => void payload.writeUInt8(4, 50))), malformed, 'kind 4')
  t.throws(
    () => decode(body((payload) => void payload.writeUInt8(200, 51))),
    malformed,
    'listener past the end',
  )
  t.throws(
    () => decode(body((payload) => void payload.writeUInt8(0xff, 52))),
    malformed,
    'listener not UTF-8',
  )
  t.throws(() => decode(body((payload) => void payload.write('[1234]', 57))), malformed, 'meta not an object')
  t.throws(() => decode(body((payload) => void payload.write('{', 62))), malformed, 'meta not JSON')
  t.throws(
    () => decode(body((payload) => Buffer.concat([payload, Buffer.alloc(1)]))),
    malformed,
    'a byte too many',
  )

  const pair = Buffer.concat([offer.subarray(7), offer.subarray(7)])
  t.throws(() => decode(jsonFrame(FrameType.OFFER, Buffer.concat([Buffer.from([2, 0]), pair]))), {
    ...malformed,
    message: 'OFFER: sequences do not increase',
  })
  const ack = Buffer.alloc(2 + 24)
  ack.writeUInt16LE(1)
  t.throws(() => decode(jsonFrame(FrameType.ACK, ack)), malformed, 'ACK of sequence 0')
  const nack = Buffer.alloc(2 + 25)
  nack.writeUInt16LE(1)
  t.throws(() => decode(jsonFrame(FrameType.NACK, nack)), malformed, 'NACK reason 0')
  nack.writeUInt8(NACK_REASONS.length + 1, 10)
  t.throws(() => decode(jsonFrame(FrameType.NACK, nack)), malformed, 'NACK reason not known')
  t.throws(() => decode(jsonFrame(FrameType.REVOKE, Buffer.alloc(1))), malformed, 'half a count')
})

void t.test('a connection to resume is offered with its whole state, or not at all', async (t) => {
  const malformed = { code: 'BATON_ERR_FRAME_MALFORMED' }
  const refused = { code: 'BATON_ERR_FRAME_NOT_ENCODABLE' }
  const block = {
    kind: 'raw' as const,
    schema: 'chat/1',
    prefix: Buffer.from('p'),
    requestHead: Buffer.alloc(0),
    answerHead: Buffer.alloc(0),
    state: Buffer.from('{}'),
  }
  const whole = offers(anOffer(1, { kind: 'resumed', resumed: block }), anOffer(2))
  const [frame] = decode(whole)
  if (frame?.type !== 'offer') throw new Error('expected OFFER')
  t.same(
    frame.offers.map(({ resumed }) => resumed),
    [block, undefined],
  )
  // Count, head of the entry, listener and length of meta come first.
  const at = 5 + 2 + 50 + 3 + 2
  t.equal(whole[at], 3, 'raw, as in HANDBACK')
  for (const [code, what] of [
    [1, 'an idle connection'],
    [4, 'an unknown kind'],
  ] as const) {
    const changed = Buffer.from(whole)
    changed[at] = code
    t.throws(() => decode(changed), malformed, what)
  }
  const plainOne = offers(anOffer(1, { kind: 'descriptor' }))
  plainOne[5 + 2 + 48] = 3
  t.throws(() => decode(plainOne), malformed, 'without its block')
  for (let size = 1; size < 1 + 1 + 6 + 4 * 4 + 3; size++) {
    const cut = Buffer.from(whole.subarray(5, at + size))
    cut.writeUInt16LE(1)
    t.throws(() => decode(jsonFrame(FrameType.OFFER, cut)), malformed, `cut after ${size} bytes`)
  }

  t.throws(() => offers(anOffer(1, { kind: 'resumed' })), refused, 'no block')
  t.throws(() => offers(anOffer(1, { resumed: block })), refused, 'a block of no resumed one')
  t.throws(
    () => offers(anOffer(1, { kind: 'resumed', resumed: { ...block, schema: 'x'.repeat(256) } })),
    refused,
    'schema of 256 bytes',
  )
  const most = MAX_HANDBACK_BYTES - 'web'.length - 'chat/1'.length - 'p'.length
  const filled = (length: number) =>
    offers(anOffer(1, { kind: 'resumed', resumed: { ...block, state: Buffer.alloc(length, 0x20) } }))
  t.equal(decode(filled(most)).length, 1, 'the most that fits')
  t.throws(() => filled(most + 1), refused, 'one byte more')
  const over = Buffer.concat([filled(most), Buffer.alloc(1)])
  over.writeUInt32LE(over.length - 4)
  over.writeUInt32LE(most + 1, over.length - most - 1 - 4)
  t.throws(() => decode(over), { ...malformed, message: /over 262144 bytes/ })

  const large = Array.from({ length: 9 }, (_, index) =>
    anOffer(index + 1, { kind: 'resumed', resumed: { ...block, state: Buffer.alloc(most, 0x20) } }),
  )
  const parts = decode(Buffer.concat(encodeBatch({ type: 'offer', offers: large })))
  t.equal(parts.length > 1 && parts.flatMap((part) => (part.type === 'offer' ? part.offers : [])).length, 9)
})

void t.test('the encoder refuses values that have no encoding', async (t) => {
  const refused = { name: 'FrameEncodeError', code: 'BATON_ERR_FRAME_NOT_ENCODABLE' }
  const loop: Record<string, unknown> = {}
  loop['self'] = loop
  t.throws(() => offers(), refused, 'no entry')
  t.throws(() => offers(anOffer(2), anOffer(2)), refused, 'sequence twice')
  t.throws(() => offers(anOffer(0)), refused, 'sequence 0')
  t.throws(() => offers(anOffer(2 ** 53)), refused, 'sequence not exact')
  t.throws(() => offers(anOffer(1, { token: Buffer.alloc(15) })), refused, 'short token')
  t.throws(() => offers(anOffer(1, { connection: Buffer.alloc(17) })), refused, 'long ULID')
  t.throws(() => offers(anOffer(1, { deadline: 2n ** 64n })), refused, 'deadline over u64')
  t.throws(() => offers(anOffer(1, { deadline: -1n })), refused, 'deadline under 0')
  t.throws(() => offers(anOffer(1, { listener: 'é'.repeat(128) })), refused, 'listener of 256 bytes')
  t.throws(() => offers(anOffer(1, { meta: { a: 'x'.repeat(65_535) } })), refused, 'meta over u16')
  t.throws(() => offers(anOffer(1, { meta: { a: 1n } })), refused, 'meta without JSON form')
  t.throws(() => offers(anOffer(1, { meta: loop })), refused, 'meta in a circle')
  t.throws(() => encodeFrame({ type: 'heartbeat', id: -1, reply: true }), {
    ...refused,
    message: 'HEARTBEAT: member "id" is a number not accepted here, wanted an integer from 0',
  })
})

void t.test('a frame over its limit throws; a batch over it goes as several frames', async (t) => {
  const over = { name: 'FrameEncodeError', code: 'BATON_ERR_FRAME_OVER_LIMIT' }
  const most = Math.floor((POST_WELCOME_LIMIT - 3) / 24)
  const acks = Array.from({ length: most + 1 }, (_, index) => ({
    sequence: index + 1,
    connection: Buffer.alloc(16),
  }))
  t.equal(decode(encodeFrame({ type: 'ack', acks: acks.slice(1) })).length, 1, 'the most that fits')
  t.throws(() => encodeFrame({ type: 'ack', acks }), over)

  const sequences = Array.from({ length: 3 * MAX_BATCH_ENTRIES }, (_, index) => index + 1)
  t.throws(() => encodeFrame({ type: 'revoke', sequences }), over, 'count over u16')
  const parts = encodeBatch({ type: 'revoke', sequences })
  t.ok(parts.length > 2)
  const seen = decode(Buffer.concat(parts)).flatMap((frame) =>
    frame.type === 'revoke' ? frame.sequences : [],
  )
  deepStrictEqual(seen, sequences)

  const heavy = Array.from({ length: 40 }, (_, index) =>
    anOffer(index + 1, { meta: { a: 'x'.repeat(65_000) } }),
  )
  const offered = decode(Buffer.concat(encodeBatch({ type: 'offer', offers: heavy })))
  t.equal(offered.flatMap((frame) => (frame.type === 'offer' ? frame.offers : [])).length, 40)

  t.same(encodeBatch({ type: 'ack', acks: [] }), [])
  t.equal(
    encodeBatch({ type: 'nack', nacks: [{ sequence: 0, reason: 'TokenMissing', token: Buffer.alloc(16) }] })
      .length,
    1,
  )
  t.throws(() => encodeBatch({ type: 'revoke', sequences: [0] }), { code: 'BATON_ERR_FRAME_NOT_ENCODABLE' })
})

void t.test('a decoded frame or an error prints no token and no secret', async (t) => {
  const token = Buffer.from('0123456789abcdef')
  const traces = /0123456789|30 31 32|48,49,50|3031/
  t.match(shown({ token }), traces, 'an unsealed token would be seen')
  const [offer] = decode(encodeFrame({ type: 'offer', offers: [anOffer(1, { token, deadline: 1n })] }))
  if (offer?.type !== 'offer') throw new Error('expected OFFER')
  const [entry] = offer.offers
  t.notMatch(inspect(offer, { depth: 9, showHidden: true }), traces)
  t.notMatch(JSON.stringify({ token: entry?.token }), traces)
  t.match(inspect(offer, { depth: 9 }), /\[token\]/)
  t.ok(entry?.token.equals(token), 'the bytes are available for comparison')
  const [keys] = decode(
    encodeFrame({ type: 'ticket_keys', keys: [Buffer.alloc(48, 0xaa).toString('base64')] }),
  )
  if (keys?.type !== 'ticket_keys') throw new Error('expected TICKET_KEYS')
  t.notMatch(shown(keys), 'qqqqqq')
  t.match(keys.keys, [/^qqqqqq/])
  t.ok(Buffer.isBuffer(sealToken(Buffer.alloc(16))))

  const [nack] = decode(
    encodeFrame({ type: 'nack', nacks: [{ sequence: 0, reason: 'TokenMismatch', token }] }),
  )
  t.notMatch(shown(nack), traces)
  const [greeting] = decode(encodeFrame({ ...hello, secret: 'hunter2' }))
  t.match(greeting, { secret: 'hunter2' })
  t.notMatch(shown(greeting), /hunter2/)

  const cut = encodeFrame({ type: 'offer', offers: [anOffer(1, { token, listener: 'x' })] })
  cut.writeUInt8(9, 5 + 2 + 48)
  try {
    decode(cut)
    t.fail('took an unknown kind')
  } catch (error) {
    t.match(error, { code: 'BATON_ERR_FRAME_MALFORMED' })
    t.notMatch(inspect(error, { depth: 9 }), traces)
  }
})

void t.test(
  'order: each side gets one greeting first, then only frames that the other side may send',
  async (t) => {
    const all = Object.values(frames).flatMap((arbitrary) => fc.sample(arbitrary, { numRuns: 1, seed: 1 }))
    const accepts = (role: 'broker' | 'backend', before: Frame['type'][]): string[] =>
      all
        .filter((frame) => {
          const order = new FrameOrder(role)
          for (const earlier of before.flatMap(draw)) order.check(earlier)
          try {
            order.check(frame)
            return true
          } catch (error) {
            t.match(error, { name: 'ProtocolError', code: 'BATON_ERR_FRAME_OUT_OF_ORDER', frames: [] })
            return false
          }
        })
        .map((frame) => frame.type)
    t.same(accepts('broker', []), ['hello'])
    const toBroker = ['drain', 'drained', 'heartbeat', 'stats', 'ack', 'nack', 'resumes', 'handback']
    t.same(accepts('broker', ['hello']), toBroker)
    t.same(accepts('broker', ['hello', 'drain', 'drained', 'ack']), toBroker)
    t.same(accepts('backend', []), ['welcome', 'refused'])
    t.same(accepts('backend', ['refused']), [])
    const toBackend = [
      'reconnect',
      'drain',
      'heartbeat',
      'offer',
      'revoke',
      'rebalance',
      'ticket_keys',
      'taken',
      'given_back',
      'settled',
    ]
    t.same(accepts('backend', ['welcome']), toBackend)
    t.same(accepts('backend', ['welcome', 'reconnect', 'offer']), toBackend)
  },
)

void t.test('ULID: text and bytes convert to each other', async (t) => {
  // The example from https://github.com/ulid/javascript with a known time.
  const ulid = '01ARYZ6S41TSV4RRFFQ69G5FAV'
  t.equal(ulidTime(ulidToBytes(ulid)), 1_469_918_176_385)
  t.equal(ulidToBytes('7ZZZZZZZZZZZZZZZZZZZZZZZZZ').toString('hex'), 'f'.repeat(32))
  t.equal(ulidToBytes('00000000000000000000000001').toString('hex'), '1'.padStart(32, '0'))
  fc.assert(
    fc.property(bytes(16), (array) => {
      const text = ulidFromBytes(array)
      deepStrictEqual([isUlid(text), ulidToBytes(text)], [true, array])
    }),
  )
  fc.assert(
    fc.property(bytes(16), bytes(16), (a, b) => {
      deepStrictEqual(
        Math.sign(Buffer.compare(a, b)),
        Number(ulidFromBytes(a) > ulidFromBytes(b)) - Number(ulidFromBytes(a) < ulidFromBytes(b)),
      )
    }),
  )
  const invalid = { name: 'InvalidUlidError', code: 'BATON_ERR_INVALID_ULID' }
  for (const text of [
    '',
    ulid.slice(1),
    `${ulid}0`,
    ulid.toLowerCase(),
    `8${ulid.slice(1)}`,
    ulid.replace('R', 'I'),
  ]) {
    t.throws(() => ulidToBytes(text), invalid, text)
  }
  t.throws(() => ulidFromBytes(Buffer.alloc(15)), invalid)
  t.throws(() => ulidTime(Buffer.alloc(17)), invalid)
})

void t.test('random frames are encoded within their limit', async () => {
  fc.assert(
    fc.property(anyFrame, (frame) => {
      const encoded = encodeFrame(frame)
      deepStrictEqual(encoded.readUInt32LE(0), encoded.length - 4)
    }),
  )
})
