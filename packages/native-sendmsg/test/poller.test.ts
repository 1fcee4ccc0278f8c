import { once } from 'node:events'
import t, { type Test } from 'tap'
import {
  EPOLLHUP,
  EPOLLIN,
  EPOLLONESHOT,
  EPOLLOUT,
  EPOLLRDHUP,
  OwnedFd,
  Poller,
  recv,
  send,
  socketpair,
  type PollerOptions,
} from '../src/index.ts'
import { closing, codeOf, type Ended, ended, startFixture } from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'

const byte = Buffer.from('x')

function poller(t: Test, options: PollerOptions = {}): Poller {
  const made = new Poller(options)
  t.teardown(() => made.close())
  return made
}

function pair(t: Test): [OwnedFd, OwnedFd] {
  const ends = socketpair('stream')
  closing(t, ...ends)
  return ends
}

/** A promise, and the function that resolves it. */
function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => undefined
  const promise = new Promise<T>((settle) => (resolve = settle))
  return { promise, resolve }
}

void t.test(
  'a listener is called with the events that hold, repeatedly, until they are handled',
  { timeout: LIMIT },
  async (t) => {
    const [a, b] = pair(t)
    const events: number[] = []
    const done = deferred<void>()
    const watched = poller(t)
    const watch = watched.add(b.fd, EPOLLIN, (event) => {
      events.push(event)
      if (events.length === 3) {
        recv(b.fd, 16)
        watch.remove()
        done.resolve()
      }
    })
    t.equal(watch.fd, b.fd)
    t.equal(watched.size, 1)
    send(a.fd, byte)
    await done.promise
    t.same(events, [EPOLLIN, EPOLLIN, EPOLLIN], 'level-triggered')
    t.equal(watched.size, 0)
  },
)

void t.test('afterWake is called once, after all listeners of a wake-up', { timeout: LIMIT }, async (t) => {
  const order: string[] = []
  const done = deferred<void>()
  const watched = poller(t, {
    afterWake: () => {
      order.push('after')
      if (order.includes('two')) done.resolve()
    },
  })
  const pairs = [pair(t), pair(t)]
  const [trigger, triggered] = pair(t)
  const start = watched.add(triggered.fd, EPOLLIN, () => {
    start.remove()
    // Both become readable during this round, so that the next wait returns them together.
    for (const [end] of pairs) send(end.fd, byte)
  })
  for (const [index, [, end]] of pairs.entries()) {
    const watch = watched.add(end.fd, EPOLLIN, () => {
      order.push(index === 0 ? 'one' : 'two')
      watch.remove()
    })
  }
  send(trigger.fd, byte)
  await done.promise
  t.same(order, ['after', 'one', 'two', 'after'])
})

void t.test('a closed peer is told apart from bytes', { timeout: LIMIT }, async (t) => {
  const [a, b] = pair(t)
  const gone = deferred<number>()
  const watch = poller(t).add(b.fd, EPOLLRDHUP, (events) => {
    watch.remove()
    gone.resolve(events)
  })
  send(a.fd, byte)
  a.close()
  t.equal(await gone.promise, EPOLLRDHUP | EPOLLHUP)
})

void t.test(
  'modify asks for other events, and arms a one-shot watch again',
  { timeout: LIMIT },
  async (t) => {
    const [a, b] = pair(t)
    let next = deferred<number>()
    const watched = poller(t)
    const watch = watched.add(b.fd, EPOLLIN | EPOLLONESHOT, (events) => next.resolve(events))
    send(a.fd, byte)
    t.equal(await next.promise, EPOLLIN)
    next = deferred()
    watch.modify(EPOLLOUT | EPOLLONESHOT)
    t.equal(await next.promise, EPOLLOUT)
    watch.remove()
    t.equal(
      codeOf(() => watch.modify(EPOLLIN)),
      'BATON_ERR_FD_CLOSED',
    )
  },
)

void t.test(
  'a watch that a listener of the same round removed or replaced is not called',
  { timeout: LIMIT },
  async (t) => {
    const called: string[] = []
    const watched = poller(t, { afterWake: () => called.push('round') })
    const done = deferred<void>()
    const first = pair(t)
    const second = pair(t)
    const blocker = pair(t)
    // Both become readable while this listener runs, so that one wait returns both.
    const start = watched.add(blocker[1].fd, EPOLLIN, () => {
      start.remove()
      send(first[0].fd, byte)
      send(second[0].fd, byte)
    })
    const watches = [first, second].map(([, end], index) =>
      watched.add(end.fd, EPOLLIN, () => {
        called.push(`${index}`)
        const other = watches[1 - index]
        watches[index]?.remove()
        other?.remove()
        // The same number, watched again: the event fetched for the old watch must not reach this one.
        const fd = index === 0 ? second[1].fd : first[1].fd
        const again = watched.add(fd, EPOLLIN, () => {
          called.push('again')
          again.remove()
          done.resolve()
        })
        called.push('replaced')
      }),
    )
    send(blocker[0].fd, byte)
    await done.promise
    const [winner] = called.filter((name) => name === '0' || name === '1')
    t.same(
      called,
      ['round', winner, 'replaced', 'round', 'again', 'round'],
      'the new watch is called in the next round',
    )
    t.equal(watched.size, 0)
  },
)

void t.test(
  'events dropped by a listener of the same round are not reported',
  { timeout: LIMIT },
  async (t) => {
    const watched = poller(t)
    const done = deferred<number>()
    const pairs = [pair(t), pair(t)]
    const [trigger, triggered] = pair(t)
    const start = watched.add(triggered.fd, EPOLLIN, () => {
      start.remove()
      for (const [end] of pairs) send(end.fd, byte)
    })
    let told = false
    const watches = pairs.map(([, end], index) =>
      watched.add(end.fd, EPOLLIN, (events) => {
        watches[index]?.remove()
        if (told) done.resolve(events)
        else watches[1 - index]?.modify(EPOLLOUT)
        told = true
      }),
    )
    send(trigger.fd, byte)
    t.equal(await done.promise, EPOLLOUT)
  },
)

void t.test(
  'remove is idempotent, and an error when the descriptor was closed first',
  { timeout: LIMIT },
  async (t) => {
    const watched = poller(t)
    const [, b] = pair(t)
    const watch = watched.add(b.fd, EPOLLIN, () => undefined)
    t.equal(
      codeOf(() => watched.add(b.fd, EPOLLIN, () => undefined)),
      'EEXIST',
    )
    watch.remove()
    watch.remove()
    const [, d] = pair(t)
    const late = watched.add(d.fd, EPOLLIN, () => undefined)
    d.close()
    t.equal(
      codeOf(() => late.remove()),
      'EBADF',
    )
    late.remove()
    t.equal(watched.size, 0)
    t.equal(
      codeOf(() => watched.add(99_999, EPOLLIN, () => undefined)),
      'EBADF',
    )
  },
)

void t.test(
  'a number that was closed and is watched again belongs to the new watch',
  { timeout: LIMIT },
  async (t) => {
    const watched = poller(t)
    const [, b] = pair(t)
    const stale = watched.add(b.fd, EPOLLIN, () => t.fail('the old listener'))
    const { fd } = b
    b.close()
    const [c, d] = socketpair('stream')
    closing(t, c, d)
    const reused = c.fd === fd ? c : d
    t.equal(reused.fd, fd)
    const called = deferred<void>()
    const watch = watched.add(fd, EPOLLIN, () => called.resolve())
    stale.remove()
    t.equal(watched.size, 1, 'the old watch removes only itself')
    send(reused === c ? d.fd : c.fd, byte)
    await called.promise
    watch.remove()
  },
)

void t.test('a closed poller cannot be used, and a second close is harmless', async (t) => {
  const [, b] = pair(t)
  const closed = new Poller()
  closed.add(b.fd, EPOLLIN, () => t.fail('called after close'))
  closed.close()
  closed.close()
  t.equal(closed.size, 0)
  t.equal(
    codeOf(() => closed.add(b.fd, EPOLLIN, () => undefined)),
    'BATON_ERR_FD_CLOSED',
  )
})

void t.test('close releases everything: idle, waiting and from a listener', { timeout: LIMIT }, async (t) => {
  const child = await ended(startFixture('poller.mjs', ['close']))
  t.match(child, { code: 0, stderr: '', stdout: '0 descriptors, 0 exit listeners\n' })
})

/** Without io_uring, both are the thread of the pool. */
function waiter(ring: boolean): string {
  return ring ? 'io_uring' : 'pool thread'
}

const ends: [string, object][] = [
  ['exit', { code: 7, stderr: '' }],
  ['throw', { code: 1, stderr: /thrown in main/ }],
  ['reject', { code: 1, stderr: /rejected in main/ }],
  ['exit-in-listener', { code: 7, stderr: '' }],
  ['exit-with-worker', { code: 7, stderr: '' }],
  ['exit-held-back', { code: 7, stderr: '', stdout: '' }],
]

for (const ring of [true, false]) {
  for (const [how, outcome] of ends) {
    void t.test(
      `${waiter(ring)}: a process with a waiting poller ends: ${how}`,
      { timeout: LIMIT },
      async (t) => {
        const child = startFixture('poller.mjs', [how], { ring })
        await once(child, 'spawn')
        t.match(await ended(child), { signal: null, ...outcome })
      },
    )
  }
}

// Ways to end because nothing is left to do share a process: each begins where the process would have ended for the one before.
const natural: [name: string, how: string, stdout: string][] = [
  ['a process with a waiting poller ends: natural', 'natural', ''],
  ['a process with a waiting poller ends: idle', 'idle', ''],
  ['a process with a waiting poller ends: worker-terminate', 'worker-terminate', '0 left\n'],
  ['a process with a waiting poller ends: worker-exit', 'worker-exit', '0 left\n'],
  ['a process with a waiting poller ends: worker-throw', 'worker-throw', '0 left\n'],
  ['a process with a waiting poller ends: worker-natural', 'worker-natural', '0 left\n'],
  [
    'a listener that throws is an uncaught exception, and the others still run',
    'listener-throws',
    'second called\nuncaught: from the listener\nuncaught: from afterWake\n',
  ],
  ['a held-back round happens by itself, and keeps the process alive until then', 'held-back', '20 rounds\n'],
  [
    'a held-back round happens at once on advance',
    'advance',
    'round 1, round 2, whatever is next, round 3\n',
  ],
  ['a poller that is held back can be closed', 'close-held-back', 'round 1\n'],
  // The round in progress waited for a closed set, and the process died of EBADF.
  ['a poller that is closed after advance has no further round', 'close-advanced', 'round 1\n'],
  ['a held-back poller without watches does not keep the process alive', 'remove-held-back', 'round 1\n'],
  ['a watch that is added while the poller is held back is called', 'add-held-back', 'called\n'],
  // The poller was never armed again.
  [
    'a holdBack that throws is an uncaught exception, and the poller goes on',
    'hold-back-throws',
    'round 1\nuncaught: from holdBack\nround 2\n',
  ],
  // It was reported by the wake-up itself, and again as the ring's result: the second recv got EAGAIN.
  ['an event is reported once, however often a poller is woken', 'woken-often', 'told of 1\n'],
]

for (const ring of [true, false]) {
  let running: Promise<Ended> | undefined
  for (const [name, how, told] of natural) {
    void t.test(`${waiter(ring)}: ${name}`, { timeout: LIMIT }, async (t) => {
      const names = natural.map(([, each]) => each)
      running ??= ended(startFixture('poller.mjs', names, { ring }))
      const { stdout, ...end } = await running
      t.same(end, { code: 0, signal: null, stderr: '' })
      t.equal(
        stdout.split(/^# /m).find((part) => part.startsWith(`${how}\n`)),
        `${how}\n${told}`,
      )
    })
  }
}
