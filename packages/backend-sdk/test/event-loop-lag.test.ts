import { readFileSync } from 'node:fs'
import t from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { EventLoopLag } from '../src/event-loop-lag.ts'

const cell = new Int32Array(new SharedArrayBuffer(4))
const stall = (milliseconds: number) => Atomics.wait(cell, 0, 0, milliseconds)
const pass = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

void t.test('a stall while there is a client is reported, once', { timeout: LIMIT }, async (t) => {
  const lag = new EventLoopLag()
  t.teardown(() => lag.stop())
  lag.clientCame()
  stall(300)
  const first = lag.take(true)
  // It has begun up to 20 ms before a sample was due.
  t.ok(first >= 279, `${first} ms, as the timer has not run yet`)
  const second = lag.take(true)
  t.ok(second < first, `${second} ms: only what has come since`)
  await pass(25)
  stall(300)
  await pass(1)
  t.ok(lag.take(true) >= 279, 'when the timer has run')
})

void t.test('a client that comes after a rest is served under observation', { timeout: LIMIT }, (t) => {
  const lag = new EventLoopLag()
  t.teardown(() => lag.stop())
  lag.take(false)
  lag.take(false)
  lag.clientCame()
  stall(300)
  t.ok(lag.take(true) >= 279)
  t.end()
})

// Fifty times a second, for as long as the process lived.
void t.test('without clients it hardly wakes the process', { timeout: LIMIT }, async (t) => {
  const lag = new EventLoopLag()
  t.teardown(() => lag.stop())
  const sleeps = () =>
    Number(/^voluntary_ctxt_switches:\s+(\d+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1])
  lag.clientCame()
  lag.take(false)
  lag.take(false)
  const before = sleeps()
  await pass(1000)
  const resting = sleeps() - before
  lag.clientCame()
  await pass(1000)
  const working = sleeps() - before - resting
  t.ok(resting < working / 2, `${resting} times in a second, and ${working} times with a client`)
})
