import * as fc from 'fast-check'
import t from 'tap'
import { OfferQueue } from '../src/offer-queue.ts'
import type { Offer } from '../src/protocol/index.ts'
import { LIMIT } from '../../../test/support/limits.ts'

const BYTES = Buffer.alloc(16)

function offer(sequence: number): Offer {
  return {
    sequence,
    token: BYTES,
    connection: BYTES,
    deadline: 0n,
    kind: 'descriptor',
    listener: 'web',
    meta: undefined,
    resumed: undefined,
  }
}

function take(queue: OfferQueue, wanted: number): number | undefined {
  return queue.takeFirst(({ sequence }) => sequence === wanted)?.sequence
}

void t.test('offers leave in any order, the oldest that matches first', async (t) => {
  const queue = new OfferQueue()
  for (const sequence of [1, 2, 3, 4]) queue.push(offer(sequence))
  t.equal(take(queue, 3), 3)
  t.equal(take(queue, 3), undefined)
  t.equal(queue.takeFirst(({ sequence }) => sequence > 1)?.sequence, 2)
  t.equal(queue.takeFirst(() => true)?.sequence, 1)
  t.equal(queue.size, 1)
  queue.clear()
  t.equal(queue.size, 0)
  t.equal(
    queue.takeFirst(() => true),
    undefined,
  )
})

void t.test('a queue of offers behaves like a list of them', async () => {
  const step = fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({ do: fc.constant('push' as const), count: fc.integer({ min: 1, max: 300 }) }),
    },
    // By position: 0 is the first; a position beyond the end stands for an unknown offer.
    {
      weight: 3,
      arbitrary: fc.record({ do: fc.constant('take' as const), at: fc.nat(20), count: fc.nat(300) }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('from the end' as const), count: fc.nat(300) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('every other' as const) }) },
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
      const queue = new OfferQueue()
      let model: number[] = []
      let next = 0
      const leave = (sequence: number | undefined) => {
        if (take(queue, sequence ?? -1) !== sequence) throw new Error(`${sequence} was not taken`)
        model = model.filter((each) => each !== sequence)
      }
      for (const each of steps) {
        if (each.do === 'push') {
          for (let count = 0; count < each.count; count++) {
            model.push(next)
            queue.push(offer(next++))
          }
        } else if (each.do === 'take') for (let count = 0; count < each.count; count++) leave(model[each.at])
        else if (each.do === 'from the end')
          for (let count = 0; count < each.count; count++) leave(model.at(-1))
        else for (const sequence of model.filter((_, index) => index % 2 === 1)) leave(sequence)
        if (queue.size !== model.length) throw new Error(`${queue.size} instead of ${model.length}`)
      }
      const rest: number[] = []
      queue.takeFirst(({ sequence }) => {
        rest.push(sequence)
        return false
      })
      if (rest.join() !== model.join()) throw new Error('not in order')
    }),
    { numRuns: 100 },
  )
})

void t.test(
  'an offer that stays for a long time does not slow down later ones',
  { timeout: LIMIT },
  async (t) => {
    // An offer whose descriptor never comes stays for its deadline plus a tokenTtl. Every later offer left a hole after
    // it, and every search went through all of them: 200,000 took 15 seconds.
    const queue = new OfferQueue()
    queue.push(offer(0))
    const start = process.cpuUsage()
    for (let sequence = 1; sequence <= 200_000; sequence++) {
      queue.push(offer(sequence))
      take(queue, sequence)
    }
    const { user } = process.cpuUsage(start)
    t.equal(queue.size, 1)
    t.ok(user < 2e6, `${user} us`)
  },
)
