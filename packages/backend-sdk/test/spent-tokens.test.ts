import { randomBytes } from 'node:crypto'
import * as fc from 'fast-check'
import t from 'tap'
import { SpentTokens } from '../src/spent-tokens.ts'

const KEEP = 1000n

/** Tokens that often collide in the table, because their first bytes are the same. */
function token(number: number): Buffer {
  const bytes = Buffer.alloc(16)
  bytes.writeUInt32LE(number % 3, 0)
  bytes.writeUInt32LE(number, 12)
  return bytes
}

void t.test('a token of zeros is like any other', async (t) => {
  const spent = new SpentTokens(KEEP)
  const zeros = Buffer.alloc(16)
  t.notOk(spent.has(zeros))
  spent.add(zeros, 0n)
  t.ok(spent.has(zeros))
  t.notOk(spent.has(Buffer.alloc(16, 1)))
})

void t.test('tokens that differ in any one byte are different', async (t) => {
  const spent = new SpentTokens(KEEP)
  const original = randomBytes(16)
  spent.add(original, 0n)
  for (let index = 0; index < 16; index++) {
    const other = Buffer.from(original)
    other.writeUInt8((other.readUInt8(index) + 128) % 256, index)
    t.notOk(spent.has(other), `byte ${index}`)
  }
  t.ok(spent.has(original))
})

void t.test('the bytes of a token may be overwritten once it was added', async (t) => {
  const spent = new SpentTokens(KEEP)
  const lane = randomBytes(16)
  const copy = Buffer.from(lane)
  spent.add(lane, 0n)
  lane.fill(0)
  t.ok(spent.has(copy))
  t.notOk(spent.has(lane))
})

void t.test('thousands are remembered while the table grows, and forgotten in the end', async (t) => {
  const spent = new SpentTokens(KEEP)
  const tokens = Array.from({ length: 5000 }, () => randomBytes(16))
  for (const each of tokens) spent.add(each, 0n)
  t.ok(tokens.every((each) => spent.has(each)))
  spent.forget(KEEP)
  t.ok(
    tokens.every((each) => spent.has(each)),
    'the older table',
  )
  spent.forget(2n * KEEP)
  t.notOk(tokens.some((each) => spent.has(each)))
})

void t.test(
  'a token is remembered for its whole time, and a token that was never spent is unknown',
  async () => {
    const step = fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({ do: fc.constant('add' as const), from: fc.nat(400), count: fc.nat(90) }),
      },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('wait' as const), by: fc.nat(1500) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('forget' as const) }) },
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const spent = new SpentTokens(KEEP)
        const model = new Map<number, bigint>()
        let now = 0n
        for (const each of steps) {
          if (each.do === 'wait') now += BigInt(each.by)
          else if (each.do === 'forget') spent.forget(now)
          else {
            for (let number = each.from; number < each.from + each.count; number++) {
              spent.add(token(number), now)
              model.set(number, now)
            }
          }
          for (let number = 0; number < 500; number++) {
            const since = model.get(number)
            const has = spent.has(token(number))
            if (since === undefined && has) throw new Error(`${number} was never spent`)
            if (since !== undefined && now - since < KEEP && !has)
              throw new Error(`${number} is forgotten too early`)
          }
        }
        // No further tokens, for longer than the memory: two turns of the table, each announced with forget().
        spent.forget(now + KEEP)
        spent.forget(now + 2n * KEEP)
        for (const number of model.keys())
          if (spent.has(token(number))) throw new Error(`${number} is never forgotten`)
      }),
      { numRuns: 60 },
    )
  },
)
