import t from 'tap'
import type { WorkerAccounts } from '../src/ipc/copies.ts'
import { Counters } from '../src/master/workers/counters.ts'
import { LossSettlement } from '../src/master/workers/loss-settlement.ts'
import type { WorkerProcess } from '../src/master/workers/worker-process.ts'

// The losses of dead workers are counted when the only worker that is left has all that they sent.

/** A worker with `movedIn` connections from others; undefined: it has not written that. */
function worker(movedIn: number | undefined, pairs = true) {
  const asks: number[] = []
  const accounts: WorkerAccounts = {
    layout: [{ kind: 'service', name: 'web' }],
    numbers: new Float64Array(0),
    moves: movedIn === undefined ? undefined : Float64Array.from([movedIn, 0]),
  }
  const living = { pairs, accounts, send: ({ ask }: { ask: number }) => asks.push(ask) }
  return { asks, living, process: living as unknown as WorkerProcess }
}

/** After the death of a worker with four connections. */
function afterDeath() {
  const counters = new Counters()
  const settlement = new LossSettlement(counters)
  counters.losses.ended({ open: new Map([['service web', 4]]), moved: new Map([['service web', 0]]) })
  const lost = () =>
    counters.state.ended
      .flat()
      .flatMap(({ values }) => values)
      .reduce((sum, { value, labels }) => sum + (labels['outcome'] === 'lost' ? value : 0), 0)
  return { counters, settlement, lost }
}

const answer = (ask: number | undefined, open = 0) => ({ type: 'pairs', ask: ask as number, open }) as const

void t.test('once it has everything', async (t) => {
  const { counters, settlement, lost } = afterDeath()
  const { asks, process } = worker(3)
  settlement.ask(process)
  settlement.ask(process)
  t.equal(asks.length, 1, 'it is asked once')
  settlement.answered(process, answer(asks[0], 1))
  t.equal(counters.losses.areOpen, true, 'something may still come')
  settlement.ask(process)
  t.equal(asks.length, 2)
  settlement.answered(process, answer(asks[0]))
  t.equal(counters.losses.areOpen, true, 'an answer to the first question says nothing any more')
  settlement.answered(process, answer(asks[1]))
  t.same([counters.losses.areOpen, lost()], [false, 1])
  settlement.ask(process)
  t.equal(asks.length, 2, 'there is nothing more to settle')
})

void t.test('not if something moves again meanwhile', async (t) => {
  const { counters, settlement, lost } = afterDeath()
  const { asks, process } = worker(3)
  settlement.ask(process)
  settlement.postpone()
  settlement.answered(process, answer(asks[0]))
  t.equal(counters.losses.areOpen, true)
  const other = worker(4)
  settlement.ask(other.process)
  settlement.answered(process, answer(other.asks[0]))
  t.equal(counters.losses.areOpen, true, 'nor by the answer of another one')
  settlement.answered(other.process, answer(other.asks[0]))
  t.same([counters.losses.areOpen, lost()], [false, 0])
})

void t.test('not before it has written that', async (t) => {
  const { counters, settlement, lost } = afterDeath()
  const { asks, living, process } = worker(undefined)
  settlement.ask(process)
  settlement.answered(process, answer(asks[0]))
  t.equal(counters.losses.areOpen, true)
  living.accounts = worker(2).living.accounts
  settlement.ask(process)
  settlement.answered(process, answer(asks[1]))
  t.same([counters.losses.areOpen, lost()], [false, 2])
})

void t.test('at once if it is of an older version', async (t) => {
  const { counters, settlement, lost } = afterDeath()
  const { asks, process } = worker(undefined, false)
  settlement.ask(process)
  t.same([counters.losses.areOpen, counters.losses.isBlind, lost()], [false, true, 4])
  settlement.ask(process)
  t.equal(asks.length, 0)
})

// It was asked each second, and the next master was sent its state each time.
void t.test('once if it writes nothing, for want of descriptors in the master', async (t) => {
  const { counters, settlement, lost } = afterDeath()
  const { asks, process } = worker(undefined)
  Object.assign(process, { accounts: undefined })
  settlement.ask(process)
  settlement.answered(process, answer(asks[0]))
  t.same([counters.losses.areOpen, counters.losses.isBlind, lost()], [false, true, 4])
  settlement.ask(process)
  t.equal(asks.length, 1)
})

void t.test('moves that were not known are known from its answer on', async (t) => {
  const { counters, settlement } = afterDeath()
  counters.losses.ended(undefined)
  const { asks, process } = worker(9)
  settlement.ask(process)
  settlement.answered(process, answer(asks[0]))
  t.equal(counters.losses.isBlind, false)
  counters.losses.ended(undefined)
  t.equal(counters.losses.areOpen, false)
  settlement.ask(process)
  settlement.answered(process, answer(asks[1]))
  t.equal(counters.losses.isBlind, false, 'though nothing is open')
})
