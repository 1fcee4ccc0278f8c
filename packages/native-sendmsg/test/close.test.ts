import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { SO_LINGER, SOL_SOCKET } from '../src/abi.ts'
import { Arena } from '../src/arena.ts'
import {
  acceptMany,
  clearLinger,
  closeAll,
  closeAside,
  closeReachable,
  connectUnix,
  descriptorsCanBeRefused,
  dup,
  listenTcp,
  listenUnix,
  localAddress,
  NativeError,
  OwnedFd,
  poll,
  POLLNVAL,
  receivePlain,
  refuseDescriptors,
  resetAll,
  send,
  sendMessage,
  socketpair,
} from '../src/index.ts'
import { closeOnThread, libc } from '../src/libc.ts'
import { closing, nativeError, openDescriptors, present, temporaryFolder } from './support.ts'

/** Seconds that a close would block: longer than any test. */
const LINGER = Math.ceil((10 * LIMIT) / 1000)

const option = new Arena(16)

function setLinger(fd: number, seconds: number): void {
  option.words.set([1, seconds])
  if (libc.setsockopt(fd, SOL_SOCKET, SO_LINGER, option.address, 8) === -1) throw new Error('setsockopt')
}

function lingers(fd: number): boolean {
  option.words.set([0, 0, 8])
  if (libc.getsockopt(fd, SOL_SOCKET, SO_LINGER, option.address, option.address + 8) === -1)
    throw new Error('getsockopt')
  return option.words[0] !== 0
}

/** TCP connections with SO_LINGER, whose peer reads nothing, and with more to send than the kernel can buffer. */
async function clogged(t: Test, count: number): Promise<OwnedFd[]> {
  const listener = listenTcp({ host: '127.0.0.1', port: 0 })
  closing(t, listener)
  const { port } = localAddress(listener.fd)
  const fds: OwnedFd[] = []
  for (let index = 0; index < count; index++) {
    const peer = connect({ port, host: '127.0.0.1' }).pause()
    t.teardown(() => peer.destroy())
    await once(peer, 'connect')
    const fd = new OwnedFd(present(acceptMany(listener.fd, 1).connections[0]).fd)
    closing(t, fd)
    fill(fd.fd)
    setLinger(fd.fd, LINGER)
    fds.push(fd)
  }
  return fds
}

function fill(fd: number): void {
  const error = nativeError(() => {
    for (;;) send(fd, Buffer.alloc(65_536))
  })
  if (error.code !== 'EAGAIN') throw error
}

for (const how of ['one', 'many'] as const) {
  void t.test(
    `closing never waits for a linger set by another process: ${how}`,
    { timeout: LIMIT },
    async (t) => {
      // A process that sends a descriptor, or has received one, could freeze the process that closed it last.
      const fds = await clogged(t, how === 'one' ? 1 : 20)
      const before = openDescriptors()
      closeAll(fds)
      t.equal(openDescriptors(), before - fds.length)
    },
  )
}

void t.test('a descriptor of another process is closed on another thread', { timeout: LIMIT }, async (t) => {
  const fds = await clogged(t, 3)
  const [near, far] = socketpair('stream')
  closing(t, near)
  const before = openDescriptors()
  for (const fd of [...fds, far]) closeAside(fd)
  t.ok(fds.every(({ closed }) => closed))
  await eventually(
    () => openDescriptors() === before - 4,
    () => `all four are closed: ${openDescriptors()} of ${before}`,
  )
})

void t.test(
  'what lies in the queue of a Unix socket is closed with it on another thread',
  { timeout: LIMIT },
  async (t) => {
    // The main thread waited for it: it held the last reference to the socket.
    const [fd] = (await clogged(t, 1)) as [OwnedFd]
    const [near, far] = socketpair('seqpacket')
    closing(t, near, far)
    sendMessage(near.fd, { bytes: Buffer.from('x'), fds: [fd.fd] })
    fd.close()
    const before = openDescriptors()
    closeAside(far)
    await eventually(
      () => openDescriptors() === before - 1,
      () => `it is closed: ${openDescriptors()} of ${before}`,
    )
  },
)

void t.test('closeReachable of a socket that lingers does not wait', { timeout: LIMIT }, async (t) => {
  // Of a connection without a peer only its last holder knows that it is none of a Unix listener.
  const [fd] = (await clogged(t, 1)) as [OwnedFd]
  closeReachable(fd, true)
  t.ok(fd.closed)
})

void t.test('a connection that is taken back does not linger', async (t) => {
  const fds = await clogged(t, 1)
  const [fd] = fds as [OwnedFd]
  const copy = dup(fd.fd)
  closing(t, copy)
  t.ok(lingers(copy.fd))
  clearLinger(fd.fd)
  t.notOk(lingers(copy.fd), 'it belongs to the open file')
  const [one, other] = socketpair('stream')
  closing(t, one, other)
  clearLinger(one.fd)
  clearLinger(0)
})

void t.test(
  'resetAll ends a connection with a reset, even with unsent data',
  { timeout: LIMIT },
  async (t) => {
    const listener = listenTcp({ host: '127.0.0.1', port: 0 })
    closing(t, listener)
    const peer = connect(localAddress(listener.fd).port, '127.0.0.1')
    t.teardown(() => peer.destroy())
    await once(peer, 'connect')
    const fd = new OwnedFd(present(acceptMany(listener.fd, 1).connections[0]).fd)
    setLinger(fd.fd, LINGER)
    const end = once(peer.resume(), 'error')
    resetAll([fd])
    t.match(await end, [{ code: 'ECONNRESET' }])
  },
)

void t.test(
  'a socket that refuses descriptors is sent none',
  { skip: !descriptorsCanBeRefused() && 'SO_PASSRIGHTS is Linux 6.16’s' },
  async (t) => {
    const path = join(temporaryFolder(t), 's')
    const listener = listenUnix({ path, descriptors: false })
    const client = connectUnix(path)
    const [connection] = acceptMany(listener.fd, 1).connections
    const accepted = new OwnedFd(present(connection).fd)
    closing(t, listener, client, accepted)
    const sending = (fd: number) => nativeError(() => sendMessage(fd, { bytes: Buffer.from('x'), fds: [0] }))
    t.equal(sending(client.fd).code, 'EPERM')
    sendMessage(accepted.fd, { bytes: Buffer.from('x'), fds: [0] })
    t.equal(receivePlain(client.fd, 10).toString(), 'x', 'the other direction is as it was')

    const open = join(temporaryFolder(t), 's')
    const other = listenUnix({ path: open })
    const cautious = connectUnix(open, 'stream', { descriptors: false })
    const [incoming] = acceptMany(other.fd, 1).connections
    const server = new OwnedFd(present(incoming).fd)
    closing(t, other, cautious, server)
    t.equal(sending(server.fd).code, 'EPERM')
    sendMessage(cautious.fd, { bytes: Buffer.from('x'), fds: [0] })

    const tcp = listenTcp({ host: '127.0.0.1', port: 0 })
    closing(t, tcp)
    t.ok(refuseDescriptors(tcp.fd), 'no descriptors come over TCP')
    closeReachable(client, true)
    closeReachable(client, true)
    t.ok(client.closed)
  },
)

void t.test('like recv, receivePlain reports an end and an empty queue', async (t) => {
  const [near, far] = socketpair('stream')
  closing(t, near, far)
  t.equal(nativeError(() => receivePlain(near.fd, 10)).code, 'EAGAIN')
  t.type(
    nativeError(() => receivePlain(near.fd, 10)),
    NativeError,
  )
  send(far.fd, Buffer.from('abc'))
  t.equal(receivePlain(near.fd, 2).toString(), 'ab')
  far.close()
  t.equal(receivePlain(near.fd, 2).toString(), 'c')
  t.equal(receivePlain(near.fd, 2).length, 0)
})

// koffi refuses more than 256 calls on threads at a time.
void t.test('any number of descriptors are closed on other threads', { timeout: LIMIT }, async (t) => {
  const [near, far] = socketpair('stream')
  t.teardown(() => far.close())
  const fds = Array.from({ length: 1000 }, () => dup(near.fd).release())
  near.close()
  const results = await Promise.all(fds.map(closeOnThread))
  t.ok(
    results.every((result) => result === 0),
    'none is refused',
  )
  t.ok(
    fds.every((fd) => poll(fd, 0) === POLLNVAL),
    'all are closed',
  )
  const EBADF = 9
  t.same(
    await Promise.all([closeOnThread(-1), closeOnThread(-1)]),
    [-EBADF, -EBADF],
    'with the errno of that thread',
  )
})
