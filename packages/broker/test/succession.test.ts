import { closeSync } from 'node:fs'
import {
  type OwnedFd,
  poll,
  Poller,
  POLLHUP,
  readToEnd,
  sendMessage,
  socketpair,
} from '@baton/native-sendmsg'
import { ulidFromBytes } from '@baton/backend-sdk/protocol'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { Channel } from '../src/ipc/channel.ts'
import type { FromReceiver, HeldClient, HeldClients } from '../src/ipc/messages.ts'
import { Transfer } from '../src/ipc/transfer.ts'
import { type ClientConnection, InheritedClient } from '../src/worker/connection/connection.ts'
import { heldClient, monotonic } from '../src/worker/copies/held-client.ts'
import type { ReplaceableWorker } from '../src/worker/replaceable-worker.ts'
import { Predecessors } from '../src/worker/succession/predecessors.ts'
import { fieldsOf } from '../src/worker/service/hand-over.ts'
import { Successors } from '../src/worker/succession/successors.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'

// The pair over which connections move from one worker to the next: one end is a real one, over a real socketpair.

const logger = pino({ enabled: false })
const listener = { name: 'web', protocol: 'http' as const }

/** A descriptor that nothing else has. */
function descriptor(t: Test): OwnedFd {
  const [near, far] = socketpair('stream')
  far.close()
  t.teardown(() => near.close())
  return near
}

function held(index: number, acceptedAt = monotonic()): HeldClient {
  return {
    service: 'web',
    protocol: 'http',
    listener: 'web',
    id: ulidFromBytes(Buffer.alloc(16, index)),
    acceptedAt,
  }
}

/** A worker that inherits, and the end of the pair that its predecessor has. */
function receiver(t: Test) {
  const poller = new Poller({ ring: false })
  t.teardown(() => poller.close())
  const [ours, theirs] = socketpair('stream')
  const inherited: ClientConnection[] = []
  const worker = {
    inherit: (_service: string, connections: readonly ClientConnection[]) => inherited.push(...connections),
    flush: () => {},
  } as unknown as ReplaceableWorker
  const predecessors = new Predecessors(
    poller,
    logger,
    () => worker,
    () => {},
  )
  predecessors.connect(theirs)
  t.teardown(() => {
    for (const { fd } of inherited) fd.close()
    if (!ours.closed) ours.close()
  })
  return { poller, ours, inherited, predecessors }
}

// The worker that inherited them read two clocks for each: those that it passed on in turn, when it died as well, were served in another order.
void t.test('clients keep their order over any number of workers', { timeout: LIMIT }, async (t) => {
  const { poller, ours, inherited } = receiver(t)
  const sender = new Channel<FromReceiver, HeldClients>(ours, poller, {
    message: () => {},
    ended: () => {},
  })
  t.teardown(() => sender.close())
  const at = monotonic()
  // Accepted in one turn, each right after the one before.
  for (let index = 0; index < 200; index++)
    sender.give({ type: 'held', clients: [held(index % 256, at + index / 1e5)] }, [descriptor(t)])
  await eventually(() => inherited.length === 200, 'all are inherited')
  const times = inherited.map((connection) => heldClient('web', connection).acceptedAt)
  t.same(
    times,
    times.toSorted((one, other) => one - other),
  )
  t.ok(Math.abs((times[0] as number) - at) < 1)
})

// One that went to a backend between two requests, and came back because that had ended, was a new connection to the next worker: whoever got it there answered 408 when
// the time for a first request was over, or let it be idle for longer than it may.
void t.test(
  'a client between two requests keeps what is left of its idle time',
  { timeout: LIMIT },
  async (t) => {
    const { poller, ours, inherited } = receiver(t)
    const sender = new Channel<FromReceiver, HeldClients>(ours, poller, {
      message: () => {},
      ended: () => {},
    })
    t.teardown(() => sender.close())
    const before = [Math.round(performance.now()) + 60_000, Number.POSITIVE_INFINITY, undefined].map(
      (quietUntil, index) =>
        new InheritedClient(descriptor(t), {
          order: index,
          listener,
          peer: { family: 'IPv4', address: '192.0.2.7', port: 1 },
          id: Buffer.alloc(16, index),
          acceptedAt: performance.now(),
          ...(quietUntil !== undefined && { quietUntil }),
        }),
    )
    const copies = before.map((connection) => JSON.stringify(heldClient('web', connection)))
    // A copy may be old when it is used.
    await new Promise((resolve) => setTimeout(resolve, 20))
    for (const copy of copies)
      sender.give({ type: 'held', clients: [JSON.parse(copy) as HeldClient] }, [descriptor(t)])
    await eventually(() => inherited.length === 3, 'all are inherited')
    t.same(
      inherited.map(({ quietUntil }) => quietUntil && Math.round(quietUntil)),
      before.map(({ quietUntil }) => quietUntil && Math.round(quietUntil)),
    )
    t.same(
      inherited.map((connection) => 'idleUntil' in connection),
      [false, false, false],
      'it is not taken for a parked one',
    )
    t.equal(
      fieldsOf(before[0] as ClientConnection).quietUntil,
      before[0]?.quietUntil,
      'also if it comes back',
    )
  },
)

/** A worker that is finishing, and the end of the pair that its successor has. */
function sender(t: Test) {
  const poller = new Poller({ ring: false })
  t.teardown(() => poller.close())
  const [ours, theirs] = socketpair('stream')
  const back: OwnedFd[] = []
  t.teardown(() => {
    for (const fd of back) fd.close()
    if (!theirs.closed) theirs.close()
  })
  const worker = {
    takeBack: (_service: string, _connections: unknown, fds: readonly OwnedFd[]) => back.push(...fds),
  } as unknown as ReplaceableWorker
  const successors = new Successors(
    poller,
    () => worker,
    () => {},
  )
  const transfer = successors.connect(ours, true)
  return { poller, successors, transfer, theirs, back }
}

function waiting(t: Test, order: number): ClientConnection {
  return new InheritedClient(descriptor(t), {
    order,
    listener,
    peer: { family: 'IPv4', address: '127.0.0.1', port: 1 },
    id: Buffer.alloc(16, order),
    acceptedAt: performance.now(),
  })
}

// They had come back before the worker asked whether everything had gone, so it closed the door to the next successor: clients that had not sent
// anything yet waited in it until its deadline.
void t.test('what came back before all was said to have gone has not gone', { timeout: LIMIT }, async (t) => {
  const { successors, transfer, theirs, back } = sender(t)
  successors
    .follow(transfer)('')
    .pass([waiting(t, 1)], () => t.fail('nothing was taken'))
  theirs.close()
  await eventually(() => back.length === 1, 'it has come back')
  t.equal(await successors.settled(), false)
  t.ok(successors.mayFollow, 'the next successor may have it')
  t.equal(await successors.settled(), true, 'once the worker has looked after it')
  t.notOk(successors.mayFollow)
})

// It could not say so, because the other end did not read. When it gave up the pair, the other end took them back, and both had them.
void t.test('what a worker could not say to have taken is not its own', { timeout: LIMIT }, async (t) => {
  const { ours, inherited } = receiver(t)
  /** Sends frames, and reads none. */
  const write = async (bytes: Buffer, fds: readonly OwnedFd[] = []) => {
    let isSent = false
    await eventually(() => {
      try {
        sendMessage(ours.fd, { bytes, fds: fds.map(({ fd }) => fd) })
        isSent = true
      } catch {
        // There is no room.
      }
      return isSent
    }, 'there is room')
  }
  const frame = (message: HeldClients) => {
    const text = Buffer.from(JSON.stringify(message))
    const header = Buffer.alloc(6)
    header.writeUInt32LE(2 + text.length)
    header.writeUInt8(0x46, 4)
    header.writeUInt8(message.clients.length, 5)
    return Buffer.concat([header, text])
  }
  // More than both directions hold.
  for (let sent = 1; sent - inherited.length < 1000; sent++) {
    const fd = descriptor(t)
    await write(frame({ type: 'held', clients: [held(sent % 256)], number: sent }), [fd])
    fd.close()
  }
  const before = inherited.length
  t.ok(before > 0, 'it takes those of which it can say so')
  await write(Buffer.from('malformed'))
  await eventually(() => (poll(ours.fd, 0) & POLLHUP) !== 0, 'it has given up')
  const text = readToEnd(ours.fd).data.toString('latin1')
  const said = Number([...text.matchAll(/"number":(\d+)/g)].at(-1)?.[1])
  await new Promise(setImmediate)
  t.equal(said, before)
  t.equal(inherited.length, before, 'and no others')
})

// The worker waited until its successor ended for connections that it had never sent.
void t.test(
  'what the kernel refuses to send is here again, after what was sent',
  { timeout: LIMIT },
  async (t) => {
    const poller = new Poller({ ring: false })
    t.teardown(() => poller.close())
    const [ours, theirs] = socketpair('stream')
    const transfer = new Transfer(ours, poller, true)
    t.teardown(() => transfer.close())
    const fates: string[] = []
    const send = (name: string, fd: OwnedFd) =>
      transfer.send([held(1)], [fd], {
        taken: (fds) => {
          for (const each of fds) each.close()
          fates.push(`${name} taken`)
        },
        back: () => fates.push(`${name} back`),
      })
    send('first', descriptor(t))
    const bad = descriptor(t)
    closeSync(bad.fd)
    send('second', bad)
    t.equal(transfer.open, false, 'nothing more goes there')
    await new Promise(setImmediate)
    t.same(fates, [])
    const numbers: (number | undefined)[] = []
    const other = new Channel<HeldClients, FromReceiver>(theirs, poller, {
      message: ({ number }, fds) => {
        for (const fd of fds) fd.close()
        numbers.push(number)
        other.send({ type: 'taken', number: number as number })
      },
      ended: () => {},
    })
    t.teardown(() => other.close())
    await transfer.settled()
    t.same(fates, ['first taken', 'second back'])
    t.same(numbers, [1])
  },
)
