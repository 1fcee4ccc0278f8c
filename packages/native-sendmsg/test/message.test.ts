import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { cmsgLength, SCM_RIGHTS, SOL_SOCKET } from '../src/abi.ts'
import { readControl, writeRights } from '../src/control-message.ts'
import {
  acceptOne,
  connectUnix,
  dialAndSend,
  isCloseOnExec,
  isNonblocking,
  listenUnix,
  NativeError,
  OwnedFd,
  Poller,
  receiveExact,
  receiveMessage,
  recv,
  send,
  sendMessage,
  ShortSendError,
  socketpair,
  UnexpectedEndError,
} from '../src/index.ts'
import { canBeNobody, onlyAsRoot } from '../../../test/support/other-user.ts'
import { setOption } from '../src/sockets.ts'
import {
  closing,
  codeOf,
  ended,
  identity,
  nativeError,
  openDescriptors,
  present,
  startFixture,
  temporaryFolder,
} from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'

const token = Buffer.from('0123456789abcdef')

function pair(test: Test, type: 'stream' | 'seqpacket' = 'seqpacket'): [OwnedFd, OwnedFd] {
  const ends = socketpair(type)
  closing(test, ...ends)
  return ends
}

/** As root these tests run a program of the repository as another user; as any other user they need no other. */
const otherUser = { skip: process.getuid?.() === 0 && !canBeNobody && onlyAsRoot.skip }

void t.test('token and descriptor leave in one message', async (t) => {
  const [a, b] = pair(t)
  t.equal(sendMessage(a.fd, { bytes: token, fds: [a.fd] }), 16)
  const message = receiveMessage(b.fd, { size: 64, maxFds: 4 })
  t.same(message?.bytes, token)
  t.equal(message?.fds.length, 1)
  message?.fds[0]?.close()
  t.equal(receiveMessage(b.fd, { size: 64, maxFds: 4 }), undefined, 'nothing comes after it')

  const control = Buffer.alloc(24)
  t.equal(writeRights(control, 0, [7]), 24, 'CMSG_SPACE of one descriptor')
  t.same(
    [control.readUInt32LE(0), control.readUInt32LE(4), control.readInt32LE(8), control.readInt32LE(12)],
    [20, 0, SOL_SOCKET, SCM_RIGHTS],
  )
})

void t.test('the received descriptor is a duplicate of the sent one, CLOEXEC from birth', async (t) => {
  const [a, b] = pair(t)
  const [sent, other] = pair(t, 'stream')
  sendMessage(a.fd, { bytes: token, fds: [sent.fd] })
  const message = receiveMessage(b.fd, { size: 16, maxFds: 1 })
  const received = present(message?.fds[0])
  closing(t, received)
  t.same(message?.bytes, token)
  t.not(received.fd, sent.fd)
  t.equal(identity(received.fd), identity(sent.fd))
  t.not(identity(received.fd), identity(other.fd))
  t.ok(isCloseOnExec(received.fd))
  send(received.fd, Buffer.from('hello'))
  t.same(recv(other.fd, 16), Buffer.from('hello'))
})

void t.test('the sender still owns its descriptor and closes it exactly once', async (t) => {
  const [a, b] = pair(t)
  const [sent, other] = socketpair('stream')
  closing(t, other)
  sendMessage(a.fd, { bytes: token, fds: [sent.fd] })
  const { fd } = sent
  t.equal(send(fd, Buffer.from('x')), 1, 'usable after the send')
  sent.close()
  sent.close()
  t.ok(sent.closed)
  t.equal(
    codeOf(() => sent.fd),
    'BATON_ERR_FD_CLOSED',
  )
  t.equal(
    codeOf(() => send(fd, Buffer.from('x'))),
    'EBADF',
  )
  const stranger = a.dup()
  t.equal(stranger.fd, fd, 'the number belongs to a stranger now')
  sent.close()
  t.ok(isCloseOnExec(stranger.fd), 'and a further close does not hit it')
  stranger.close()
  const message = receiveMessage(b.fd, { size: 16, maxFds: 1 })
  t.equal(message?.fds.length, 1, 'the copy in the queue lived on')
  message?.fds[0]?.close()
})

void t.test('dial, send, done', async (t) => {
  const path = join(temporaryFolder(t), 'handoff.sock')
  const listener = listenUnix({ path })
  const [sent] = pair(t)
  const connection = dialAndSend(path, token, [sent.fd])
  closing(t, listener, connection)
  const before = openDescriptors()
  const failed = nativeError(() => dialAndSend(path, token, [99_999]))
  t.match(failed, { code: 'EBADF', syscall: 'sendmsg', path })
  t.equal(openDescriptors(), before, 'a dial that could not send is hung up')
  const accepted = present(acceptOne(listener.fd))
  closing(t, new OwnedFd(accepted.fd))
  const message = receiveMessage(accepted.fd, { size: 16, maxFds: 1 })
  t.same(message?.bytes, token)
  t.equal(identity(message?.fds[0]?.fd ?? -1), identity(sent.fd))
  message?.fds[0]?.close()
})

void t.test('over an existing connection the caller keeps both descriptors', async (t) => {
  const [a, b] = pair(t, 'stream')
  const [sent] = pair(t)
  const before = openDescriptors()
  for (let round = 0; round < 3; round++) {
    sendMessage(a.fd, { bytes: token, fds: [sent.fd] })
    const message = receiveMessage(b.fd, { size: 16, maxFds: 1 })
    t.equal(identity(message?.fds[0]?.fd ?? -1), identity(sent.fd))
    message?.fds[0]?.close()
  }
  t.equal(openDescriptors(), before)
})

void t.test('a dial never blocks on a silent or full peer', { timeout: LIMIT }, async (t) => {
  const path = join(temporaryFolder(t), 'silent.sock')
  closing(t, listenUnix({ path, backlog: 1 }))
  const dialled: OwnedFd[] = []
  t.teardown(() => dialled.forEach((fd) => fd.close()))
  const error = nativeError(() => {
    for (let index = 0; index < 10; index++) dialled.push(connectUnix(path))
  })
  t.match(error, { code: 'EAGAIN', syscall: 'connect', path, fd: -1 })
  const first = present(dialled[0])
  t.ok(isNonblocking(first.fd))
  t.ok(isCloseOnExec(first.fd))
  const full = nativeError(() => {
    for (;;) sendMessage(first.fd, { bytes: token })
  })
  t.equal(full.code, 'EAGAIN')
})

void t.test('a closed peer raises no signal', async (t) => {
  for (const type of ['stream', 'seqpacket'] as const) {
    const [a, b] = pair(t, type)
    b.close()
    const error = nativeError(() => sendMessage(a.fd, { bytes: token, fds: [a.fd] }))
    t.match(error, { code: 'EPIPE', syscall: 'sendmsg', fd: a.fd })
    t.equal(
      codeOf(() => send(a.fd, token)),
      'EPIPE',
    )
  }
})

void t.test('a missing socket path is named', async (t) => {
  const path = join(temporaryFolder(t), 'missing.sock')
  const before = openDescriptors()
  const error = nativeError(() => dialAndSend(path, token, []))
  t.equal(openDescriptors(), before)
  t.match(error, { code: 'ENOENT', syscall: 'connect', path, fd: -1, name: 'NativeError' })
  t.equal(error.errno, 2)
  t.ok(error.message.startsWith(`connect ${path}: ENOENT`), error.message)
})

void t.test('EACCES on connect has fd -1; an error on send has the real one', otherUser, async (t) => {
  const folder = temporaryFolder(t)
  const path = join(folder, 'private.sock')
  closing(t, listenUnix({ path, mode: 0o600 }))
  // Permissions do not apply to root, so another user connects.
  const options = process.getuid?.() === 0 ? { uid: 65_534 } : {}
  chmodSync(folder, 0o755)
  if (process.getuid?.() !== 0) chmodSync(path, 0)
  const child = await ended(startFixture('dial.mjs', [path], options))
  t.equal(child.stderr, '')
  t.same(JSON.parse(child.stdout), { code: 'EACCES', errno: 13, syscall: 'connect', path, fd: -1 })
  const [a, b] = pair(t)
  b.close()
  t.equal(nativeError(() => sendMessage(a.fd, { bytes: token })).fd, a.fd)
})

void t.test('a full queue is EAGAIN', async (t) => {
  const [a, b] = pair(t)
  let sent = 0
  const error = nativeError(() => {
    for (; ; sent++) sendMessage(a.fd, { bytes: token, fds: [a.fd] })
  })
  t.equal(error.code, 'EAGAIN')
  t.ok(sent > 100 && sent < 2000, `${sent} messages fit`)
  const before = openDescriptors()
  b.close()
  t.equal(openDescriptors(), before - 1, 'queued messages ended with it')
})

void t.test('ECONNREFUSED, ECONNRESET, EPIPE, ENOTCONN', async (t) => {
  const path = join(temporaryFolder(t), 'stale.sock')
  const listener = listenUnix({ path })
  closing(t, listener)
  t.equal(nativeError(() => sendMessage(listener.fd, { bytes: token })).code, 'ENOTCONN')
  listener.close()
  t.match(
    nativeError(() => connectUnix(path)),
    { code: 'ECONNREFUSED', path, fd: -1 },
  )
  const [a, b] = pair(t, 'stream')
  send(a.fd, token)
  b.close()
  t.equal(nativeError(() => recv(a.fd, 1)).code, 'ECONNRESET')
  t.equal(nativeError(() => sendMessage(a.fd, { bytes: token })).code, 'EPIPE')
})

void t.test('any other errno is kept raw', async (t) => {
  const [a, b] = pair(t)
  t.match(
    nativeError(() => sendMessage(a.fd, { bytes: token, fds: [99_999] })),
    { code: 'EBADF', errno: 9 },
  )
  const fds = Array.from({ length: 253 }, () => a.fd)
  t.match(
    nativeError(() => sendMessage(a.fd, { bytes: token, fds: [...fds, a.fd] })),
    { code: 'EINVAL', errno: 22 },
    '254 descriptors',
  )
  sendMessage(a.fd, { bytes: token, fds })
  const message = receiveMessage(b.fd, { size: 16, maxFds: 253 })
  t.equal(message?.fds.length, 253)
  message?.fds.forEach((fd) => fd.close())
  t.match(new NativeError('sendmsg', 109, { fd: 3 }), { code: 'ETOOMANYREFS', errno: 109 })
  t.match(new NativeError('sendmsg', 4093), { code: 'ERRNO_4093', errno: 4093 })
  t.equal(new NativeError('sendmsg', 11).code, 'EAGAIN', 'never EWOULDBLOCK')
  const file = join(temporaryFolder(t), 'plain')
  writeFileSync(file, '')
  t.equal(nativeError(() => connectUnix(file)).code, 'ECONNREFUSED', 'not a socket')
  t.equal(nativeError(() => connectUnix(`/tmp/${'x'.repeat(103)}`)).code, 'ENAMETOOLONG')
  t.equal(nativeError(() => connectUnix('/tmp/a\0b')).code, 'EINVAL')
})

void t.test('a short send is a failure, and its descriptor may have arrived', async (t) => {
  const [a, b] = pair(t, 'stream')
  const bytes = Buffer.alloc(8 * 1024 * 1024, 'x')
  try {
    sendMessage(a.fd, { bytes, fds: [a.fd] })
    t.fail('went whole')
  } catch (error) {
    if (!(error instanceof ShortSendError)) throw error
    t.equal(error.code, 'BATON_ERR_SHORT_SEND')
    t.equal(error.wanted, bytes.length)
    t.ok(error.sent > 0 && error.sent < error.wanted, `${error.sent} bytes went`)
  }
  const message = receiveMessage(b.fd, { size: 16, maxFds: 1 })
  t.equal(message?.fds.length, 1)
  message?.fds[0]?.close()
})

void t.test('control messages of another level, type or length are errors', async (t) => {
  const control = Buffer.alloc(48)
  writeRights(control, 0, [7])
  control.writeInt32LE(41, 8)
  t.match(readControl(control, 0, 24), { fds: [], problem: /got level 41 type 1, wanted level 1 type 1/ })
  writeRights(control, 0, [7])
  control.writeInt32LE(2, 12)
  t.match(readControl(control, 0, 24), { fds: [], problem: /got level 1 type 2/ })
  for (const length of [0, 15, 25]) {
    writeRights(control, 0, [7])
    control.writeUInt32LE(length, 0)
    t.match(readControl(control, 0, 24), { fds: [], problem: /got cmsg_len/ }, `length ${length}`)
  }
  writeRights(control, 0, [7])
  writeRights(control, 24, [8])
  control.writeInt32LE(4, 12)
  t.match(
    readControl(control, 0, 48),
    { fds: [8], strays: [7] },
    'a pidfd is told apart from the sent descriptors',
  )
})

void t.test('foreign control messages close what came with them', async (t) => {
  const SO_PASSCRED = 16
  const SO_PASSPIDFD = 76
  for (const option of [SO_PASSCRED, SO_PASSPIDFD]) {
    const [a, b] = pair(t)
    setOption(b.fd, SOL_SOCKET, option, 1)
    sendMessage(a.fd, { bytes: token, fds: [a.fd] })
    const before = openDescriptors()
    t.equal(
      codeOf(() => receiveMessage(b.fd, { size: 16, maxFds: 1 })),
      'BATON_ERR_CONTROL_INVALID',
    )
    t.equal(openDescriptors(), before)
  }
})

void t.test('pieces are gathered, and several descriptors ride on one message', async (t) => {
  const [a, b] = pair(t)
  const [x, y] = pair(t, 'stream')
  const sent = sendMessage(a.fd, {
    bytes: [Buffer.from('one '), new Uint8Array([116, 119, 111]), Buffer.alloc(0)],
    fds: [x.fd, y.fd],
  })
  t.equal(sent, 7)
  const message = receiveMessage(b.fd, { size: 64, maxFds: 2 })
  t.equal(message?.bytes.toString(), 'one two')
  t.same(
    message?.fds.map((fd) => identity(fd.fd)),
    [x, y].map((fd) => identity(fd.fd)),
  )
  t.match(message, { surplus: 0, truncated: false, controlTruncated: false })
  message?.fds.forEach((fd) => fd.close())
})

void t.test(
  'surplus descriptors are closed and counted; a trailing partial integer is ignored',
  async (t) => {
    const [a, b] = pair(t)
    const before = openDescriptors()
    sendMessage(a.fd, { bytes: token, fds: [a.fd, b.fd, a.fd] })
    const message = receiveMessage(b.fd, { size: 16, maxFds: 1 })
    t.equal(message?.surplus, 2)
    t.equal(message?.fds.length, 1)
    t.equal(openDescriptors(), before + 1)
    message?.fds[0]?.close()

    const control = Buffer.alloc(32)
    writeRights(control, 0, [7, 8])
    control.writeUInt32LE(cmsgLength(7), 0)
    t.match(readControl(control, 0, 24), { fds: [7] })
    t.notOk(readControl(control, 0, 24).problem)
  },
)

void t.test('a message that is longer than requested is marked', async (t) => {
  const [a, b] = pair(t)
  sendMessage(a.fd, { bytes: Buffer.from('seventeen bytes!!') })
  const message = receiveMessage(b.fd, { size: 16, maxFds: 0 })
  t.match(message, { truncated: true, controlTruncated: false })
  t.equal(message?.bytes.length, 16)
})

void t.test('descriptors need a byte to ride on', async (t) => {
  const [a] = pair(t, 'stream')
  t.equal(
    codeOf(() => sendMessage(a.fd, { bytes: [], fds: [a.fd] })),
    'BATON_ERR_INVALID_ARGUMENT',
  )
})

void t.test('receiveExact takes exactly the requested bytes', { timeout: LIMIT }, async (t) => {
  const [a, b] = pair(t, 'stream')
  const poller = new Poller()
  t.teardown(() => poller.close())
  const pending = receiveExact(poller, b.fd, 8, { maxFds: 1 })
  sendMessage(a.fd, { bytes: Buffer.from('12'), fds: [a.fd] })
  setImmediate(() => send(a.fd, Buffer.from('345678rest')))
  const { bytes, fds } = await pending
  t.equal(bytes.toString(), '12345678')
  t.equal(fds.length, 1)
  t.equal(identity(fds[0]?.fd ?? -1), identity(a.fd))
  fds.forEach((fd) => fd.close())
  t.equal(recv(b.fd, 64).toString(), 'rest', 'the rest is left for the next reader')
  t.equal(poller.size, 0)
  send(a.fd, Buffer.from('now'))
  t.equal((await receiveExact(poller, b.fd, 3, { maxFds: 0 })).bytes.toString(), 'now', 'without a wait')
})

void t.test('receiveExact closes received descriptors when it rejects', { timeout: LIMIT }, async (t) => {
  const poller = new Poller()
  t.teardown(() => poller.close())
  const [a, b] = pair(t, 'stream')
  const [sent] = pair(t, 'stream')
  const before = openDescriptors()

  sendMessage(a.fd, { bytes: Buffer.from('123'), fds: [sent.fd, sent.fd] })
  const abort = new AbortController()
  const aborted = receiveExact(poller, b.fd, 8, { maxFds: 2, signal: abort.signal })
  t.equal(openDescriptors(), before + 2, 'it holds the two that came')
  abort.abort(new Error('enough'))
  await t.rejects(aborted, { message: 'enough' })
  await t.rejects(receiveExact(poller, b.fd, 8, { maxFds: 0, signal: abort.signal }), { message: 'enough' })
  t.equal(openDescriptors(), before)

  sendMessage(a.fd, { bytes: Buffer.from('45'), fds: [sent.fd] })
  const ending = receiveExact(poller, b.fd, 8, { maxFds: 1 })
  a.close()
  try {
    await ending
    t.fail('nothing was missing')
  } catch (error) {
    if (!(error instanceof UnexpectedEndError)) throw error
    t.match(error, { code: 'BATON_ERR_UNEXPECTED_END', received: 2, wanted: 8 })
  }
  t.equal(openDescriptors(), before - 1, 'all but the end that the test closed')
  t.equal(poller.size, 0)
})

void t.test('receiveExact refuses a seqpacket message that is longer', { timeout: LIMIT }, async (t) => {
  const [a, b] = pair(t)
  const poller = new Poller()
  t.teardown(() => poller.close())
  sendMessage(a.fd, { bytes: token, fds: [a.fd] })
  const before = openDescriptors()
  await t.rejects(receiveExact(poller, b.fd, 8, { maxFds: 1 }), { code: 'BATON_ERR_MESSAGE_TRUNCATED' })
  t.equal(openDescriptors(), before)
})

void t.test('out of descriptors', { timeout: LIMIT }, async (t) => {
  const child = await ended(startFixture('exhausted.mjs', [], { descriptors: 96 }))
  t.equal(child.stderr, '')
  t.same(JSON.parse(child.stdout), {
    dup: 'EMFILE',
    message: { bytes: 16, fds: 0, controlTruncated: true },
    batch: { length: 16, fds: 0, controlTruncated: true },
    endpoint: 'BATON_ERR_CONTROL_TRUNCATED',
    accept: 'EMFILE',
    afterwards: { accepted: true, fds: 1 },
  })
})

void t.test(
  'too many descriptors in flight are ETOOMANYREFS for a sender without privileges',
  { timeout: LIMIT, ...otherUser },
  async (t) => {
    const options = process.getuid?.() === 0 ? { uid: 65_534 } : {}
    const child = await ended(startFixture('in-flight.mjs', [], { ...options, descriptors: 96 }))
    t.equal(child.stderr, '')
    t.same(JSON.parse(child.stdout), { code: 'ETOOMANYREFS', errno: 109, syscall: 'sendmmsg' })
  },
)
