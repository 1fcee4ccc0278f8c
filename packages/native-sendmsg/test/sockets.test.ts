import { once } from 'node:events'
import { lstatSync, openSync, readFileSync, watch, writeFileSync } from 'node:fs'
import { connect, Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import {
  AF_UNIX,
  IPPROTO_TCP,
  SO_KEEPALIVE,
  SOCK_DGRAM,
  SOCK_SEQPACKET,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_NODELAY,
} from '../src/abi.ts'
import { Arena } from '../src/arena.ts'
import { errnoNames } from '../src/errno.ts'
import {
  acceptOne,
  close,
  CONNECTION_ENTRY,
  connectUnix,
  dup,
  errorMessages,
  isCloseOnExec,
  isListening,
  isNonblocking,
  listenTcp,
  listenUnix,
  localAddress,
  OwnedFd,
  PACKED_ADDRESS,
  packAddress,
  peek,
  peerAddress,
  peerCredentials,
  poll,
  pollEach,
  Poller,
  POLLHUP,
  POLLIN,
  POLLNVAL,
  POLLOUT,
  POLLRDHUP,
  readToEnd,
  recv,
  send,
  SocketDiagnostics,
  setCloseOnExec,
  setNonblocking,
  socketError,
  socketpair,
  supported,
  unpackAddress,
  type AcceptedConnection,
  type SocketAddress,
  monotonicTime,
} from '../src/index.ts'
import { libc } from '../src/libc.ts'
import {
  closing,
  codeOf,
  ended,
  nativeError,
  openDescriptors,
  present,
  readable,
  startFixture,
  temporaryFolder,
} from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'

/** Connects a Node client to a listener; teardown closes everything. */
async function accepted(t: Test, listener: OwnedFd, host: string): Promise<[AcceptedConnection, Socket]> {
  const poller = new Poller()
  const client = connect(localAddress(listener.fd).port, host)
  await Promise.all([once(client, 'connect'), readable(poller, listener.fd)])
  poller.close()
  const connection = present(acceptOne(listener.fd))
  t.teardown(() => {
    client.destroy()
    close(connection.fd)
  })
  return [connection, client]
}

function option(fd: number, level: number, name: number): number {
  const arena = new Arena(16)
  arena.buffer.writeUInt32LE(4, 8)
  libc.getsockopt(fd, level, name, arena.address, arena.address + 8)
  return arena.buffer.readInt32LE(0)
}

void t.test('an owned descriptor closes once', async (t) => {
  const before = openDescriptors()
  const [a, b] = socketpair('stream')
  t.ok(isCloseOnExec(a.fd) && isCloseOnExec(b.fd))
  const copy = a.dup()
  t.ok(isCloseOnExec(copy.fd))
  const number = copy.release()
  t.ok(copy.closed)
  t.equal(
    codeOf(() => copy.release()),
    'BATON_ERR_FD_CLOSED',
  )
  t.equal(
    codeOf(() => copy.dup()),
    'BATON_ERR_FD_CLOSED',
  )
  copy.close()
  t.ok(isCloseOnExec(number), 'released, so not closed')
  close(number)
  a.close()
  b.close()
  t.equal(openDescriptors(), before)
  t.match(
    nativeError(() => close(number)),
    { code: 'EBADF', syscall: 'close', fd: number },
  )
  t.equal(
    codeOf(() => dup(number)),
    'EBADF',
  )
  for (const fd of [-1, 1.5, Number.NaN])
    t.equal(
      codeOf(() => new OwnedFd(fd)),
      'BATON_ERR_INVALID_ARGUMENT',
    )
})

void t.test('descriptor flags and file flags', async (t) => {
  const [a, b] = socketpair('stream')
  closing(t, a, b)
  const copy = a.dup()
  closing(t, copy)
  setCloseOnExec(a.fd, false)
  t.notOk(isCloseOnExec(a.fd))
  t.ok(isCloseOnExec(copy.fd), 'belongs to the descriptor')
  setCloseOnExec(a.fd, true)
  t.ok(isCloseOnExec(a.fd))
  t.notOk(isNonblocking(a.fd))
  setNonblocking(a.fd, true)
  t.ok(isNonblocking(copy.fd), 'belongs to the open file')
  setNonblocking(copy.fd, false)
  t.notOk(isNonblocking(a.fd))
})

void t.test('listen and accept over IPv4', { timeout: LIMIT }, async (t) => {
  const listener = listenTcp({ host: '127.0.0.1', port: 0, noDelay: true, keepAlive: true })
  closing(t, listener)
  t.ok(isNonblocking(listener.fd) && isCloseOnExec(listener.fd))
  t.equal(acceptOne(listener.fd), undefined, 'the queue is empty')
  const [connection, client] = await accepted(t, listener, '127.0.0.1')
  const { fd, peer } = connection
  t.ok(isNonblocking(fd) && isCloseOnExec(fd))
  t.match(peer, { family: 'IPv4', address: '127.0.0.1', port: client.localPort })
  t.equal(peer.address, '127.0.0.1')
  t.same(JSON.parse(JSON.stringify(peer)), { family: 'IPv4', address: '127.0.0.1', port: client.localPort })
  t.match(peerAddress(fd), { address: client.localAddress, port: client.localPort })
  t.match(localAddress(fd), { address: client.remoteAddress, port: client.remotePort })
  t.equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1, 'inherited')
  t.equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1, 'inherited')
  t.equal(peerAddress(listener.fd), undefined)
  t.equal(socketError(fd), 0)
  t.equal(peerCredentials(fd).pid, 0, 'TCP has no credentials')
})

void t.test('listen and accept over IPv6, and IPv4 on the same socket', { timeout: LIMIT }, async (t) => {
  const listener = listenTcp({ host: '::1', port: 0 })
  closing(t, listener)
  const [{ peer }, client] = await accepted(t, listener, '::1')
  t.match(peer, { family: 'IPv6', port: client.localPort })
  t.equal(peer.address, '::1')
  const both = listenTcp({ host: '::', port: 0 })
  closing(t, both)
  const [mapped] = await accepted(t, both, '127.0.0.1')
  t.equal(mapped.peer.address, '::ffff:127.0.0.1')
  const only = listenTcp({ host: '::', port: 0, ipv6Only: true })
  closing(t, only)
  const refused = connect(localAddress(only.fd).port, '127.0.0.1')
  const [error]: unknown[] = await once(refused, 'error').catch((reason: unknown) => [reason])
  t.match(error, { code: 'ECONNREFUSED' })
})

void t.test('IPv6 addresses are formatted as in Node', async (t) => {
  const before = openDescriptors()
  for (const host of ['::', '::1']) {
    const listener = listenTcp({ host, port: 0 })
    t.equal(localAddress(listener.fd).address, host)
    listener.close()
  }
  const { SOCKADDR, SOCKADDR_LENGTH, parseAddress, writeInternetAddress } =
    await import('../src/socket-address.ts')
  const arena = new Arena(136)
  for (const [given, written] of [
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:0db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:db8::', '2001:db8::'],
    ['::ffff:10.1.2.3', '::ffff:10.1.2.3'],
    ['fe80::1%7', 'fe80::1%7'],
    ['fe80::1%lo', 'fe80::1%1'],
    ['1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7:8'],
  ] as const) {
    arena.words[SOCKADDR_LENGTH / 4] = writeInternetAddress(arena, given, 443)
    t.equal(arena.buffer.readUInt16BE(SOCKADDR + 2), 443)
    const { address, port, family } = parseAddress(arena)
    t.same([address, port, family], [written, 443, 'IPv6'])
  }
  t.equal(openDescriptors(), before)
})

void t.test('an address in use is named', async (t) => {
  const listener = listenTcp({ host: '127.0.0.1', port: 0 })
  closing(t, listener)
  const { port } = localAddress(listener.fd)
  const before = openDescriptors()
  const error = nativeError(() => listenTcp({ host: '127.0.0.1', port }))
  t.match(error, { code: 'EADDRINUSE', address: `127.0.0.1:${port}` })
  t.ok(error.message.includes(`127.0.0.1:${port}`), error.message)
  t.match(
    nativeError(() => listenTcp({ host: '::1%nowhere', port: 0 })),
    { code: 'EINVAL', address: '[::1%nowhere]:0' },
  )
  for (const host of ['localhost', '', '1.2.3', '127.0.0.1%lo']) {
    t.equal(nativeError(() => listenTcp({ host, port: 0 })).code, 'EINVAL', host)
  }
  for (const bad of [-1, 65_536, 1.5])
    t.equal(
      codeOf(() => listenTcp({ host: '127.0.0.1', port: bad })),
      'EINVAL',
    )
  t.equal(openDescriptors(), before)
})

void t.test('an address is packed and parsed, as written by the kernel or by a user', async (t) => {
  const bytes = Buffer.alloc(8 + PACKED_ADDRESS, 0xff)
  const through = (address: SocketAddress) => {
    bytes.fill(0xff)
    packAddress(address, bytes, 8)
    t.same(bytes.subarray(0, 8), Buffer.alloc(8, 0xff), 'no bytes outside its place')
    return unpackAddress(bytes, 8)
  }
  for (const host of ['127.0.0.1', '::1']) {
    const listener = listenTcp({ host, port: 0 })
    closing(t, listener)
    const [{ peer }, client] = await accepted(t, listener, host)
    const packed = through(peer)
    t.same(packed, { family: peer.family, address: client.localAddress, port: client.localPort })
    bytes.fill(0)
    t.equal(packed.address, client.localAddress, 'it is not a view of the bytes')
  }
  const literals: SocketAddress[] = [
    { family: 'IPv4', address: '255.0.254.1', port: 65_535 },
    { family: 'IPv6', address: '2001:db8::ff:1', port: 1 },
    { family: 'IPv6', address: '::ffff:192.0.2.1', port: 256 },
    { family: 'IPv6', address: 'fe80::1%7', port: 80 },
  ]
  for (const literal of literals) t.same(through(literal), literal)
  t.same(through({ family: 'unix', address: '/run/a.sock', port: 0 }), {
    family: 'unix',
    address: '',
    port: 0,
  })
  t.equal(
    codeOf(() => through({ family: 'IPv4', address: 'example.com', port: 1 })),
    'EINVAL',
  )
})

void t.test('a Unix listener, its mode and its peer', async (t) => {
  const folder = temporaryFolder(t)
  const path = join(folder, 'a.sock')
  const listener = listenUnix({ path })
  closing(t, listener)
  t.equal(lstatSync(path).mode & 0o777, 0o600, 'private by default')
  const client = connectUnix(path)
  closing(t, client)
  const { fd, peer } = present(acceptOne(listener.fd))
  closing(t, new OwnedFd(fd))
  t.ok(isNonblocking(fd) && isCloseOnExec(fd))
  t.match(peer, { family: 'unix', port: 0 })
  t.equal(peer.address, '', 'a dialling socket has no name')
  t.equal(peerAddress(client.fd)?.address, path)
  t.equal(localAddress(listener.fd).address, path)
  t.same(peerCredentials(fd), { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() })
  const error = nativeError(() => listenUnix({ path }))
  t.match(error, { code: 'EADDRINUSE', syscall: 'bind', path })
  t.equal(
    codeOf(() => listenUnix({ path: join(folder, 'none', 'a.sock') })),
    'ENOENT',
  )
  t.equal(
    codeOf(() => connectUnix(path, 'seqpacket')),
    'EPROTOTYPE',
  )
  const name = `\0baton-${process.pid}`
  const abstract = listenUnix({ path: name })
  const dialled = connectUnix(name)
  closing(t, abstract, dialled)
  t.equal(peerAddress(dialled.fd)?.address, name)
})

void t.test('the file of a Unix listener is never wider than its mode', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const path = join(folder, 'a.sock')
  const restored = process.umask(0)
  t.teardown(() => process.umask(restored))
  // A file created with a wider mode and narrowed afterwards would cause a change event.
  const seen: string[] = []
  const watcher = watch(folder)
  t.teardown(() => watcher.close())
  const marked = new Promise<void>((resolve) => {
    watcher.on('change', (event, name) => {
      if (String(name) === 'mark') resolve()
      else seen.push(`${event} ${String(name)}`)
    })
  })
  closing(t, listenUnix({ path, mode: 0o640 }))
  t.equal(lstatSync(path).mode & 0o777, 0o640)
  writeFileSync(join(folder, 'mark'), '')
  await marked
  t.same(seen, ['rename a.sock'], 'it was made, and not changed')
  process.umask(0o077)
  const shared = join(folder, 'b.sock')
  closing(t, listenUnix({ path: shared, mode: 0o666 }))
  t.equal(lstatSync(shared).mode & 0o777, 0o666, 'bits removed by the umask are restored')
})

void t.test('peek leaves the bytes where they are', async (t) => {
  const [a, b] = socketpair('stream')
  closing(t, a, b)
  t.equal(peek(b.fd, 8), undefined)
  send(a.fd, Buffer.from('GET / HTTP/1.1'))
  t.equal(peek(b.fd, 5)?.toString(), 'GET /')
  t.equal(peek(b.fd, 64)?.toString(), 'GET / HTTP/1.1')
  t.equal(recv(b.fd, 64).toString(), 'GET / HTTP/1.1')
  a.close()
  t.equal(peek(b.fd, 8)?.length, 0, 'EOF')
  b.close()
})

void t.test('send is short when the buffer is full; recv reports EAGAIN and EOF', async (t) => {
  const [a, b] = socketpair('stream')
  closing(t, a, b)
  t.equal(
    codeOf(() => recv(b.fd, 1)),
    'EAGAIN',
  )
  const bytes = Buffer.alloc(100_000, 'x')
  let sent = 0
  t.equal(
    codeOf(() => {
      for (;;) sent += send(a.fd, bytes)
    }),
    'EAGAIN',
  )
  t.ok(sent > 0)
  a.close()
  const { data, ended } = readToEnd(b.fd)
  t.equal(data.length, sent)
  t.equal(ended, true)
  t.equal(recv(b.fd, 1).length, 0)
})

void t.test('readToEnd stops when no more has arrived, at the end, or at the limit', async (t) => {
  const [a, b] = socketpair('stream')
  closing(t, a, b)
  t.same(readToEnd(b.fd), { data: Buffer.alloc(0), ended: false })
  send(a.fd, Buffer.from('one'))
  t.same(readToEnd(b.fd), { data: Buffer.from('one'), ended: false })
  send(a.fd, Buffer.from('two'))
  send(b.fd, Buffer.from('never read'))
  a.close()
  t.same(readToEnd(b.fd), { data: Buffer.from('two'), ended: true }, 'after an ECONNRESET')
  const [c, d] = socketpair('stream')
  closing(t, c, d)
  send(c.fd, Buffer.alloc(11))
  t.equal(
    codeOf(() => readToEnd(d.fd, 10)),
    'BATON_ERR_LIMIT_EXCEEDED',
  )
  send(c.fd, Buffer.alloc(10))
  t.equal(readToEnd(d.fd, 10).data.length, 10)
})

void t.test('a listening stream socket is told apart from everything else', async (t) => {
  const tcp = listenTcp({ host: '127.0.0.1', port: 0 })
  const path = join(temporaryFolder(t), 'a.sock')
  const unix = listenUnix({ path })
  const dialled = connectUnix(path)
  const [a, b] = socketpair('stream')
  const unbound = new OwnedFd(libc.socket(AF_UNIX, SOCK_STREAM, 0))
  const packets = new OwnedFd(libc.socket(AF_UNIX, SOCK_SEQPACKET, 0))
  const datagrams = new OwnedFd(libc.socket(AF_UNIX, SOCK_DGRAM, 0))
  const file = new OwnedFd(openSync('/dev/null', 'r'))
  closing(t, tcp, unix, dialled, a, b, unbound, packets, datagrams, file)
  // An address with only a family: the kernel chooses an abstract name (unix(7), autobind).
  const address = new Arena(2)
  address.buffer.writeUInt16LE(AF_UNIX)
  t.equal(libc.bind(packets.fd, address.address, 2), 0)
  t.equal(libc.listen(packets.fd, 1), 0)
  for (const { fd } of [tcp, unix]) t.equal(isListening(fd), true)
  for (const { fd } of [dialled, a, unbound, packets, datagrams]) t.equal(isListening(fd), false)
  t.equal(isListening(file.fd), false, 'no socket')
  t.match(
    nativeError(() => isListening(99_999)),
    { code: 'EBADF', fd: 99_999 },
  )
})

void t.test('poll reports events without waiting', async (t) => {
  const [a, b] = socketpair('stream')
  closing(t, a, b)
  t.equal(poll(b.fd, POLLIN | POLLRDHUP), 0)
  t.equal(poll(b.fd, POLLIN | POLLOUT), POLLOUT)
  send(a.fd, Buffer.from('x'))
  t.equal(poll(b.fd, POLLIN), POLLIN)
  a.close()
  t.equal(poll(b.fd, POLLRDHUP), POLLRDHUP | POLLHUP)
  const many = Array.from({ length: 150 }, (_, index) => (index % 3 === 0 ? b.fd : -1))
  many[149] = 99_999
  t.same(
    pollEach(many, POLLIN).map((events, index) => [events, many[index]]),
    many.map((fd) => [fd === -1 ? 0 : poll(fd, POLLIN), fd]),
    'several with one call',
  )
  t.equal(poll(99_999, POLLIN), POLLNVAL)
})

void t.test('the kernel lists connections that some process has open', { timeout: LIMIT }, async (t) => {
  const diagnostics = SocketDiagnostics.open()
  t.teardown(() => diagnostics.close())
  for (const [host, family, from] of [
    ['127.0.0.1', 'IPv4', '127.0.0.2'],
    // Its clients of IPv4 are listed as IPv6.
    ['::', 'IPv6', '127.0.0.2'],
    ['::1', 'IPv6', '::1'],
  ] as const) {
    const listener = listenTcp({ host, port: 0 })
    closing(t, listener)
    const { port } = localAddress(listener.fd)
    const listed = async () => {
      const ports: number[] = []
      await diagnostics.eachConnection(family, port, (entry, at) => {
        t.equal(entry.readUInt16BE(at + CONNECTION_ENTRY.localPort), port)
        const address = entry.subarray(at + CONNECTION_ENTRY.remote, at + CONNECTION_ENTRY.remote + 16)
        t.ok(address.includes(from === '::1' ? Buffer.from([0, 0, 0, 1]) : Buffer.from([127, 0, 0, 2])))
        ports.push(entry.readUInt16BE(at + CONNECTION_ENTRY.remotePort))
      })
      return ports.toSorted((a, b) => a - b)
    }
    const clients: Socket[] = []
    const accepted: OwnedFd[] = []
    for (let count = 0; count < 3; count += 1) {
      const client = connect({ host: host === '::' ? from : host, port, localAddress: from })
      t.teardown(() => client.destroy())
      await once(client, 'connect')
      clients.push(client)
    }
    t.same(await listed(), [], 'none that was not accepted')
    for (let count = 0; count < 2; count += 1)
      accepted.push(new OwnedFd((acceptOne(listener.fd) as AcceptedConnection).fd))
    closing(t, ...accepted)
    const ports = clients.slice(0, 2).map(({ localPort }) => Number(localPort))
    t.same(
      await listed(),
      ports.toSorted((a, b) => a - b),
      host,
    )
    const copy = dup((accepted[0] as OwnedFd).fd)
    closing(t, copy)
    accepted[0]?.close()
    t.equal((await listed()).length, 2, 'another descriptor keeps it open')
    copy.close()
    t.same(await listed(), [ports[1]], 'not one that is closed, whatever its client does')
  }
})

void t.test('a list that has failed does not fail the next one', { timeout: LIMIT }, async (t) => {
  // The kernel refused it with EBUSY, for ever: the rest of the list before was never read.
  const diagnostics = SocketDiagnostics.open()
  t.teardown(() => diagnostics.close())
  const listener = listenTcp({ host: '127.0.0.1', port: 0, backlog: 1024 })
  closing(t, listener)
  const { port } = localAddress(listener.fd)
  // More than fit into one message.
  for (let count = 0; count < 600; count += 1) {
    const client = connect({ host: '127.0.0.1', port })
    t.teardown(() => client.destroy())
    await once(client, 'connect')
    closing(t, new OwnedFd((acceptOne(listener.fd) as AcceptedConnection).fd))
  }
  const count = async () => {
    let listed = 0
    await diagnostics.eachConnection('IPv4', port, () => {
      listed += 1
    })
    return listed
  }
  const broken = diagnostics.eachConnection('IPv4', port, () => {
    throw new Error('a fault')
  })
  const after = count()
  await t.rejects(broken, /a fault/)
  t.equal(await after, 600)
  t.equal(await count(), 600)
})

void t.test(
  'on other platforms the package can be imported, and each function throws a typed error',
  { timeout: LIMIT },
  async (t) => {
    t.equal(supported, true)
    const child = await ended(startFixture('unsupported.mjs', []))
    t.equal(child.stderr, '')
    const {
      supported: there,
      codes,
      message,
    } = JSON.parse(child.stdout) as {
      supported: boolean
      codes: Record<string, string>
      message: string
    }
    t.equal(there, false)
    t.ok(Object.keys(codes).length >= 20, Object.keys(codes).join(' '))
    for (const [name, code] of Object.entries(codes)) t.equal(code, 'BATON_ERR_UNSUPPORTED_PLATFORM', name)
    t.match(message, /darwin/)
  },
)

void t.test('the README explains each error code, and no other', async (t) => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
  const explained = [...readme.matchAll(/^\| `(BATON_ERR_\w+)` \|/gm)].map(([, code = '']) => code)
  t.same(explained.toSorted(), Object.keys(errorMessages).toSorted())
})

void t.test('every errno of this machine has exactly one name', async (t) => {
  const names = [...errnoNames.values()]
  t.equal(new Set(names).size, names.length)
  t.equal(errnoNames.get(11), 'EAGAIN')
  t.equal(errnoNames.get(109), 'ETOOMANYREFS')
})

void t.test('the monotonic clock is that of the kernel', async (t) => {
  const before = process.hrtime.bigint()
  const time = monotonicTime()
  t.ok(before <= time && time <= process.hrtime.bigint())
})
