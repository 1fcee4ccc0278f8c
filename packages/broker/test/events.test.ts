import type { Clock, Timer } from '@baton/backend-sdk/protocol'
import t from 'tap'
import { EventFeed, type EventSink, type EventSource, MAX_STREAMS } from '../src/worker/events/event-feed.ts'
import {
  extended,
  type History,
  HISTORY_INTERVAL_MS,
  HISTORY_POINTS,
  type HistoryPoints,
} from '../src/api/history.ts'
import { ServiceHistory } from '../src/worker/events/history.ts'
import { type Counted, Rates } from '../src/worker/events/rates.ts'
import { LatencyHistogram, percentiles } from '../src/worker/events/latency-histogram.ts'
import { backend } from './worker-view.ts'

/** A clock that the test advances. */
class HandClock implements Clock {
  #now = 0
  readonly #timers = new Map<object, { every: number; due: number; callback: () => void }>()

  get running(): number {
    return this.#timers.size
  }

  now = () => this.#now
  hrtime = () => BigInt(this.#now) * 1_000_000n
  setTimeout = (): Timer => {
    throw new Error('no timeout is needed here')
  }
  setInterval = (callback: () => void, every: number): Timer => {
    const timer = {}
    this.#timers.set(timer, { every, due: this.#now + every, callback })
    return timer as Timer
  }
  clear = (timer: Timer | undefined) => {
    this.#timers.delete(timer as object)
  }

  advance(milliseconds: number): void {
    const end = this.#now + milliseconds
    while (this.#now < end) {
      this.#now += 1
      for (const timer of this.#timers.values()) {
        if (timer.due > this.#now) continue
        timer.due += timer.every
        timer.callback()
      }
    }
  }
}

/** A stream's client, with everything it received. */
class Listener implements EventSink {
  text = ''
  waiting = 0
  over: 'ended' | 'cut' | undefined

  write(text: string): void {
    if (this.over !== undefined) throw new Error(`written to after it was ${this.over}`)
    this.text += text
  }
  end(): void {
    this.over = 'ended'
  }
  cut(): void {
    this.over = 'cut'
  }

  /** The fields of each event; comments unchanged. */
  get events(): { id: string; event: string; data: Record<string, unknown> }[] {
    return this.text
      .split('\n\n')
      .filter((block) => block !== '' && !block.startsWith(':'))
      .map((block) => {
        const fields = Object.fromEntries(
          block
            .split('\n')
            .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]),
        )
        const { id = '', event = '', data = '' } = fields
        return { id, event, data: JSON.parse(data) }
      })
  }

  changes(): unknown[] {
    return this.events
      .filter(({ event }) => event === 'change')
      .map(({ data: { at, ...change } }) => (typeof at === 'string' ? change : undefined))
  }
}

const nothing = new LatencyHistogram().snapshot()

function counted(changes: Partial<Counted> = {}): Counted {
  return {
    name: 'web',
    accepted: 0,
    handedOff: 0,
    fallbacks: {},
    rejects: {},
    handedBack: 0,
    notTaken: {},
    latency: nothing,
    ...changes,
  }
}

function feed(source: Partial<EventSource> = {}) {
  const clock = new HandClock()
  let backends = [backend('web-1')]
  const looked = { status: 0 }
  const events = new EventFeed(
    {
      status: () => {
        looked.status += 1
        return { services: [{ name: 'web', backends }] }
      },
      counted: () => [counted({ accepted: clock.now(), handedOff: clock.now() / 2 })],
      ...source,
    },
    clock,
    'BROKER',
  )
  const set = (...now: typeof backends) => void (backends = now)
  return { clock, events, set, looked }
}

void t.test('percentiles are within 6 %, whatever the times', async (t) => {
  for (const [from, to] of [
    [0.001, 0.015],
    [0.05, 2],
    [1, 30_000],
  ] as const) {
    const histogram = new LatencyHistogram()
    const times = Array.from({ length: 1000 }, (_, index) => from + ((to - from) * index) / 999)
    for (const time of times) histogram.observe(time)
    const found = percentiles(undefined, histogram.snapshot())
    for (const [name, share] of [
      ['p50', 0.5],
      ['p90', 0.9],
      ['p99', 0.99],
    ] as const) {
      const right = times[Math.ceil(1000 * share) - 1] as number
      const error = Math.abs((found?.[name] ?? 0) - right)
      t.ok(
        error <= Math.max(0.001, right * 0.06),
        `${name} of ${from} to ${to}: ${found?.[name]}, not ${right}`,
      )
    }
  }
})

void t.test('times that are too long, or negative, are still counted', async (t) => {
  const histogram = new LatencyHistogram()
  for (const time of [-5, 1e12, Number.MAX_VALUE]) histogram.observe(time)
  const { p50 = 0, p99 = 0 } = percentiles(undefined, histogram.snapshot()) ?? {}
  t.ok(p50 > 100_000 && p99 === p50)
  histogram.observe(0)
  histogram.observe(0)
  t.equal(percentiles(undefined, histogram.snapshot())?.p50, 0)
})

void t.test('percentiles cover the interval between two readings', async (t) => {
  const histogram = new LatencyHistogram()
  histogram.observe(5000)
  const before = histogram.snapshot()
  t.equal(percentiles(before, histogram.snapshot()), null)
  histogram.observe(0.01)
  t.match(percentiles(before, histogram.snapshot()), { p50: 0.01, p99: 0.01 })
})

void t.test('rates cover the last second, latencies the last ten', async (t) => {
  const rates = new Rates()
  const latency = new LatencyHistogram()
  t.same(rates.current, {})
  latency.observe(1000)
  rates.begin(0, [
    counted({ accepted: 100, handedOff: 50, rejects: { hold_full: 3 }, latency: latency.snapshot() }),
  ])
  t.match(rates.current['web'], { acceptedPerSecond: 0, latencyMs: null, rejects: { hold_full: 3 } })
  t.same(rates.current['web']?.rejectsPerSecond, {})

  latency.observe(2)
  const fallbacks = { 'hold/NoReadyBackend': 4, 'next_backend/BackendGone': 1 }
  rates.add(2000, [
    counted({
      accepted: 110,
      handedOff: 51,
      rejects: { hold_full: 4 },
      handedBack: 30,
      notTaken: { 'given_back/TooMany': 3 },
      fallbacks,
      latency: latency.snapshot(),
    }),
  ])
  t.match(rates.current['web'], {
    acceptedPerSecond: 5,
    handoffsPerSecond: 0.5,
    fallbacksPerSecond: { 'hold/NoReadyBackend': 2, 'next_backend/BackendGone': 0.5 },
    rejectsPerSecond: { hold_full: 0.5 },
    handBacksPerSecond: 15,
    notTakenPerSecond: { 'given_back/TooMany': 1.5 },
    notTaken: { 'given_back/TooMany': 3 },
    fallbacks,
    rejects: { hold_full: 4 },
  })
  const p50 = rates.current['web']?.latencyMs?.p50 ?? 0
  t.ok(Math.abs(p50 - 2) < 0.12, `${p50}`)

  for (let second = 3; second <= 11; second++) {
    rates.add(second * 1000, [counted({ accepted: 110, handedOff: 51, latency: latency.snapshot() })])
    t.not(rates.current['web']?.latencyMs, null, `${second} s`)
  }
  rates.add(12_000, [counted({ accepted: 110, handedOff: 51, latency: latency.snapshot() })])
  t.equal(rates.current['web']?.latencyMs, null, 'that second has left the window')
  t.equal(rates.current['web']?.acceptedPerSecond, 0)

  rates.add(13_000, [counted({ accepted: 111 }), counted({ name: 'late', accepted: 7 })])
  t.equal(rates.current['late']?.acceptedPerSecond, 7, 'a service that has come since')
})

void t.test('the status comes at once and each second, with an id', async (t) => {
  const { clock, events } = feed()
  const listener = new Listener()
  events.open(listener)
  t.match(listener.events, [
    { id: 'BROKER/1', event: 'status', data: { status: { services: [{ name: 'web' }] } } },
  ])
  t.match(listener.events[0]?.data['services'], { web: { acceptedPerSecond: 0, handoffsPerSecond: 0 } })
  clock.advance(2000)
  t.match(listener.events.at(-1), { id: 'BROKER/3', event: 'status' })
  t.match(listener.events.at(-1)?.data['services'], {
    web: { acceptedPerSecond: 1000, handoffsPerSecond: 500 },
  })
  t.notMatch(listener.text, /^:/m)
  clock.advance(13_000)
  t.match(listener.text, /\n\n: keep-alive\n\n/)
})

void t.test('nothing is sampled while no stream is open', async (t) => {
  const { clock, events, looked } = feed()
  events.sample()
  events.announce({ kind: 'drain', text: 'x' })
  clock.advance(5000)
  t.equal(clock.running, 0)
  t.equal(looked.status, 0)

  const listener = new Listener()
  const leave = events.open(listener)
  t.equal(clock.running, 2)
  leave()
  leave()
  t.equal(clock.running, 0)
  t.equal(listener.over, undefined, 'it has disconnected by itself')

  events.open(new Listener())
  t.equal(clock.running, 2, 'and again')
})

void t.test('changes of backends are sent when they happen', async (t) => {
  const { clock, events, set } = feed()
  const listener = new Listener()
  events.open(listener)
  clock.advance(500)
  t.same(listener.changes(), [], 'the initial state is not a change')
  set(backend('web-1', { state: 'unresponsive' }), backend('web-2', { state: 'starting', pid: 7 }))
  clock.advance(100)
  const one = { id: backend('web-1').id, slot: 'web-1', version: '2.0.1', pid: 4242 }
  const two = { ...one, id: backend('web-2').id, slot: 'web-2', pid: 7 }
  const expected = [
    {
      kind: 'backend_state',
      service: 'web',
      backend: one,
      from: 'ready',
      to: 'unresponsive',
      text: 'web-1 of service web is unresponsive (it was ready)',
    },
    {
      kind: 'backend_registered',
      service: 'web',
      backend: two,
      to: 'starting',
      text: 'web-2 has registered for service web (pid 7, starting)',
    },
  ]
  t.same(listener.changes(), expected)
  set(backend('web-2', { state: 'starting', pid: 7 }))
  events.sample()
  t.same(listener.changes().slice(2), [
    {
      kind: 'backend_deregistered',
      service: 'web',
      backend: one,
      from: 'unresponsive',
      text: 'web-1 of service web is gone (it was unresponsive)',
    },
  ])
  events.announce({
    kind: 'drain',
    service: 'web',
    by: 'an operator',
    text: 'an operator drains service web',
  })
  t.match(listener.changes().at(-1), { kind: 'drain', by: 'an operator' })
  const ids = listener.events.map(({ id }) => id)
  t.equal(new Set(ids).size, ids.length)
})

void t.test('a client that does not read is cut off, and the others are not', async (t) => {
  const { clock, events } = feed()
  const [slow, other] = [new Listener(), new Listener()]
  events.open(slow)
  events.open(other)
  slow.waiting = 2 * 1024 * 1024
  clock.advance(1000)
  t.equal(slow.over, 'cut')
  clock.advance(1000)
  t.equal(other.over, undefined)
  t.equal(other.events.length, 3)
  t.equal(events.streams, 1)
})

void t.test('streams are limited in number, and refused after the end', async (t) => {
  const { clock, events } = feed()
  const listeners = Array.from({ length: MAX_STREAMS }, () => new Listener())
  const leaves = listeners.map((listener) => events.open(listener))
  t.notOk(events.room)
  leaves[0]?.()
  t.ok(events.room)
  events.close()
  t.notOk(events.room)
  t.ok(listeners.slice(1).every(({ over }) => over === 'ended'))
  t.equal(listeners[0]?.over, undefined)
  t.equal(clock.running, 0)
  events.announce({ kind: 'drain', text: 'x' })
  events.close()
})

void t.test('the last event of a worker that stops is its last status', async (t) => {
  let state = 'running'
  const { clock, events } = feed({ status: () => ({ services: [], state }) })
  const [one, two] = [new Listener(), new Listener()]
  for (const listener of [one, two]) events.open(listener)
  state = 'all have left'
  events.close(true)
  for (const { events: all, over } of [one, two]) {
    t.match(all.at(-1), { event: 'status', data: { status: { state } } })
    t.equal(over, 'ended')
  }
  events.close(true)
  t.equal(clock.running, 0)
})

void t.test('the history: a point every 5 s, of what happened in it, for 15 minutes', async (t) => {
  const clock = new HandClock()
  const latency = new LatencyHistogram()
  const counts = { handedOff: 0, rejected: 0, held: 0 }
  const counted = (): Counted[] => [
    {
      name: 'web',
      accepted: counts.handedOff,
      handedOff: counts.handedOff,
      fallbacks: {},
      rejects: { hold_full: counts.rejected },
      handedBack: 0,
      notTaken: {},
      latency: latency.snapshot(),
    },
  ]
  const sent: HistoryPoints[] = []
  const before: History = {
    web: [{ at: 1, handoffs: 7, p50: 1, p90: 1, p99: 1, held: 0, fallbacks: 0, rejects: 0 }],
    gone: [],
  }
  const source = { counted, held: () => counts.held }
  const history = new ServiceHistory(source, clock, before, (points) => void sent.push(points))
  counts.handedOff = 50
  latency.observe(2)
  clock.advance(HISTORY_INTERVAL_MS)
  counts.rejected = 10
  counts.held = 3
  clock.advance(HISTORY_INTERVAL_MS)
  t.match(sent, [
    { web: { handoffs: 10, rejects: 0, held: 0, p50: Number } },
    { web: { handoffs: 0, rejects: 2, held: 3, p50: null } },
  ])
  t.same(history.all, { web: [...(before['web'] ?? []), ...sent.map(({ web }) => web)] })
  t.same(
    sent.reduce<History>((all, points) => extended(all, points), before),
    history.all,
    'the master has the same',
  )
  clock.advance(HISTORY_INTERVAL_MS * (HISTORY_POINTS + 5))
  t.equal(history.all['web']?.length, HISTORY_POINTS)
  history.close()
  t.equal(clock.running, 0)
})
