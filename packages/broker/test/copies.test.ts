import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { connect } from 'node:net'
import { once } from 'node:events'
import {
  acceptOne,
  dup,
  listenTcp,
  localAddress,
  NativeError,
  OwnedFd,
  Poller,
  socketpair,
} from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { Channel } from '../src/ipc/channel.ts'
import { type FromCopier, readMarks, type ToCopier } from '../src/ipc/copies.ts'
import type { FromReceiver, HeldClients, ToWorker } from '../src/ipc/messages.ts'
import { introduce } from '../src/master/workers/first-orders.ts'
import { countedAsLost, keyOf, lastAccounts } from '../src/master/workers/last-accounts.ts'
import { Losses } from '../src/master/workers/losses.ts'
import { Survivors } from '../src/master/workers/survivors.ts'
import type { Survivor } from '../src/master/workers/kept-copy.ts'
import { type Remains, WorkerCopies, type WorkerCopiesState } from '../src/master/workers/worker-copies.ts'
import type { WorkerProcess } from '../src/master/workers/worker-process.ts'
import type { MetricSnapshot } from '../src/metrics/snapshot.ts'
import type { ClientConnection } from '../src/worker/connection/connection.ts'
import { Copier } from '../src/worker/copies/copier.ts'
import { heldClient } from '../src/worker/copies/held-client.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'

// Copies of waiting connections: both ends in this process, real sockets.

const listener = { name: 'web', protocol: 'http' as const }
const silent = { error: () => undefined, info: () => undefined } as never

class Stage {
  readonly poller = new Poller({ ring: false })
  readonly copies: WorkerCopies
  readonly copier: Copier
  readonly errors: object[] = []
  ended = false
  readonly #t: Test
  #orders = 0
  accepted = 0
  handedOff = 0

  constructor(t: Test, limit = 100) {
    this.#t = t
    const logger = { error: (facts: object) => this.errors.push(facts) } as never
    const [copies, theirs] = WorkerCopies.create(this.poller, logger, () => (this.ended = true))
    this.copies = copies
    this.copier = new Copier([theirs[0], new OwnedFd(dup(theirs[1].fd).release())], this.poller, limit)
    this.copier.account(
      { kind: 'service', name: 'web' },
      (numbers) => [this.handedOff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].forEach((number) => numbers.push(number)),
      () => ({ movedIn: 0, movedOut: 0 }),
    )
    this.copier.account({ kind: 'listener', name: 'web', service: 'web', unix: false }, (numbers) =>
      numbers.push(this.accepted),
    )
    t.teardown(() => this.poller.close())
  }

  /** Another master, which has taken the worker over. */
  next() {
    let ended = false
    const logger = { error: (facts: object) => this.errors.push(facts) } as never
    const [copies, theirs] = WorkerCopies.create(this.poller, logger, () => (ended = true))
    this.copier.connect([theirs[0], new OwnedFd(dup(theirs[1].fd).release())], 100)
    return { copies, ended: () => ended }
  }

  async connection(): Promise<ClientConnection> {
    const socket = listenTcp({ host: '127.0.0.1', port: 0 })
    const client = connect(localAddress(socket.fd).port, '127.0.0.1')
    this.#t.teardown(() => client.destroy())
    await once(client, 'connect')
    const accepted = acceptOne(socket.fd)
    socket.close()
    if (accepted === undefined) throw new Error('no client')
    const fd = new OwnedFd(accepted.fd)
    this.#t.teardown(() => fd.close())
    this.accepted += 1
    this.#orders += 1
    const { peer } = accepted
    return {
      order: this.#orders,
      fd,
      listener,
      peer,
      id: Buffer.alloc(16, this.#orders),
      acceptedAt: performance.now(),
      tried: undefined,
      pressedSince: undefined,
    }
  }

  isCopied(slot: number | undefined): boolean {
    const { file } = this.copies.stateWith(false) as WorkerCopiesState
    return (readMarks(file)[slot as number] ?? 0) !== 0
  }

  /** As if the worker were killed now: whatever it has not sent yet is dropped. */
  async die(): Promise<Remains | undefined> {
    this.copier.close()
    await eventually(() => this.ended, 'the master has read everything')
    const remains = this.copies.take()
    for (const { fd } of remains?.survivors ?? []) this.#t.teardown(() => fd.close())
    return remains
  }
}

function orders(remains: Remains | undefined): number[] | undefined {
  return remains?.survivors.map(({ copy }) => copy.order)
}

void t.test('what still waits survives, in order of arrival', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const keeper = stage.copier.of('web')
  const all = [await stage.connection(), await stage.connection(), await stage.connection()]
  // The last one came back from an offer.
  const [second, third, first] = [all[1], all[2], all[0]].map((each) => keeper.keep(each as ClientConnection))
  await eventually(() => stage.copies.size === 3, 'all are copied')
  keeper.over([second])
  await eventually(() => stage.copies.size === 2, 'the master has closed its copy')
  t.same([first, third], [2, 1])
  t.same(orders(await stage.die()), [1, 3])
})

void t.test('the mark decides, not what the master has read', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const keeper = stage.copier.of('web')
  const kept = [keeper.keep(await stage.connection()), keeper.keep(await stage.connection())]
  await eventually(() => stage.copies.size === 2, 'both are copied')
  keeper.over([kept[0]])
  // In the same turn: `over` has not been sent.
  const remains = stage.die()
  t.equal(stage.copies.size, 2)
  t.same(orders(await remains), [2])
})

void t.test(
  'a slot that is used again does not bring its former copy back',
  { timeout: LIMIT },
  async (t) => {
    const stage = new Stage(t)
    const keeper = stage.copier.of('web')
    const first = keeper.keep(await stage.connection())
    await eventually(() => stage.copies.size === 1, 'it is copied')
    keeper.over([first])
    await eventually(() => stage.copies.size === 0, 'it is over')
    const second = keeper.keep(await stage.connection())
    await eventually(() => stage.copies.size === 1, 'the next one is copied')
    t.equal(second, first)
    t.same(orders(await stage.die()), [2])
  },
)

// Its state would not cross the master's exec any more: what it had counted was in no count.
void t.test('a worker that has just ended holds up the next program', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  await eventually(() => stage.copies.quiet, 'it is quiet')
  await stage.die()
  t.equal(stage.copies.open, false)
  t.equal(stage.copies.quiet, false)
})

void t.test('at most as many as the master has room for', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t, 1)
  const keeper = stage.copier.of('web')
  const first = keeper.keep(await stage.connection())
  const second = keeper.keep(await stage.connection())
  await eventually(() => stage.copies.size === 1, 'one is copied')
  t.same([stage.isCopied(first), stage.isCopied(second)], [true, false])
  keeper.over([first])
  await eventually(() => stage.isCopied(second), 'the other one follows')
  t.same(orders(await stage.die()), [2])
})

void t.test('connections without an outcome are lost', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const keeper = stage.copier.of('web')
  for (let count = 0; count < 5; count += 1) await stage.connection()
  keeper.keep(await stage.connection())
  stage.handedOff = 3
  await eventually(() => stage.copies.size === 1, 'it is copied')
  const remains = await stage.die()
  // Its last report is older.
  const reported = [
    {
      name: 'baton_connections_accepted_total',
      help: 'Accepted.',
      values: [{ value: 4, labels: { listener: 'web' } }],
    },
    {
      name: 'baton_connections_total',
      help: 'Connections.',
      values: [{ value: 1, labels: { service: 'web', outcome: 'handed_off' } }],
    },
  ] as unknown as MetricSnapshot
  const { counts, balance } = lastAccounts((remains as Remains).accounts, reported)
  t.match(counts, [
    { name: 'baton_connections_accepted_total', values: [{ labels: { listener: 'web' }, value: 2 }] },
    {
      name: 'baton_connections_total',
      values: [{ labels: { service: 'web', outcome: 'handed_off' }, value: 2 }],
    },
  ])
  const losses = new Losses()
  losses.ended(balance)
  // The next worker has the one that was copied.
  const lost = losses.settle(new Map([['service web', 1]]))
  t.match(countedAsLost(lost), [
    {
      name: 'baton_connections_total',
      values: [{ labels: { service: 'web', outcome: 'lost' }, value: 2 }],
    },
  ])
})

/** Survivors of a dead worker, and the channel of the next one. */
async function succession(t: Test, clients = 2) {
  const stage = new Stage(t)
  const keeper = stage.copier.of('web')
  for (let count = 0; count < clients; count += 1) keeper.keep(await stage.connection())
  await eventually(() => stage.copies.size === clients, 'all are copied')
  const remains = await stage.die()
  const serving: { worker?: WorkerProcess } = {}
  const survivors = new Survivors(
    stage.poller,
    silent,
    () => {},
    () => serving.worker,
  )
  survivors.add(remains?.survivors ?? [])
  const [ours, theirs] = socketpair('stream')
  const channel = new Channel<never, ToWorker>(ours, stage.poller, { message: () => {}, ended: () => {} })
  t.teardown(() => {
    channel.close()
    theirs.close()
  })
  const worker = Object.assign(channel, { pid: 1, alive: true, succeeds: true }) as never
  serving.worker = worker
  return { poller: stage.poller, survivors, worker, theirs, serving }
}

void t.test(
  'survivors of a worker that dies before it has them are not lost',
  { timeout: LIMIT },
  async (t) => {
    const { survivors, worker, theirs } = await succession(t)
    theirs.close()
    survivors.pass(worker)
    await eventually(() => survivors.state.length === 2, 'the next worker can have them')
    t.same(
      survivors.state.map(({ copy }) => keyOf(copy)),
      ['service web', 'service web'],
    )
    t.equal(survivors.any, true, 'so they are not counted yet')
    survivors.close()
    t.equal(survivors.any, false)
  },
)

function numbers(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index)
}

/** As the next worker has them: it reads `theirs`, and says how many messages with connections it takes. */
function receive(poller: Poller, theirs: OwnedFd, taken: number) {
  const got: number[] = []
  const ids: string[] = []
  let numbered = 0
  let most = taken
  const channel = new Channel<ToWorker, never>(theirs, poller, {
    message: (_, [end]) => {
      const pair = new Channel<HeldClients, FromReceiver>(end as OwnedFd, poller, {
        message: ({ clients, number = 0 }, fds) => {
          numbered += 1
          for (const fd of fds) fd.close()
          if (numbered > most) return
          got.push(clients.length)
          ids.push(...clients.map(({ id }) => id))
          pair.send({ type: 'taken', number })
        },
        ended: () => {},
      })
      pairs.push(pair)
    },
    ended: () => {},
  })
  const pairs: Channel<HeldClients, FromReceiver>[] = []
  const giveUp = () => {
    for (const pair of pairs) pair.close()
  }
  const die = () => {
    channel.close()
    giveUp()
  }
  const takes = (more: number) => (most = numbered + more)
  return { got, ids, die, giveUp, takes, read: () => numbered }
}

void t.test(
  'what the next worker has not taken when it dies is here again, and nothing else',
  { timeout: LIMIT },
  async (t) => {
    // It was in the kernel, between two processes: its clients were lost, and in no count.
    const { poller, survivors, worker, theirs } = await succession(t, 40)
    const all = survivors.state.map(({ copy }) => copy.client.id)
    const taken = survivors.state.slice(0, 32).map((each) => ({ ...each, fd: dup(each.fd) }))
    survivors.pass(worker)
    const { got, die, read } = receive(poller, theirs, 1)
    await eventually(() => read() === 2, 'it has read both messages')
    t.same(got, [32], 'and has taken the first')
    let reclaimed = false
    die()
    survivors.reclaim(worker, () => (reclaimed = true))
    t.equal(reclaimed, false)
    await eventually(() => reclaimed, 'its end is read')
    t.equal(survivors.receiver, undefined)
    t.same(
      survivors.state.map(({ copy }) => copy.order),
      numbers(33, 40),
    )
    // The others, which it had taken, survive it as well, and are older.
    survivors.add(taken)
    const [last, lastTheirs] = socketpair('stream')
    const third = new Channel<never, ToWorker>(last, poller, { message: () => {}, ended: () => {} })
    t.teardown(() => third.close())
    survivors.pass(Object.assign(third, { pid: 2, alive: true, succeeds: true }) as never)
    const receiver = receive(poller, lastTheirs, 2)
    t.teardown(receiver.die)
    await eventually(() => survivors.receiver === undefined, 'the third one has all')
    t.same(receiver.ids, all, 'in order of arrival')
  },
)

// Survivors are sorted by this time, and 18 of 2,000 were served too late: the two clocks were read again for each.
void t.test('clients of one turn have one time of arrival', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const connection = await stage.connection()
  const times = Array.from({ length: 100 }, () => heldClient('web', connection).acceptedAt)
  t.same(new Set(times), new Set([times[0]]))
})

// It gave up the pair, for want of descriptors, and lives: they had no owner but this list until it died.
void t.test(
  'survivors that come back from a worker that lives go to it again',
  { timeout: LIMIT },
  async (t) => {
    const { poller, survivors, worker, theirs } = await succession(t)
    survivors.pass(worker)
    const first = receive(poller, theirs, 0)
    await eventually(() => first.read() === 1, 'it has read them, and takes none')
    first.giveUp()
    await eventually(() => survivors.state.length === 2, 'they are back')
    first.takes(1)
    await eventually(() => first.got.length === 1, 'they have come again')
    await eventually(() => survivors.receiver === undefined, 'it has them')
    t.same([first.got, survivors.state], [[2], []])
    first.die()
  },
)

// A worker that had given them up was leaving by then: they waited until it had ended, though another one served. And after an exec, or for a master that
// could not replace the worker that it had taken over, until the next worker.
void t.test(
  'survivors that still wait go to the worker that serves, without another death',
  { timeout: LIMIT },
  async (t) => {
    const { poller, survivors, worker, theirs, serving } = await succession(t)
    survivors.pass(worker)
    const leaving = receive(poller, theirs, 0)
    t.teardown(leaving.die)
    await eventually(() => leaving.read() === 1, 'it has read them, and takes none')
    const [ours, end] = socketpair('stream')
    const channel = new Channel<never, ToWorker>(ours, poller, { message: () => {}, ended: () => {} })
    t.teardown(() => channel.close())
    const next = Object.assign(channel, { pid: 2, alive: true, succeeds: true }) as never
    serving.worker = next
    leaving.giveUp()
    const receiver = receive(poller, end, 1)
    t.teardown(receiver.die)
    await eventually(() => receiver.got.length === 1, 'the one that serves has them')
    await eventually(() => survivors.receiver === undefined, 'and has said so')
    t.same([leaving.got, receiver.got, survivors.state], [[], [2], []])

    const carried = await succession(t)
    const again = receive(carried.poller, carried.theirs, 1)
    t.teardown(again.die)
    const program = new Survivors(
      carried.poller,
      silent,
      () => {},
      () => carried.worker,
    )
    program.adopt(
      carried.survivors.state.map((survivor) => ({ ...survivor, fd: dup(survivor.fd).release() })),
    )
    await eventually(() => again.got.length === 1, 'the worker of the program before has them')
    await eventually(() => program.receiver === undefined, 'and has said so')
    t.same(program.state, [])
    carried.survivors.close()
  },
)

void t.test('survivors that the next worker has taken are its own', { timeout: LIMIT }, async (t) => {
  const { poller, survivors, worker, theirs } = await succession(t)
  survivors.pass(worker)
  const { got, die } = receive(poller, theirs, 1)
  await eventually(() => survivors.receiver === undefined, 'it has taken them')
  t.same(got, [2])
  die()
  await new Promise<void>((resolve) => survivors.reclaim(worker, resolve))
  t.same(survivors.state, [])
})

void t.test(
  'another master gets copies of all that waits, and earlier ones do not count',
  { timeout: LIMIT },
  async (t) => {
    const stage = new Stage(t)
    const keeper = stage.copier.of('web')
    const first = keeper.keep(await stage.connection())
    const second = keeper.keep(await stage.connection())
    await eventually(() => stage.copies.size === 2, 'both are copied')
    stage.copier.close()
    await eventually(() => stage.ended, 'the master has ended')
    // While there is none: the service manager may have the copies as well.
    const third = keeper.keep(await stage.connection())
    keeper.over([first])
    const next = stage.next()
    await eventually(() => next.copies.size === 2, 'what still waits is copied')
    const earlier = stage.copies.take()
    t.same(orders(earlier), [], 'no copy of the first master counts')
    earlier?.release()
    keeper.over([second])
    await eventually(() => next.copies.size === 1, 'one is over')
    stage.copier.close()
    await eventually(() => next.ended(), 'the second master has ended')
    const remains = next.copies.take()
    for (const { fd } of remains?.survivors ?? []) t.teardown(() => fd.close())
    t.same(orders(remains), [3])
    t.ok(third)
    t.match(remains?.accounts, { layout: [{ name: 'web' }, { name: 'web' }] })
    remains?.release()
  },
)

void t.test("the master's next program has all copies at once", { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const keeper = stage.copier.of('web')
  const kept = [keeper.keep(await stage.connection()), keeper.keep(await stage.connection())]
  await eventually(() => stage.copies.size === 2, 'both are copied')
  stage.handedOff = 1
  stage.copier.writeAccounts()
  const state = stage.copies.stateWith(true) as WorkerCopiesState
  let ended = false
  const dupOf = (fd: number) => dup(fd).release()
  const copies = WorkerCopies.adopt(
    {
      channel: dupOf(state.channel),
      file: dupOf(state.file),
      kept: {
        layout: state.kept?.layout ?? [],
        copies: (state.kept?.copies ?? []).map((copy) => ({ ...copy, fd: dupOf(copy.fd) })),
      },
    },
    stage.poller,
    silent,
    () => (ended = true),
  )
  // Before anything is read: the program before would.
  t.equal(copies.size, 2)
  keeper.over([kept[0]])
  stage.copier.close()
  await eventually(() => ended, 'everything is read')
  const remains = copies.take()
  for (const { fd } of remains?.survivors ?? []) t.teardown(() => fd.close())
  t.same(orders(remains), [2])
  t.match(remains?.accounts, { layout: [{ name: 'web' }, { name: 'web' }] })
  t.equal(remains?.accounts.numbers[0], 1)
  remains?.release()
})

// The master had just sent something when the worker was killed: that it could not be sent, or was never read, was taken for the end of the stream.
for (const [what, order] of [
  ['that its worker has not read', ['ask', 'die']],
  ['that cannot be sent', ['die', 'ask']],
] as const)
  void t.test(`no copy is given up for a message ${what}`, { timeout: LIMIT }, async (t) => {
    const stage = new Stage(t)
    const connection = await stage.connection()
    const [ours, theirs] = socketpair('stream')
    const { file } = stage.copies.stateWith(false) as WorkerCopiesState
    const copier = new Copier([theirs, dup(file)], stage.poller, 100)
    const kept = copier.of('web').keep(connection)
    await eventually(() => (readMarks(file)[kept as number] ?? 0) !== 0, 'the copy is sent')
    let ended = false
    let copies: WorkerCopies | undefined
    const steps = {
      // Asks for all copies again.
      ask: () => {
        const state = { channel: ours.release(), file: dup(file).release() }
        copies = WorkerCopies.adopt(state, stage.poller, silent, () => (ended = true))
      },
      die: () => copier.close(),
    }
    // In one turn: neither end reads meanwhile.
    for (const step of order) steps[step]()
    t.equal(copies?.open, true)
    await eventually(() => ended, 'everything is read')
    t.equal(copies?.open, false)
    const remains = copies?.take()
    for (const { fd } of remains?.survivors ?? []) t.teardown(() => fd.close())
    t.same(orders(remains), [1])
    remains?.release()
  })

void t.test('more connections than a call takes arguments', { timeout: LIMIT }, async (t) => {
  // Both threw: the worker went on without copies, and the master ended.
  const stage = new Stage(t)
  const { fd, ...rest } = await stage.connection()
  const [ours, theirs] = socketpair('stream')
  const file = (stage.copies.stateWith(false) as WorkerCopiesState).file
  const count = 66_000
  const copier = new Copier([theirs, dup(file)], stage.poller, count)
  const received = { wait: 0, over: 0 }
  const channel = new Channel<FromCopier, ToCopier>(ours, stage.poller, {
    message: (message, fds) => {
      for (const each of fds) each.close()
      if (message.type === 'wait') received.wait += message.copies.length
      if (message.type === 'over') received.over += message.copies.length / 2
    },
    ended: () => t.fail('the stream has ended'),
  })
  t.teardown(() => {
    channel.close()
    copier.close()
  })
  const keeper = copier.of('web')
  for (let index = 0; index < count; index += 1) keeper.keep({ fd, ...rest })
  await eventually(() => received.wait === count, 'all are copied')
  channel.send({ type: 'again' })
  await eventually(() => received.over === count, 'no copy counts any more')

  const survivors = new Survivors(
    stage.poller,
    {} as never,
    () => undefined,
    () => undefined,
  )
  const survivor = { fd, reachable: false, copy: {} } as Survivor
  survivors.add(Array.from({ length: 200_000 }, () => survivor))
  t.equal(survivors.state.length, 200_000)
})

void t.test('survivors go on while this process has hardly a descriptor', { timeout: LIMIT }, async (t) => {
  // The exception kept the worker from accepting, and both ends of the pair stayed open.
  const { poller, survivors, worker, theirs } = await succession(t)
  const open = readdirSync('/proc/self/fd').length
  const fillers: OwnedFd[] = []
  const limit = ['--pid', `${process.pid}`, '--nofile']
  const soft = execFileSync('prlimit', [...limit, '--output=SOFT', '--noheadings'], {
    encoding: 'utf8',
  }).trim()
  t.teardown(() => {
    for (const filler of fillers) filler.close()
    // Other files run in this process.
    execFileSync('prlimit', [...limit.slice(0, 2), `--nofile=${soft}:`])
  })
  execFileSync('prlimit', [...limit.slice(0, 2), `--nofile=${open + 32}:`])
  try {
    for (;;) fillers.push(dup(0))
  } catch (error) {
    if (!(error instanceof NativeError) || error.code !== 'EMFILE') throw error
  }
  for (const filler of fillers.splice(-2)) filler.close()
  survivors.pass(worker)
  // The same for a worker that is replaced: duplicates of the ends could not be made, and its successor served already.
  fillers.pop()?.close()
  const pair = socketpair('stream')
  introduce(worker, worker, pair, [], 1000)
  t.ok(pair.every(({ closed }) => closed))
  for (const filler of fillers.splice(0)) filler.close()
  let clients = 0
  const types: string[] = []
  const received = new Channel<ToWorker, never>(theirs, poller, {
    message: ({ type }, [end]) => {
      types.push(type)
      const channel = new Channel<HeldClients, never>(end as OwnedFd, poller, {
        message: (held, fds) => {
          clients += held.clients.length
          for (const fd of fds) fd.close()
        },
        ended: () => channel.close(),
      })
    },
    ended: () => {},
  })
  t.teardown(() => received.close())
  await eventually(() => clients === 2 && types.length === 4, 'both have arrived')
  t.same(types, ['peer', 'successor', 'peer', 'finish'])
})
