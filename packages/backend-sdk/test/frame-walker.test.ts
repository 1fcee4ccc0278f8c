import assert from 'node:assert/strict'
import { PassThrough, type Writable } from 'node:stream'
import fc from 'fast-check'
import t from 'tap'
import * as ws from 'ws'
import { FrameWalker } from '../dist/migrate/frame-walker.js'

// The walker and ws's own receiver read the same bytes, in the same portions.

const LIMIT = 1 << 20

/** Exports of ws that its types leave out. */
const { Receiver, Sender } = ws as unknown as {
  readonly Receiver: new (options: { isServer: boolean }) => Writable
  readonly Sender: { frame(data: Buffer, options: object): Buffer[] }
}

interface ClientFrame {
  opcode: 0 | 1 | 2 | 8 | 9 | 10
  fin: boolean
  payload: Buffer
}

/** Frames of a client as they are on the wire, with masks. */
function wire(frames: readonly ClientFrame[]): Buffer {
  return Buffer.concat(
    frames.flatMap(({ opcode, fin, payload }) =>
      Sender.frame(Buffer.from(payload), {
        fin,
        rsv1: false,
        opcode,
        mask: true,
        readOnly: false,
      }),
    ),
  )
}

const payload = fc
  .oneof(
    { weight: 8, arbitrary: fc.integer({ min: 0, max: 130 }) },
    { weight: 1, arbitrary: fc.constantFrom(65_535, 65_536, 70_000) },
  )
  .map((length) => Buffer.alloc(length, 'a'))
const control = fc.record({
  opcode: fc.constantFrom<9 | 10>(9, 10),
  fin: fc.constant(true),
  payload: fc.integer({ min: 0, max: 125 }).map((length) => Buffer.alloc(length, 'p')),
})
/** A message in fragments, with control frames between them. */
const message = fc
  .array(fc.tuple(payload, fc.array(control, { maxLength: 2 })), { minLength: 1, maxLength: 4 })
  .map((fragments) =>
    fragments.flatMap(([bytes, controls], index): ClientFrame[] => [
      { opcode: index === 0 ? 1 : 0, fin: index === fragments.length - 1, payload: bytes },
      ...controls,
    ]),
  )
const conversation = fc.array(
  fc.oneof(
    message,
    control.map((each): ClientFrame[] => [each]),
  ),
  {
    maxLength: 6,
  },
)

/** Reported by ws's receiver of these bytes. */
function heard(
  portions: readonly Buffer[],
): Promise<{ messages: Buffer[]; controls: number; failed: boolean }> {
  return new Promise((resolve) => {
    const result = { messages: [] as Buffer[], controls: 0, failed: false }
    const receiver = new Receiver({ isServer: true })
    receiver.on('message', (data: Buffer) => result.messages.push(data))
    receiver.on('ping', () => (result.controls += 1))
    receiver.on('pong', () => (result.controls += 1))
    receiver.on('error', () => (result.failed = true))
    const source = new PassThrough()
    // Copies: the receiver takes masks off in place.
    source.on('data', (chunk: Buffer) => receiver.write(Buffer.from(chunk)))
    source.on('end', () => setImmediate(() => resolve(result)))
    for (const portion of portions) source.write(portion)
    source.end()
  })
}

function portionsOf(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].toSorted((a, b) => a - b)
  return [0, ...places].map((from, index) => bytes.subarray(from, places[index] ?? bytes.length))
}

void t.test("what is complete is what ws's receiver reports, wherever the bytes are cut", async () => {
  await fc.assert(
    fc.asyncProperty(
      conversation,
      fc.array(fc.nat(), { maxLength: 12 }),
      fc.nat(),
      async (messages, cuts, end) => {
        const all = wire(messages.flat())
        const bytes = all.subarray(0, end % (all.length + 1))
        const portions = portionsOf(bytes, cuts)
        const walker = new FrameWalker(LIMIT)
        for (const portion of portions) walker.feed(portion)
        const before = await heard(portions)
        assert.ok(!before.failed)
        assert.equal(walker.messages, before.messages.length)
        assert.equal(walker.controls, before.controls)
        assert.equal(walker.tail().length, walker.tailLength)

        // The next process: the tail, and what the client sends from here on.
        const rest = all.subarray(bytes.length)
        const after = await heard([walker.tail(), rest])
        assert.ok(!after.failed)
        const whole = await heard([all])
        assert.deepEqual([...before.messages, ...after.messages], whole.messages)
        assert.equal(before.controls + after.controls, whole.controls)
      },
    ),
    { numRuns: 200 },
  )
})

void t.test('says whether a message was compressed', async (t) => {
  const seen: boolean[] = []
  const walker = new FrameWalker(LIMIT, (compressed) => seen.push(compressed))
  // Two fragments, the first with RSV1; a ping between them; a message without.
  for (const frame of [
    [0x41, 0x81, 0, 0, 0, 0, 1],
    [0x89, 0x80, 0, 0, 0, 0],
    [0x80, 0x81, 0, 0, 0, 0, 1],
    [0x82, 0x80, 0, 0, 0, 0],
  ])
    walker.feed(Buffer.from(frame))
  t.same(seen, [true, false])
})

void t.test('an unfinished message beyond the limit is not kept, and the next one is', async (t) => {
  const walker = new FrameWalker(1000)
  const long = wire([{ opcode: 2, fin: true, payload: Buffer.alloc(5000) }])
  walker.feed(long.subarray(0, 900))
  t.notOk(walker.tooLong)
  walker.feed(long.subarray(900, 2000))
  t.ok(walker.tooLong)
  t.equal(walker.tailLength, 0)
  walker.feed(long.subarray(2000))
  t.notOk(walker.tooLong)
  t.equal(walker.messages, 1)
  const next = wire([{ opcode: 1, fin: false, payload: Buffer.from('abc') }])
  walker.feed(next)
  t.same(walker.tail(), next)
})

void t.test('a length that no message can have never ends, and does no harm', async (t) => {
  const walker = new FrameWalker(1000)
  walker.feed(Buffer.from([0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]))
  for (let i = 0; i < 100; i++) walker.feed(Buffer.alloc(100))
  t.ok(walker.tooLong)
  t.equal(walker.messages, 0)
})

void t.test('keeps no reference to what it was given', async (t) => {
  const walker = new FrameWalker(1000)
  const bytes = wire([{ opcode: 1, fin: false, payload: Buffer.from('abc') }])
  const given = Buffer.from(bytes)
  walker.feed(given.subarray(0, 1))
  walker.feed(given.subarray(1))
  given.fill(0)
  t.same(walker.tail(), bytes)
})

void t.test('a fragment that comes byte by byte is kept like any other', async (t) => {
  // An array of its bytes was spread over the arguments of a call, which was a RangeError.
  const walker = new FrameWalker(LIMIT)
  const bytes = wire([
    { opcode: 1, fin: false, payload: Buffer.alloc(200_000, 'a') },
    { opcode: 9, fin: true, payload: Buffer.from('ping') },
    { opcode: 0, fin: false, payload: Buffer.from('more') },
  ])
  for (let at = 0; at < bytes.length; at++) walker.feed(bytes.subarray(at, at + 1))
  const whole = new FrameWalker(LIMIT)
  whole.feed(bytes)
  t.ok(walker.tail().equals(whole.tail()))
  t.equal(walker.controls, 1)
})
