import t, { type Test } from 'tap'
import { SOL_SOCKET } from '../src/abi.ts'
import {
  close,
  isCloseOnExec,
  NativeError,
  OwnedFd,
  ReceiveBatch,
  SendBatch,
  sendMessage,
  socketpair,
  type BatchItem,
} from '../src/index.ts'
import { lastErrno, libc } from '../src/libc.ts'
import { setOption } from '../src/sockets.ts'
import { closing, codeOf, identity, openDescriptors } from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'

const token = Buffer.from('0123456789abcdef')

function lane(t: Test): [OwnedFd, OwnedFd] {
  const ends = socketpair('seqpacket')
  closing(t, ...ends)
  return ends
}

const items = (count: number, fd: number): BatchItem[] =>
  Array.from({ length: count }, (_, index) => {
    const bytes = Buffer.from(token)
    bytes.writeUInt32LE(index)
    return { bytes, fd }
  })

void t.test('a batch keeps order, bytes and identity', async (t) => {
  const [a, b] = lane(t)
  const pairs = [lane(t), lane(t), lane(t)].map(([left]) => left)
  const sending = pairs.map((left, index) => ({ bytes: Buffer.alloc(index + 1, 'x'), fd: left.fd }))
  t.same(new SendBatch(64, 16).send(a.fd, sending), { sent: 3 })
  const { messages, ended } = new ReceiveBatch(64, 16).receive(b.fd, 64)
  t.notOk(ended)
  t.same(
    messages.map(({ bytes, length }) => [bytes.toString(), length]),
    [
      ['x', 1],
      ['xx', 2],
      ['xxx', 3],
    ],
  )
  t.same(
    messages.map(({ fds }) => identity(fds[0] ?? -1)),
    pairs.map(({ fd }) => identity(fd)),
  )
  for (const { fds } of messages) {
    t.equal(fds.length, 1)
    for (const fd of fds) t.ok(isCloseOnExec(fd))
    fds.forEach(close)
  }
})

void t.test('more items than the capacity go in several calls, and are received in several', async (t) => {
  const [a, b] = lane(t)
  t.same(new SendBatch(4, 16).send(a.fd, items(11, a.fd)), { sent: 11 })
  const receiver = new ReceiveBatch(4, 16)
  const first = receiver.receive(b.fd, 6)
  t.equal(first.messages.length, 6, 'not more than asked for')
  const rest = receiver.receive(b.fd, 64)
  const all = [...first.messages, ...rest.messages]
  t.same(
    all.map(({ bytes }) => bytes.readUInt32LE()),
    Array.from({ length: 11 }, (_, index) => index),
  )
  all.forEach(({ fds }) => fds.forEach(close))
  t.same(receiver.receive(b.fd, 64), { messages: [], ended: false }, 'EAGAIN')
  t.same(receiver.receive(b.fd, 0), { messages: [], ended: false })
})

void t.test('a full lane is EAGAIN after the messages that were sent', async (t) => {
  const [a, b] = lane(t)
  const { sent, error } = new SendBatch(64, 16).send(a.fd, items(2000, a.fd))
  t.match(error, { code: 'EAGAIN', syscall: 'sendmmsg', fd: a.fd })
  t.ok(sent > 100 && sent < 2000, `${sent} messages fit`)
  const { messages } = new ReceiveBatch(64, 16).receive(b.fd, 2000)
  t.equal(messages.length, sent, 'each of them arrived')
  t.equal(messages.at(-1)?.bytes.readUInt32LE(), sent - 1)
  messages.forEach(({ fds }) => fds.forEach(close))
})

void t.test('a batch stops at the item that the kernel refuses', async (t) => {
  const [a, b] = lane(t)
  const batch = items(5, a.fd)
  const { sent, error } = new SendBatch(64, 16).send(a.fd, [
    ...batch.slice(0, 3),
    { bytes: token, fd: 99_999 },
    ...batch.slice(3),
  ])
  t.equal(sent, 3)
  t.match(error, { code: 'EBADF' })
  const { messages } = new ReceiveBatch(64, 16).receive(b.fd, 64)
  t.equal(messages.length, 3)
  messages.forEach(({ fds }) => fds.forEach(close))
  b.close()
  t.match(new SendBatch(64, 16).send(a.fd, batch), { sent: 0, error: { code: 'EPIPE' } })
})

void t.test('an item that does not fit is refused', async (t) => {
  const [a] = lane(t)
  const batch = new SendBatch(2, 16)
  for (const size of [0, 17]) {
    t.equal(
      codeOf(() => batch.send(a.fd, [{ bytes: Buffer.alloc(size), fd: a.fd }])),
      'BATON_ERR_INVALID_ARGUMENT',
    )
  }
})

void t.test('a message that is too long or too short has its true length', async (t) => {
  const [a, b] = lane(t)
  for (const size of [15, 16, 17, 4096]) sendMessage(a.fd, { bytes: Buffer.alloc(size, 'x'), fds: [a.fd] })
  const { messages } = new ReceiveBatch(64, 16).receive(b.fd, 64)
  t.same(
    messages.map(({ bytes, length }) => [bytes.length, length]),
    [
      [15, 15],
      [16, 16],
      [16, 17],
      [16, 4096],
    ],
  )
  messages.forEach(({ fds }) => fds.forEach(close))
})

void t.test('none, two, four and five descriptors are counted', async (t) => {
  const [a, b] = lane(t)
  const before = openDescriptors()
  for (const count of [0, 1, 2, 4, 5]) {
    sendMessage(a.fd, { bytes: token, fds: Array.from({ length: count }, () => a.fd) })
  }
  const receiver = new ReceiveBatch(1, 16)
  const { messages } = receiver.receive(b.fd, 64)
  t.same(
    messages.map(({ fds, controlTruncated }) => [fds.length > 4 ? 'many' : fds.length, controlTruncated]),
    [
      [0, false],
      [1, false],
      [2, false],
      [4, false],
      ['many', false],
    ],
    'the room for credentials takes a few more',
  )
  messages.forEach(({ fds }) => fds.forEach(close))
  sendMessage(a.fd, { bytes: token, fds: Array.from({ length: 40 }, () => a.fd) })
  const [last] = new ReceiveBatch(64, 16).receive(b.fd, 64).messages
  t.equal(last?.controlTruncated, true)
  last?.fds.forEach(close)
  t.equal(openDescriptors(), before, 'the kernel closed the rest')
})

void t.test('options set by another holder of the socket cost no descriptor', async (t) => {
  const [a, b] = lane(t)
  const SO_PASSCRED = 16
  const SO_PASSPIDFD = 76
  setOption(b.fd, SOL_SOCKET, SO_PASSCRED, 1)
  setOption(b.fd, SOL_SOCKET, SO_PASSPIDFD, 1)
  const before = openDescriptors()
  sendMessage(a.fd, { bytes: token, fds: [a.fd] })
  const [message] = new ReceiveBatch(4, 16).receive(b.fd, 4).messages
  t.equal(message?.fds.length, 1)
  t.equal(identity(message?.fds[0] ?? -1), identity(a.fd))
  t.equal(message?.controlTruncated, false)
  message?.fds.forEach(close)
  t.equal(openDescriptors(), before)
})

void t.test('messages sent before the end are still received, and then the end', async (t) => {
  const [a, b] = lane(t)
  new SendBatch(4, 16).send(a.fd, items(2, b.fd))
  a.close()
  const receiver = new ReceiveBatch(64, 16)
  const first = receiver.receive(b.fd, 1)
  t.match(first, { messages: [{ length: 16 }], ended: false })
  const second = receiver.receive(b.fd, 64)
  t.equal(second.messages.length, 1)
  t.equal(second.ended, true)
  for (const { fds } of [...first.messages, ...second.messages]) fds.forEach(close)
  t.same(receiver.receive(b.fd, 64), { messages: [], ended: true }, 'and again')
})

void t.test('a peer that closed with unread messages: ECONNRESET first, then the queue', async (t) => {
  const [a, b] = lane(t)
  sendMessage(b.fd, { bytes: token })
  new SendBatch(4, 16).send(a.fd, items(3, b.fd))
  a.close()
  const result = new ReceiveBatch(64, 16).receive(b.fd, 64)
  t.notOk(result.error)
  t.equal(result.messages.length, 3)
  t.equal(result.ended, true)
  result.messages.forEach(({ fds }) => fds.forEach(close))
})

/** Replaces recvmmsg(2) until the end of the test. */
function replaceReceive(t: Test, receive: (socket: number, header: number, flags: number) => number): void {
  const calls: { recvmmsg: typeof libc.recvmmsg } = libc
  const { recvmmsg } = calls
  t.teardown(() => (calls.recvmmsg = recvmmsg))
  calls.recvmmsg = (socket, header, _count, flags) => receive(Number(socket), Number(header), Number(flags))
}

void t.test('a peer that closes with unread messages just after an empty read', async (t) => {
  const [a, b] = lane(t)
  const { recvmmsg } = libc
  let told = ''
  replaceReceive(t, (socket, header, flags) => {
    if (told !== '') return recvmmsg(socket, header, 64, flags, 0)
    sendMessage(b.fd, { bytes: token })
    new SendBatch(4, 16).send(a.fd, items(3, b.fd))
    a.close()
    // A `struct mmsghdr` begins with the structure that recvmsg(2) takes.
    const outcome = libc.recvmsg(socket, header, flags)
    told = codeOf(() => {
      throw new NativeError('recvmsg', lastErrno())
    })
    return outcome
  })
  const result = new ReceiveBatch(64, 16).receive(b.fd, 64)
  t.equal(told, 'ECONNRESET')
  t.notOk(result.error)
  t.equal(result.messages.length, 3)
  t.equal(result.ended, true)
  result.messages.forEach(({ fds }) => fds.forEach(close))
})

void t.test('a reset that is reported twice is an error next to the messages', async (t) => {
  const [, b] = lane(t)
  let times = 0
  replaceReceive(t, (_socket, header, flags) => {
    times += 1
    const [near, far] = socketpair('seqpacket')
    sendMessage(far.fd, { bytes: token })
    near.close()
    const outcome = times > 2 ? 0 : libc.recvmsg(far.fd, header, flags)
    far.close()
    return outcome
  })
  t.match(new ReceiveBatch(64, 16).receive(b.fd, 64), {
    messages: [],
    ended: false,
    error: { code: 'ECONNRESET', fd: b.fd },
  })
  t.equal(times, 2)
})

void t.test('an empty message is not the end', async (t) => {
  const [a, b] = lane(t)
  const receiver = new ReceiveBatch(64, 16)
  sendMessage(a.fd, { bytes: [] })
  const result = receiver.receive(b.fd, 64)
  t.match(result, { messages: [{ length: 0, fds: [], controlTruncated: false }], ended: false })
  t.equal(result.messages.length, 1)
  sendMessage(a.fd, { bytes: [] })
  sendMessage(a.fd, { bytes: token })
  a.close()
  const last = receiver.receive(b.fd, 64)
  t.same(
    last.messages.map(({ length }) => length),
    [0, 16],
    'nor with a message after it',
  )
  t.equal(last.ended, true)
})

void t.test('a descriptor that is not a socket is an error next to the messages', async (t) => {
  t.match(new ReceiveBatch(4, 16).receive(99_999, 4), {
    messages: [],
    ended: false,
    error: { code: 'EBADF' },
  })
})

void t.test('100,000 sends, receives and closes leave nothing behind', { timeout: LIMIT }, async (t) => {
  const [a, b] = lane(t)
  const sender = new SendBatch(50, 16)
  const receiver = new ReceiveBatch(50, 16)
  const batch = items(50, a.fd)
  const round = (): void => {
    const { sent } = sender.send(a.fd, batch)
    const { messages } = receiver.receive(b.fd, 50)
    if (sent !== 50 || messages.length !== 50) throw new Error(`${sent} sent, ${messages.length} received`)
    for (const { fds } of messages) fds.forEach(close)
  }
  const descriptors = openDescriptors()
  for (let count = 0; count < 500; count++) round()
  const memory = process.memoryUsage.rss()
  for (let count = 0; count < 1500; count++) round()
  t.equal(openDescriptors(), descriptors)
  const growth = process.memoryUsage.rss() - memory
  // 75,000 messages later: a leak of 512 bytes each would be 38 MB.
  t.ok(growth < 32 * 1024 * 1024, `memory grew by ${growth} bytes`)
})
