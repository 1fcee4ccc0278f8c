import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { closeSync, openSync, readdirSync, readlinkSync } from 'node:fs'
import t, { type Test } from 'tap'
import {
  acceptMany,
  close,
  closeAll,
  dup,
  EPOLLIN,
  isCloseOnExec,
  isNonblocking,
  listenTcp,
  localAddress,
  NativeError,
  OwnedFd,
  peekMany,
  peerAddress,
  Poller,
  recv,
  send,
  socketpair,
} from '../src/index.ts'
import { O_CLOEXEC } from '../src/abi.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { libc } from '../src/libc.ts'
import { mainRing } from '../src/main-ring.ts'
import { closing, type Ended, ended, nativeError, openDescriptors, present, startFixture } from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'

// One system call for many descriptors. Each behaviour is the same without io_uring: `batches.mjs`, which uses the package
// from outside, runs both ways.

interface Outcome {
  readonly ring: boolean
  readonly [key: string]: unknown
}

const stories: [string, string, Outcome | object, { descriptors?: number }?][] = [
  [
    'connections come in the order of the queue, each with its own address',
    'order',
    { empty: 0, accepted: 200, batches: [64, 64, 64, 8], inOrder: true, flags: true, left: 0 },
  ],
  ['no more connections than requested are accepted', 'max', { none: 0, one: 1, some: 5, rest: 4 }],
  [
    'out of descriptors in the middle of a batch, accepted connections are returned and the others wait',
    'exhausted',
    {
      accepted: 10,
      error: 'EMFILE',
      none: 0,
      again: 'EMFILE',
      rest: 20,
      afterwards: 'no error',
      inOrder: true,
    },
    { descriptors: 128 },
  ],
  [
    'a client that left while it waited is accepted like any other',
    'gone',
    { accepted: 3, error: 'no error', ends: [0, 'ECONNRESET', 1] },
  ],
  [
    'a socket that does not listen is an error, not an empty queue',
    'not-listening',
    { accepted: 0, error: 'EINVAL', notASocket: 'ENOTSOCK', closed: 'EBADF' },
  ],
  [
    'all are closed, whatever was closed before, in any number',
    'close',
    { none: 'no error', one: 'no error', twice: 'no error', leaked: 0, ended: true },
  ],
  // Those after the first 128 were left open if one of them could not be closed.
  [
    'one that cannot be closed does not keep others open',
    'close-bad',
    { code: 'EBADF', fd: true, leaked: 0 },
  ],
  [
    'many sockets are looked at, and nothing is taken from them',
    'peek',
    {
      looks: [
        'none',
        '5 of 1',
        '4096 of 2',
        '4097 of 3',
        '16384 of 4',
        '0 of ',
        'ECONNRESET recv',
        'EBADF recv',
      ],
      kept: 20_000,
      small: true,
    },
  ],
  [
    'many descriptors are watched, and those that cannot be do not matter to others',
    'watches',
    {
      refused: [3, 'EEXIST', 150, 'EBADF'],
      size: 150,
      each: 150,
      failure: 'EBADF',
      left: 0,
      twice: 'no error',
      changed: 'BATON_ERR_FD_CLOSED',
      calls: 150,
    },
  ],
  // The kernel wrote the last completions of a Worker's ring into memory freed with its heap: SIGSEGV.
  ['a Worker has no ring, and its end does no harm', 'workers', { accepted: 30, rings: 0 }],
  [
    'the ring works after a fork, and in a second copy of the package',
    'fork',
    { before: 3, during: 3, copy: 3, after: 3 },
  ],
]

for (const ring of [true, false]) {
  // One process for all cases with the same descriptor limit.
  const running = new Map<number | undefined, Promise<Ended>>()
  for (const [name, how, outcome, { descriptors } = {}] of stories) {
    void t.test(`${ring ? 'io_uring' : 'one by one'}: ${name}`, { timeout: LIMIT }, async (t) => {
      const alike = stories.filter(([, , , options]) => options?.descriptors === descriptors)
      let run = running.get(descriptors)
      if (run === undefined) {
        const names = alike.map(([, each]) => each)
        run = ended(startFixture('batches.mjs', names, { ring, ...(descriptors && { descriptors }) }))
        running.set(descriptors, run)
      }
      const { stdout, ...end } = await run
      t.same(end, { code: 0, signal: null, stderr: '' })
      const told = stdout
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as Record<string, unknown>)
      // Without io_uring in the kernel, both runs are the same.
      const has = ring && mainRing() !== undefined
      t.same(
        told.find((each) => each['name'] === how),
        { ring: has, name: how, ...outcome },
      )
    })
  }
}

// The rest is about a kernel that accepts only part of a submission, for lack of memory.

const real = libc.io_uring_enter

/** io_uring_enter(2) accepts `most` operations, and its next call fails (EBADF stands for any error). */
function refusingAfter(t: Test, most: number): void {
  const calls = libc as { io_uring_enter: typeof real }
  let asked = 0
  calls.io_uring_enter = (fd, count, ...rest) => {
    asked += 1
    if (asked === 1 && most > 0) return real(fd, Math.min(most, count as number), ...rest)
    calls.io_uring_enter = real
    return real(-1, count, ...rest)
  }
  t.teardown(() => {
    calls.io_uring_enter = real
  })
}

async function clients(t: Test, count: number): Promise<{ listener: OwnedFd; sockets: Socket[] }> {
  const listener = listenTcp({ host: '127.0.0.1', port: 0 })
  closing(t, listener)
  const { port } = localAddress(listener.fd)
  const sockets: Socket[] = []
  for (let index = 0; index < count; index++) {
    const socket = connect(port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    sockets.push(socket)
    await once(socket, 'connect')
  }
  return { listener, sockets }
}

const noRing = mainRing() === undefined ? 'no io_uring here' : false

void t.test(
  'a batch interrupted by the kernel loses no client',
  { skip: noRing, timeout: LIMIT },
  async (t) => {
    const { listener, sockets } = await clients(t, 8)
    const before = openDescriptors()
    // So that the batch has more than one connection.
    const first = present(acceptMany(listener.fd, 1).connections[0])
    refusingAfter(t, 1)
    const broken = acceptMany(listener.fd, 64)
    t.match(broken, { connections: [{}], error: { code: 'EBADF', syscall: 'io_uring_enter' } })
    t.equal(openDescriptors(), before + 2, 'the completed part is reported')
    const rest = acceptMany(listener.fd, 64)
    t.equal(rest.error, undefined)
    const all = [first, ...broken.connections, ...rest.connections]
    t.same(
      all.map(({ peer }) => peer.port),
      sockets.map(({ localPort }) => localPort),
      'all, in order',
    )
    t.same(
      all.map(({ peer }) => peer.port),
      all.map(({ fd }) => peerAddress(fd)?.port),
    )
    t.ok(all.every(({ fd }) => isNonblocking(fd) && isCloseOnExec(fd)))
    for (const { fd } of all) close(fd)
  },
)

void t.test(
  'a batch that the kernel does not start is an error of the listener',
  { skip: noRing, timeout: LIMIT },
  async (t) => {
    const { listener } = await clients(t, 1)
    refusingAfter(t, 0)
    t.match(acceptMany(listener.fd, 64), { connections: [], error: { code: 'EBADF' } })
    const { connections, error } = acceptMany(listener.fd, 64)
    t.equal(error, undefined)
    t.equal(connections.length, 1)
    for (const { fd } of connections) close(fd)
  },
)

void t.test('sockets not looked at together are looked at one by one', { skip: noRing }, async (t) => {
  const pairs = Array.from({ length: 5 }, () => socketpair('stream'))
  closing(t, ...pairs.flat())
  for (const [index, [, far]] of pairs.entries()) send(far.fd, Buffer.from(`${index}`))
  refusingAfter(t, 2)
  const peeked = peekMany(
    pairs.map(([near]) => near.fd),
    8,
  )
  t.same(peeked.map(String), ['0', '1', '2', '3', '4'])
})

void t.test('descriptors not watched together are watched one by one', { skip: noRing }, async (t) => {
  const pairs = Array.from({ length: 5 }, () => socketpair('stream'))
  closing(t, ...pairs.flat())
  const poller = new Poller()
  t.teardown(() => poller.close())
  const request = ([near]: OwnedFd[]) => ({ fd: present(near).fd, events: EPOLLIN, listener: () => {} })
  refusingAfter(t, 2)
  const watches = poller.addMany(pairs.map(request)).map((watch) => {
    if (watch instanceof NativeError) throw watch
    return watch
  })
  t.equal(poller.size, 5)
  // Each is in the set: the kernel refuses it a second time.
  const again = poller.addMany(pairs.map(request))
  t.same(
    again.map((each) => each instanceof NativeError && each.code),
    pairs.map(() => 'EEXIST'),
  )
  refusingAfter(t, 2)
  poller.removeMany(watches)
  t.equal(poller.size, 0)
  t.notOk(poller.addMany(pairs.map(request)).some((each) => each instanceof NativeError))
})

void t.test('descriptors not closed together are closed one by one', { skip: noRing }, async (t) => {
  socketpair('stream').forEach((end) => end.close())
  const before = openDescriptors()
  const all = Array.from({ length: 10 }, () => socketpair('stream')).flat()
  const bad = all[15] as OwnedFd
  const number = bad.fd
  closeSync(number)
  refusingAfter(t, 7)
  const error = nativeError(() => closeAll(all))
  t.match(error, { code: 'EBADF', syscall: 'close', fd: number })
  t.ok(error instanceof NativeError)
  t.equal(openDescriptors(), before)
  t.ok(all.every(({ closed }) => closed))
})

void t.test(
  'a program that is short of descriptors gets a ring later',
  { skip: noRing, timeout: LIMIT },
  async (t) => {
    // The first failure was permanent, and reported nowhere.
    const child = await ended(startFixture('late-ring.mjs', [], { descriptors: 64 }))
    t.match(child, { code: 0, signal: null, stderr: '' })
    t.match(JSON.parse(child.stdout), {
      none: { by: 'thread', reason: /EMFILE/ },
      atOnce: false,
      later: true,
      readiness: { by: 'io_uring' },
    })
  },
)

const byte = Buffer.from('x')

/** A poller that watches a socket; `hear` sends a byte and resolves once the listener has been called for it. */
function listening(t: Test) {
  const poller = new Poller()
  t.teardown(() => poller.close())
  const [near, far] = socketpair('stream')
  closing(t, near, far)
  let called: () => void = () => undefined
  const begin = () =>
    poller.add(far.fd, EPOLLIN, () => {
      recv(far.fd, 16)
      called()
    })
  const hear = () => {
    const heard = new Promise<void>((resolve) => (called = resolve))
    send(near.fd, byte)
    return heard
  }
  return { poller, begin, hear }
}

void t.test(
  'a poller works while the kernel accepts no chain, and afterwards',
  { skip: noRing, timeout: LIMIT },
  async (t) => {
    // io_uring_enter(2) may fail with ENOMEM, EAGAIN or EBUSY. That was an exception inside the poller, which ended the
    // process; where it was caught, no event was ever reported again for any descriptor.
    const calls = libc as { io_uring_enter: typeof real }
    t.teardown(() => (calls.io_uring_enter = real))
    const before = openDescriptors()
    const { poller, begin, hear } = listening(t)
    t.same(poller.readiness, { by: 'io_uring' })
    begin()
    await hear()
    let refused = 0
    calls.io_uring_enter = (_fd, ...rest) => {
      refused += 1
      return real(-1, ...rest)
    }
    for (let count = 0; count < 5; count++) await hear()
    t.ok(refused >= 5, `${refused} times refused`)
    let taken = 0
    calls.io_uring_enter = (...all) => {
      taken += 1
      return real(...all)
    }
    for (let count = 0; count < 5; count++) await hear()
    t.ok(taken >= 5 && taken < 12, `${taken} calls: each wait is one again`)

    calls.io_uring_enter = (_fd, ...rest) => real(-1, ...rest)
    const other = listening(t)
    other.begin()
    await other.hear()
    other.poller.close()
    poller.close()
    calls.io_uring_enter = real
    const again = listening(t)
    again.begin()
    await again.hear()
    again.poller.close()
    // A wait that is woken by close returns in a later turn.
    await eventually(
      () => openDescriptors() === before + 6,
      () => `but the three pairs, all is closed: ${openDescriptors() - before} are open`,
    )
  },
)

void t.test(
  'a chain accepted halfway by the kernel does no harm',
  { skip: noRing, timeout: LIMIT },
  async (t) => {
    const { begin, hear } = listening(t)
    refusingAfter(t, 1)
    begin()
    for (let count = 0; count < 5; count++) await hear()
  },
)

void t.test(
  'a doorbell that the kernel could not ring is not waited for',
  { skip: noRing, timeout: LIMIT },
  async (t) => {
    // The byte that rings it is sent by a separate operation, which may fail (ENOBUFS); the poller then missed every wake-up.
    // Here the operation's target is not a socket for a while.
    const sockets = () =>
      readdirSync('/proc/self/fd')
        .map(Number)
        .filter((fd) => isSocket(fd))
    const others = new Set(sockets())
    const poller = new Poller()
    t.teardown(() => poller.close())
    const button = present(sockets().findLast((fd) => !others.has(fd)))
    const kept = dup(button)
    const nothing = new OwnedFd(openSync('/dev/null', 'w'))
    closing(t, kept, nothing)
    const [near, far] = socketpair('stream')
    closing(t, near, far)
    libc.dup3(nothing.fd, button, O_CLOEXEC)
    let rounds = 0
    await new Promise<void>((resolve) => {
      poller.add(far.fd, EPOLLIN, () => {
        rounds += 1
        if (rounds === 1) libc.dup3(kept.fd, button, O_CLOEXEC)
        if (rounds === 3) resolve()
      })
      send(near.fd, byte)
    })
    t.equal(rounds, 3, 'and is called again')
  },
)

function isSocket(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:')
  } catch {
    return false
  }
}
