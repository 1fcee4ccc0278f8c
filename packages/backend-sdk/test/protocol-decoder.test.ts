import { deepStrictEqual, ok } from 'node:assert/strict'
import * as fc from 'fast-check'
import t from 'tap'
import {
  encodeFrame,
  type Frame,
  FrameDecoder,
  FrameType,
  POST_WELCOME_LIMIT,
  PRE_WELCOME_LIMIT,
  ProtocolError,
} from '../src/protocol/index.ts'
import { anyFrame, bytes, frames as framesOf } from './protocol-arbitraries.ts'

const decoder = (limit = POST_WELCOME_LIMIT) => new FrameDecoder({ limit })

const raw = (code: number, payload: Uint8Array): Buffer => {
  const frame = Buffer.alloc(5 + payload.length)
  frame.writeUInt32LE(1 + payload.length)
  frame[4] = code
  frame.set(payload, 5)
  return frame
}

/** Pushes `stream` in the pieces given by `cuts`. */
const pushCut = (into: FrameDecoder, stream: Buffer, cuts: readonly number[]): Frame[] => {
  const ends = [...cuts.map((cut) => cut % (stream.length + 1)), stream.length].toSorted((a, b) => a - b)
  let at = 0
  return ends.flatMap((end) => {
    const piece = into.push(stream.subarray(at, end))
    at = end
    return piece
  })
}

const caught = (run: () => unknown): unknown => {
  try {
    run()
  } catch (error) {
    return error
  }
  throw new Error('expected it to throw')
}

/** `test/long/repetitions.test.ts` draws ten times as many. */
const TIMES = Number(process.env['TIMES'] ?? 1)

const known: ReadonlySet<number> = new Set(Object.values(FrameType))
const streams = fc.array(anyFrame, { minLength: 1, maxLength: 6 })
const cuts = fc.array(fc.nat({ max: 100_000 }), { maxLength: 20 })

void t.test('a stream gives the same frames, wherever it is cut', async () => {
  fc.assert(
    fc.property(streams, cuts, (frames, where) => {
      const stream = Buffer.concat(frames.map(encodeFrame))
      const into = decoder()
      deepStrictEqual(pushCut(into, stream, where), decoder().push(stream))
      deepStrictEqual(into.buffered, 0)
    }),
    { numRuns: 50 * TIMES },
  )
})

void t.test('a stream that trickles in byte by byte gives the same frames', async () => {
  fc.assert(
    fc.property(streams, (frames) => {
      const stream = Buffer.concat(frames.map(encodeFrame))
      const into = decoder()
      const seen = [...stream].flatMap((byte) => into.push(Uint8Array.of(byte)))
      deepStrictEqual(seen, decoder().push(stream))
    }),
    { numRuns: 10 * TIMES },
  )
})

void t.test('a truncated frame is not a frame, and its bytes are counted', async (t) => {
  fc.assert(
    fc.property(anyFrame, anyFrame, fc.nat(), (first, cut, seed) => {
      const encoded = encodeFrame(cut)
      const left = encoded.subarray(0, seed % encoded.length)
      const into = decoder()
      const whole = into.push(Buffer.concat([encodeFrame(first), left]))
      deepStrictEqual([whole.length, into.buffered], [1, left.length])
      deepStrictEqual(into.push(encoded.subarray(left.length)).length, 1)
      deepStrictEqual(into.buffered, 0)
    }),
    { numRuns: 50 * TIMES },
  )
  t.equal(decoder().push(Buffer.alloc(0)).length, 0)
})

void t.test('any Uint8Array works, at any offset in its memory', async (t) => {
  const encoded = encodeFrame({ type: 'heartbeat', id: 3, reply: false })
  const memory = new Uint8Array(encoded.length + 7)
  memory.set(encoded, 7)
  t.same(decoder().push(memory.subarray(7)), [{ type: 'heartbeat', id: 3, reply: false }])
})

void t.test(
  'garbage gives typed errors only, and the decoder never buffers more than the largest frame',
  async (t) => {
    const limit = 4096
    // Pure noise rarely has a valid length, so half of it is given a plausible one, and some are damaged frames.
    const body = fc.uint8Array({ minLength: 1, maxLength: 200 })
    const framed = fc
      .tuple(fc.oneof(fc.constantFrom(...Object.values(FrameType)), fc.nat({ max: 255 })), body)
      .map(([code, payload]) => raw(code, payload))
    const damaged = fc.tuple(anyFrame, fc.nat(), fc.nat({ max: 255 })).map(([frame, at, byte]) => {
      const encoded = Buffer.from(encodeFrame(frame))
      encoded[at % encoded.length] = byte
      return encoded
    })
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array)),
      framed,
      damaged,
      anyFrame.map(encodeFrame),
    )
    const outcomes = new Set<string>()
    fc.assert(
      fc.property(fc.array(piece, { minLength: 1, maxLength: 6 }), cuts, (pieces, where) => {
        const into = decoder(limit)
        try {
          const stream = Buffer.concat(pieces)
          const ends = [...where.map((cut) => cut % (stream.length + 1)), stream.length].toSorted(
            (a, b) => a - b,
          )
          let at = 0
          for (const end of ends) {
            into.push(stream.subarray(at, end))
            at = end
            ok(into.buffered <= limit + 5)
          }
          outcomes.add('taken')
        } catch (error) {
          ok(error instanceof ProtocolError, `untyped: ${String(error)}`)
          outcomes.add(error.code)
          deepStrictEqual(into.buffered, 0)
        }
      }),
      { numRuns: 300 * TIMES },
    )
    t.same([...outcomes].toSorted(), [
      'BATON_ERR_FRAME_MALFORMED',
      'BATON_ERR_FRAME_TOO_LARGE',
      'BATON_ERR_FRAME_UNKNOWN_TYPE',
      'taken',
    ])
  },
)

void t.test(
  'frames of hand-backs, damaged anywhere: typed errors, or frames that can be written again',
  async (t) => {
    const { offer, handback, taken, given_back, settled, rebalance, resumes } = framesOf
    const damage = fc.record({
      /** Each sets one byte of the payload. */
      bytes: fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { maxLength: 4 }),
      /** Leaves this much out, or repeats it. */
      cut: fc.option(fc.tuple(fc.nat(), fc.nat({ max: 40 }), fc.boolean()), { nil: undefined }),
    })
    const outcomes = new Set<string>()
    fc.assert(
      fc.property(
        fc.oneof(offer, handback, taken, given_back, settled, rebalance, resumes),
        damage,
        cuts,
        (frame, { bytes: changes, cut }, where) => {
          const encoded = encodeFrame(frame)
          let payload = Buffer.from(encoded.subarray(5))
          for (const [at, byte] of changes) payload[at % payload.length] = byte
          if (cut !== undefined) {
            const [seed, length, repeats] = cut
            const from = seed % payload.length
            const rest = payload.subarray(repeats ? from : Math.min(payload.length, from + length))
            payload = Buffer.concat([payload.subarray(0, repeats ? from + length : from), rest])
          }
          try {
            const decoded = pushCut(decoder(), raw(encoded[4] ?? 0, payload), where)
            deepStrictEqual(decoded.length, 1)
            for (const each of decoded) deepStrictEqual(decoder().push(encodeFrame(each)).length, 1)
            outcomes.add('taken')
          } catch (error) {
            ok(error instanceof ProtocolError, `untyped: ${String(error)}`)
            outcomes.add(error.code)
          }
        },
      ),
      { numRuns: 500 * TIMES },
    )
    t.same([...outcomes].toSorted(), ['BATON_ERR_FRAME_MALFORMED', 'taken'])
  },
)

void t.test('every cut inside a binary payload is malformed, never an index error', async (t) => {
  fc.assert(
    fc.property(anyFrame, fc.nat(), (frame, seed) => {
      const encoded = encodeFrame(frame)
      const shorter = raw(encoded[4] ?? 0, encoded.subarray(5, 5 + (seed % (encoded.length - 5))))
      const error = caught(() => decoder().push(shorter))
      ok(error instanceof ProtocolError)
      deepStrictEqual(error.code, 'BATON_ERR_FRAME_MALFORMED')
    }),
    { numRuns: 100 * TIMES },
  )
  const deep = Buffer.from(`{"reason":${'['.repeat(500_000)}`)
  t.match(
    caught(() => decoder().push(raw(FrameType.RECONNECT, deep))),
    { code: 'BATON_ERR_FRAME_MALFORMED' },
  )
})

void t.test(
  'a length over the limit is refused as soon as its four bytes are there, in any number of pieces',
  async (t) => {
    const length = Buffer.alloc(4)
    length.writeUInt32LE(PRE_WELCOME_LIMIT + 1)
    const tooLarge = { name: 'ProtocolError', code: 'BATON_ERR_FRAME_TOO_LARGE', frames: [] }
    t.throws(() => decoder(PRE_WELCOME_LIMIT).push(length), tooLarge)
    const into = decoder(PRE_WELCOME_LIMIT)
    into.push(length.subarray(0, 3))
    t.throws(() => into.push(length.subarray(3)), tooLarge)

    length.writeUInt32LE(0xffff_ffff)
    t.throws(() => decoder().push(length), tooLarge)
    length.writeUInt32LE(0)
    t.throws(() => decoder().push(length), { code: 'BATON_ERR_FRAME_MALFORMED' }, 'length 0')

    const exact = raw(0xff, Buffer.alloc(PRE_WELCOME_LIMIT - 1))
    t.same(decoder(PRE_WELCOME_LIMIT).push(exact), [], 'the limit itself is within')
  },
)

void t.test('the limit may be raised between frames', async (t) => {
  const sequences = Array.from({ length: PRE_WELCOME_LIMIT / 8 }, (_, index) => index + 1)
  const long = encodeFrame({ type: 'revoke', sequences })
  const into = decoder(PRE_WELCOME_LIMIT)
  t.equal(into.push(encodeFrame({ type: 'drained' })).length, 1)
  into.setLimit(POST_WELCOME_LIMIT)
  t.same(into.push(long), [{ type: 'revoke', sequences }])
  for (const limit of [0, -1, 1.5, Number.NaN, 2 ** 32]) {
    t.throws(() => into.setLimit(limit), { name: 'RangeError' })
    t.throws(() => decoder(limit), { name: 'RangeError' })
  }
})

void t.test('unknown types are skipped from 0x80 up, and an error below', async (t) => {
  const heartbeat = encodeFrame({ type: 'heartbeat', id: 1, reply: true })
  fc.assert(
    fc.property(
      fc.integer({ min: 0x80, max: 0xff }).filter((code) => !known.has(code)),
      fc.uint8Array({ maxLength: 300 }),
      cuts,
      (code, payload, where) => {
        const stream = Buffer.concat([heartbeat, raw(code, payload), heartbeat])
        deepStrictEqual(pushCut(decoder(), stream, where).length, 2)
      },
    ),
  )
  for (let code = 0; code < 0x80; code++) {
    if (known.has(code)) continue
    const error = caught(() => decoder().push(raw(code, Buffer.from('{}'))))
    if (!(error instanceof ProtocolError) || error.code !== 'BATON_ERR_FRAME_UNKNOWN_TYPE')
      t.fail(`type ${code}`)
  }
  t.throws(() => decoder().push(raw(0x7f, Buffer.from([0]))), { message: 'frame type 0x7f' })
})

void t.test('frames before an error in the same push are returned with the error, once', async (t) => {
  fc.assert(
    fc.property(streams, bytes(4), (frames, noise) => {
      const into = decoder()
      const fault = raw(0x7f, noise)
      const after = encodeFrame({ type: 'drained' })
      const error = caught(() => into.push(Buffer.concat([...frames.map(encodeFrame), fault, after])))
      ok(error instanceof ProtocolError)
      deepStrictEqual(error.frames, decoder().push(Buffer.concat(frames.map(encodeFrame))))

      const again = caught(() => into.push(after))
      ok(again instanceof ProtocolError)
      deepStrictEqual([again.code, again.message, again.frames], [error.code, error.message, []])
    }),
    { numRuns: 25 * TIMES },
  )
  const into = decoder()
  const ack = encodeFrame({ type: 'ack', acks: [{ sequence: 1, connection: Buffer.alloc(16) }] })
  into.push(ack.subarray(0, 9))
  const error = caught(() => into.push(Buffer.concat([ack.subarray(9), Buffer.alloc(4)])))
  t.match(error, { code: 'BATON_ERR_FRAME_MALFORMED', frames: [{ type: 'ack', acks: [{ sequence: 1 }] }] })
})

void t.test('memory for a frame grows with the bytes received, not with the length announced', async (t) => {
  const before = process.memoryUsage().arrayBuffers
  const decoders = Array.from({ length: 200 }, () => decoder())
  const announced = Buffer.alloc(5, FrameType.RECONNECT)
  announced.writeUInt32LE(POST_WELCOME_LIMIT)
  for (const into of decoders) into.push(announced)
  const grown = process.memoryUsage().arrayBuffers - before
  t.ok(grown < 1024 * 1024, `200 announcements of 1 MiB took ${grown} bytes`)
  t.ok(decoders.every((into) => into.buffered === 5))
})
