import type { ChildProcess } from 'node:child_process'
import t, { type Test } from 'tap'
import {
  dup,
  Endpoint,
  isCloseOnExec,
  OwnedFd,
  Poller,
  receiveMessage,
  sendMessage,
  sharedPoller,
  socketpair,
  type IncomingMessage,
} from '../src/index.ts'
import { closing, codeOf, ended, identity, openDescriptors, readable, startFixture } from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'

function endpoints(t: Test): [Endpoint, Endpoint] {
  const pair = Endpoint.pair()
  t.teardown(() => pair.forEach((end) => end.destroy()))
  return pair
}

void t.test('a connected pair, both ends CLOEXEC', async (t) => {
  const [a, b] = endpoints(t)
  t.not(a.fd, b.fd)
  t.ok(isCloseOnExec(a.fd))
  t.ok(isCloseOnExec(b.fd))
})

void t.test('a nonblocking receive on an empty endpoint is EAGAIN', async (t) => {
  const [a, b] = endpoints(t)
  t.equal(
    codeOf(() => a.recvFdNonblock()),
    'EAGAIN',
  )
  t.equal(
    codeOf(() => b.recvFdNonblock()),
    'EAGAIN',
  )
})

void t.test('the received descriptor is the same open file, both ways', { timeout: LIMIT }, async (t) => {
  const [a, b] = endpoints(t)
  const ends = socketpair('stream')
  closing(t, ...ends)
  a.sendFd(ends[0].fd)
  b.sendFd(ends[1].fd)
  const first = b.recvFdNonblock()
  const second = await a.recvFd()
  closing(t, first, second)
  t.equal(identity(first.fd), identity(ends[0].fd))
  t.equal(identity(second.fd), identity(ends[1].fd))
  t.ok(isCloseOnExec(first.fd))
})

void t.test('waiting receives are served in order', { timeout: LIMIT }, async (t) => {
  const [a, b] = endpoints(t)
  const ends = socketpair('stream')
  closing(t, ...ends)
  const waiting = [b.recvFd(), b.recvFd()]
  t.equal(sharedPoller().size, 1, 'one watch for both')
  ends.forEach((end) => a.sendFd(end.fd))
  const received = await Promise.all(waiting)
  closing(t, ...received)
  t.same(
    received.map(({ fd }) => identity(fd)),
    ends.map(({ fd }) => identity(fd)),
  )
  t.equal(sharedPoller().size, 0)
})

void t.test(
  'shutdown unblocks waiting receives on both ends and closes nothing',
  { timeout: LIMIT },
  async (t) => {
    const [a, b] = endpoints(t)
    a.sendFd(b.fd)
    const before = openDescriptors()
    const waiting = [a.recvFd(), a.recvFd()]
    a.shutdown()
    for (const receive of waiting) await t.rejects(receive, { code: 'BATON_ERR_UNEXPECTED_END' })
    t.equal(openDescriptors(), before)
    b.recvFdNonblock().close()
    await t.rejects(b.recvFd(), { code: 'BATON_ERR_UNEXPECTED_END' })
    for (const end of [a, b]) {
      t.equal(
        codeOf(() => end.sendFd(end.fd)),
        'EPIPE',
      )
      t.equal(
        codeOf(() => end.recvFdNonblock()),
        'BATON_ERR_UNEXPECTED_END',
      )
    }
  },
)

void t.test('shutdown of one end unblocks the other', { timeout: LIMIT }, async (t) => {
  const [a, b] = endpoints(t)
  const waiting = b.recvFd()
  a.shutdown()
  await t.rejects(waiting, { code: 'BATON_ERR_UNEXPECTED_END' })
})

void t.test('each invalid message has its own error, and its descriptors are closed', async (t) => {
  const [a, b] = endpoints(t)
  const before = openDescriptors()
  const receive = (): string => codeOf(() => b.recvFdNonblock())
  sendMessage(a.fd, { bytes: Buffer.from([0]) })
  t.equal(receive(), 'BATON_ERR_NO_DESCRIPTOR')
  sendMessage(a.fd, { bytes: Buffer.from([0]), fds: [a.fd, b.fd] })
  t.equal(receive(), 'BATON_ERR_CONTROL_INVALID', 'two descriptors')
  t.equal(openDescriptors(), before)
  a.destroy()
  t.equal(receive(), 'BATON_ERR_UNEXPECTED_END')
})

void t.test('destroy closes, and a second call closes nothing else', { timeout: LIMIT }, async (t) => {
  const before = openDescriptors()
  const [a, b] = Endpoint.pair()
  const { fd } = a
  a.destroy()
  const stranger = dup(b.fd)
  t.equal(stranger.fd, fd)
  a.destroy()
  t.ok(isCloseOnExec(stranger.fd), 'still open')
  for (const call of [() => a.fd, () => a.sendFd(0), () => a.recvFdNonblock(), () => a.shutdown()]) {
    t.equal(codeOf(call), 'BATON_ERR_FD_CLOSED')
  }
  await t.rejects(a.recvFd(), { code: 'BATON_ERR_FD_CLOSED' })
  stranger.close()
  b.destroy()
  t.equal(openDescriptors(), before)
})

void t.test('destroy ends a pending receive', { timeout: LIMIT }, async (t) => {
  const [a, b] = Endpoint.pair()
  const waiting = a.recvFd()
  a.destroy()
  await t.rejects(waiting, { code: 'BATON_ERR_FD_CLOSED' })
  b.destroy()
  t.equal(sharedPoller().size, 0)
})

void t.test('a receive can be aborted, and the next one continues', { timeout: LIMIT }, async (t) => {
  const [a, b] = endpoints(t)
  const abort = new AbortController()
  const given = b.recvFd({ signal: abort.signal })
  const kept = b.recvFd()
  abort.abort(new Error('enough'))
  await t.rejects(given, { message: 'enough' })
  a.sendFd(a.fd)
  const received = await kept
  t.equal(identity(received.fd), identity(a.fd))
  received.close()
  await t.rejects(b.recvFd({ signal: abort.signal }), { message: 'enough' })
  t.equal(sharedPoller().size, 0)
})

/** The parent's side of a channel to test/fixtures/introduced.mjs: its descriptor 3. */
interface Introduced {
  child: ChildProcess
  channel: OwnedFd
}

function start(t: Test): Introduced {
  const [ours, theirs] = socketpair('seqpacket')
  const child = startFixture('introduced.mjs', [], { stdio: ['ignore', 'inherit', 'inherit', theirs.fd] })
  theirs.close()
  closing(t, ours)
  return { child, channel: ours }
}

function say({ channel }: Introduced, kind: string, text: string, ...fds: number[]): void {
  sendMessage(channel.fd, { bytes: [Buffer.from(kind), Buffer.from(text)], fds })
}

async function hear(poller: Poller, { channel }: Introduced): Promise<IncomingMessage> {
  for (;;) {
    const message = receiveMessage(channel.fd, { size: 256, maxFds: 1 })
    if (message !== undefined) return message
    await readable(poller, channel.fd)
  }
}

void t.test(
  'a pair to a child works both ways, and its unused ends are closed',
  { timeout: LIMIT },
  async (t) => {
    const poller = new Poller()
    t.teardown(() => poller.close())
    const parent = start(t)
    const exit = ended(parent.child)
    say(parent, 'E', 'hello')
    t.equal((await hear(poller, parent)).bytes.toString(), 'Ehello')
    parent.child.kill('SIGKILL')
    await exit
    const end = await hear(poller, parent)
    t.equal(end.bytes.length, 0, 'EOF: the parent kept no copy of the child’s end')
  },
)

void t.test(
  'messages with and without descriptors are told apart by their first byte',
  { timeout: LIMIT },
  async (t) => {
    const poller = new Poller()
    t.teardown(() => poller.close())
    const parent = start(t)
    const exit = ended(parent.child)
    say(parent, 'E', 'one')
    say(parent, 'I', '', parent.channel.fd)
    say(parent, 'E', 'two')
    const heard = [await hear(poller, parent), await hear(poller, parent), await hear(poller, parent)]
    t.same(
      heard.map(({ bytes }) => bytes.toString()),
      ['Eone', `I${identity(parent.channel.fd)}`, 'Etwo'],
    )
    say(parent, 'B', 'ack')
    const back = await hear(poller, parent)
    t.equal(back.bytes.toString(), 'Back')
    t.equal(
      identity(back.fds[0]?.fd ?? -1),
      identity(parent.channel.fd),
      'a descriptor comes back the same way',
    )
    back.fds[0]?.close()
    say(parent, 'Q', '')
    t.match(await exit, { code: 0 })
  },
)

void t.test('a parent introduces two children, and they talk directly', { timeout: LIMIT }, async (t) => {
  const poller = new Poller()
  t.teardown(() => poller.close())
  const [first, second] = [start(t), start(t)]
  const exits = [ended(first.child), ended(second.child)]
  const [left, right] = socketpair('seqpacket')
  say(first, 'L', '', left.fd)
  say(second, 'L', '', right.fd)
  left.close()
  right.close()
  say(first, 'S', 'from the first')
  t.equal((await hear(poller, second)).bytes.toString(), 'Rfrom the first')
  say(second, 'S', 'from the second')
  t.equal((await hear(poller, first)).bytes.toString(), 'Rfrom the second')
  say(first, 'Q', '')
  t.match(await exits[0], { code: 0 })
  t.equal((await hear(poller, second)).bytes.toString(), 'R', 'the second sees the end of the first')
  say(second, 'Q', '')
  t.match(await exits[1], { code: 0 })
})
