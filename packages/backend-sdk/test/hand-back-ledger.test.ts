import t from 'tap'
import { HandBackLedger } from '../src/hand-back-ledger.ts'

// The connections that a session has handed back: each comes out exactly once.

void t.test('sequences begin at 1 and increase, whatever has come out meanwhile', async (t) => {
  const ledger = new HandBackLedger<string>(4)
  t.equal(ledger.add('a'), 1)
  t.equal(ledger.givenBack(1), 'a')
  t.equal(ledger.add('b'), 2)
  t.same(ledger.taken([2]), ['b'])
  ledger.settled(2)
  t.equal(ledger.add('c'), 3)
})

void t.test('the window counts what is not settled, and TAKEN alone makes no room', async (t) => {
  const ledger = new HandBackLedger<string>(2)
  t.equal(ledger.room, 2)
  const one = ledger.add('one')
  const two = ledger.add('two')
  t.equal(ledger.room, 0)
  ledger.taken([one])
  t.match(ledger, { room: 0, unanswered: 1, oldestUnanswered: two })
  ledger.settled(one)
  t.equal(ledger.room, 1)
  ledger.givenBack(two)
  t.match(ledger, { room: 2, unanswered: 0, oldestUnanswered: undefined })
})

void t.test('each value comes out once; an answer to another sequence is ignored', async (t) => {
  const ledger = new HandBackLedger<string>(8)
  const sequences = ['a', 'b', 'c'].map((value) => ledger.add(value))
  t.same(ledger.taken([1, 1, 99]), ['a'])
  t.equal(ledger.givenBack(1), undefined, 'taken, so it is the broker that owns it')
  t.equal(ledger.givenBack(2), 'b')
  t.same(ledger.taken([2]), [], 'given back, so it is this process that owns it')
  ledger.settled(99)
  t.same(ledger.end(), ['c'])
  t.same(ledger.end(), [])
  t.same(ledger.taken(sequences), [])
})

void t.test("at the end of control, what holds no TAKEN is the giver's again, in order", async (t) => {
  const ledger = new HandBackLedger<number>(8)
  for (let value = 1; value <= 5; value++) ledger.add(value)
  ledger.taken([2])
  ledger.givenBack(4)
  t.same(ledger.end(), [1, 3, 5])
  t.equal(ledger.unanswered, 0)
})

void t.test('without a window there is no room', async (t) => {
  t.equal(new HandBackLedger(0).room, 0)
})
