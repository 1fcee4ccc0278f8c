import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { type AddressInfo, connect, createServer, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import {
  acceptOne,
  listenTcp,
  localAddress,
  NativeError,
  OwnedFd,
  poll,
  POLLIN,
  receivePlain,
  send,
  socketpair,
} from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { decodeProxyHeader } from '@baton/backend-sdk/protocol'
import type { ClientConnection } from '../src/worker/connection/connection.ts'
import { createConnectionId } from '../src/worker/connection/connection-id.ts'
import { proxiedOf } from '../src/worker/connection/proxied.ts'
import { dial, dialBackend, type PendingDial, relayHeader } from '../src/worker/relay/dial.ts'
import { Relay } from '../src/worker/relay/relay.ts'
import { openUnix } from '../src/worker/relay/unix-socket.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** A client's connection as the broker accepts it, and the client's end. */
async function accepted(t: Test): Promise<{ client: Socket; connection: ClientConnection }> {
  const listener = listenTcp({ host: '127.0.0.1', port: 0, backlog: 8 })
  const { port } = localAddress(listener.fd) as AddressInfo
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(() => client.destroy())
  await once(client, 'connect')
  poll(listener.fd, POLLIN)
  const incoming = acceptOne(listener.fd)
  if (incoming === undefined) throw new Error('no connection was accepted')
  listener.close()
  const connection: ClientConnection = {
    order: 1,
    fd: new OwnedFd(incoming.fd),
    listener: { name: 'web', protocol: 'http' },
    peer: incoming.peer,
    id: createConnectionId(Date.now()),
    acceptedAt: performance.now(),
    tried: undefined,
    pressedSince: undefined,
  }
  return { client, connection }
}

/** The broker's socket to a backend, and the backend's end. */
function dialled(t: Test): { upstream: Socket; backend: Socket } {
  const [ours, theirs] = socketpair('stream')
  const upstream = openUnix(ours)
  const backend = new Socket({ fd: theirs.release(), allowHalfOpen: true })
  t.teardown(() => [upstream, backend].forEach((socket) => socket.destroy()))
  return { upstream, backend }
}

void t.test('a backend that fails right after the end of its response', { timeout: LIMIT }, async (t) => {
  // A backend was killed: the broker read the end of its stream, passed it on to the client, and in the same turn wrote the
  // client's next request to the closed socket (EPIPE). The reset that followed hit a shutdown in progress, and the client's
  // descriptor was never closed; at the end the broker could not exit.
  const { client, connection } = await accepted(t)
  const { upstream, backend } = dialled(t)
  const before = descriptors()
  const relay = new Promise<Relay>((resolve) => new Relay(connection, upstream, resolve))
  // After the relay's own listener, which has just ended the client.
  upstream.once('end', () => upstream.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' })))
  let answer = ''
  client.setEncoding('latin1').on('data', (text: string) => (answer += text))
  const ended = once(client, 'end')
  backend.end('answer')
  await ended
  t.equal(answer, 'answer', 'earlier bytes are complete')
  t.same((await relay).bytes, { in: 0, out: 6 })
  t.equal(descriptors(), before - 2, 'both sides are closed')
})

void t.test('a backend that fails in the middle of its response', { timeout: LIMIT }, async (t) => {
  const { client, connection } = await accepted(t)
  const { upstream, backend } = dialled(t)
  const before = descriptors()
  const relay = new Promise<Relay>((resolve) => new Relay(connection, upstream, resolve))
  const failed = once(client, 'error')
  backend.write('half an ans')
  await once(client, 'data')
  upstream.destroy(new Error('read ECONNRESET'))
  await t.rejects(
    failed.then(([error]) => Promise.reject(error)),
    { code: 'ECONNRESET' },
    'an ordinary end would pass for a whole answer',
  )
  await relay
  t.equal(descriptors(), before - 3, 'both sides are closed, and the client has gone')
})

/** A relay whose backend does `last` at the moment when the broker writes the `count`th piece of the client's data to it. */
async function interrupted(t: Test, count: number, last: (backend: OwnedFd) => void) {
  const { client, connection } = await accepted(t)
  const [ours, backend] = socketpair('stream')
  t.teardown(() => backend.close())
  const upstream = openUnix(ours)
  const write = upstream.write.bind(upstream) as (...args: unknown[]) => boolean
  let pieces = 0
  Object.assign(upstream, {
    write: (...args: unknown[]) => {
      pieces += 1
      if (pieces === count) last(backend)
      return write(...args)
    },
  })
  const before = descriptors()
  const relay = new Promise<Relay>((resolve) => new Relay(connection, upstream, resolve))
  return { client, relay, before, pieces: () => pieces }
}

/** Everything that the client receives, and the code of the error that ends it, or 'end'. */
async function received(client: Socket): Promise<{ bytes: Buffer; end: string }> {
  const chunks: Buffer[] = []
  client.on('data', (chunk: Buffer) => chunks.push(chunk))
  const end = await new Promise<string>((resolve) => {
    client
      .once('end', () => resolve('end'))
      .once('error', ({ code }: NodeJS.ErrnoException) => resolve(`${code}`))
  })
  return { bytes: Buffer.concat(chunks), end }
}

void t.test('a backend that answers and closes before it is written to', { timeout: LIMIT }, async (t) => {
  // The write failed, Node destroyed the socket with the answer unread, and the client got a reset instead: for example when a server
  // answered 413 in the middle of an upload. Over TCP, without a relay, the answer arrived.
  await t.test('and has read everything: its whole answer, and its end', async (t) => {
    const answer = Buffer.alloc(50_000, 'answer ')
    const { client, relay, before } = await interrupted(t, 1, (backend) => {
      t.equal(send(backend.fd, answer), answer.length)
      backend.close()
    })
    const outcome = received(client)
    client.write('more')
    const { bytes, end } = await outcome
    t.ok(bytes.equals(answer), `${bytes.length} bytes`)
    t.equal(end, 'end')
    t.equal((await relay).bytes.out, answer.length)
    t.equal(descriptors(), before - 3, 'both sides are closed, and the backend’s')
  })

  await t.test('and has not read everything: its whole answer', async (t) => {
    const { client, relay, pieces } = await interrupted(t, 2, (backend) => {
      send(backend.fd, Buffer.from('answer'))
      backend.close()
    })
    const outcome = received(client)
    client.write('unread')
    await eventually(() => pieces() === 1, 'the first piece is forwarded')
    client.write('more')
    // A reset follows, which libuv reports as an end if both arrive together (POLLHUP after a short read).
    t.equal(String((await outcome).bytes), 'answer')
    await relay
  })

  await t.test('and said nothing: its end', async (t) => {
    const { client, relay } = await interrupted(t, 1, (backend) => backend.close())
    const outcome = received(client)
    client.write('more')
    t.same(await outcome, { bytes: Buffer.alloc(0), end: 'end' })
    await relay
  })
})

void t.test('a complete answer that a slow client has not read yet', { timeout: LIMIT }, async (t) => {
  // The backend had ended and closed, a part of the answer was queued in the broker, and the next write of the client's data failed: a reset cut the
  // answer.
  const { client, connection } = await accepted(t)
  const { upstream, backend } = dialled(t)
  const relay = new Promise<Relay>((resolve) => new Relay(connection, upstream, resolve))
  const outcome = received(client)
  client.pause()
  // Until the kernel takes no more for the client, so that the last piece is queued in the broker.
  const piece = Buffer.alloc(16 * 1024, 'answer ')
  let sent = 0
  do {
    sent += piece.length
    backend.write(piece)
    while (upstream.bytesRead < sent) await turn()
  } while (!upstream.isPaused())
  backend.end()
  const failed = once(upstream, 'error')
  backend.destroy()
  client.write('more')
  await failed
  client.resume()
  const { bytes, end } = await outcome
  t.equal(bytes.length, sent)
  t.equal(end, 'end')
  await relay
})

/** Sends `data` at once, and resolves to the digest of what arrives, which is read a little at a time. */
async function exchanged(socket: Socket, data: Buffer): Promise<string> {
  socket.end(data)
  const hash = createHash('sha256')
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    hash.update(chunk as Buffer)
    // The other side is faster: what it sends has to wait in the relay.
    for (let count = 0; count < 20; count += 1) await turn()
  }
  return hash.digest('hex')
}

void t.test(
  'every byte arrives, though the memory it was read into is used again',
  { timeout: LIMIT },
  async (t) => {
    const digestOf = (data: Buffer) => createHash('sha256').update(data).digest('hex')
    const one = async () => {
      const { client, connection } = await accepted(t)
      const { upstream, backend } = dialled(t)
      const relay = new Promise<Relay>((resolve) => new Relay(connection, upstream, resolve))
      const [request, answer] = [randomBytes(3_000_001), randomBytes(5_000_003)]
      const [atBackend, atClient] = await Promise.all([
        exchanged(backend, answer),
        exchanged(client, request),
      ])
      t.equal(atBackend, digestOf(request))
      t.equal(atClient, digestOf(answer))
      t.same((await relay).bytes, { in: request.length, out: answer.length })
    }
    // Cut in the middle of a write, whose memory must not be used again before that is over.
    const cut = async () => {
      const { client, connection } = await accepted(t)
      const { upstream, backend } = dialled(t)
      const over = new Promise((resolve) => new Relay(connection, upstream, resolve))
      client.pause()
      const piece = randomBytes(100_000)
      // Until the kernel takes no more for the client.
      while (!upstream.isPaused()) {
        backend.write(piece)
        await turn()
      }
      client.resetAndDestroy()
      await over
    }
    for (let round = 0; round < 3; round += 1) await Promise.all([one(), cut(), one()])
  },
)

void t.test('an idle relay keeps none of the memory that it read into', { timeout: LIMIT }, async (t) => {
  // Each direction of each relay had a buffer of 256 KiB of its own, used once and kept until the end: 200 keep-alive connections that had
  // carried a MiB each way took 100 MiB.
  const relays = 20
  const size = 1024 * 1024
  const before = buffered()
  const carry = async (from: Socket, to: Socket) => {
    const arrived = once(to, 'whole')
    let count = 0
    to.on('data', ({ length }: Buffer) => {
      count += length
      if (count === size) to.emit('whole')
    })
    from.write(Buffer.alloc(size))
    await arrived
  }
  const over: Promise<Relay>[] = []
  const ends: Socket[] = []
  for (let each = 0; each < relays; each += 1) {
    const { client, connection } = await accepted(t)
    const { upstream, backend } = dialled(t)
    over.push(new Promise((resolve) => new Relay(connection, upstream, resolve)))
    ends.push(client, backend)
    await carry(client, backend)
    await carry(backend, client)
  }
  const each = () => (buffered() - before) / relays / 1024
  await eventually(
    () => each() < 64,
    () => `less than 64 KiB of buffers for each idle relay; there are ${each().toFixed(0)}`,
  )
  for (const end of ends) end.destroy()
  await Promise.all(over)
})

void t.test(
  'a client’s reset right after its data is not passed on as an end',
  { timeout: LIMIT },
  async (t) => {
    // On Node 20 and 22, libuv reports an end if a reset arrives together with data: half an upload looked like a whole one.
    const listener = listenTcp({ host: '127.0.0.1', port: 0, backlog: 8 })
    t.teardown(() => listener.close())
    const { port } = localAddress(listener.fd) as AddressInfo
    const pending = await new Promise<PendingDial>((resolve, reject) => {
      const dialled = dial({ host: '127.0.0.1', port }, { connected: () => resolve(dialled), failed: reject })
    })
    pending.detach()
    const peer = acceptOne(listener.fd)
    if (peer === undefined) throw new Error('no connection was accepted')
    const upstream = new OwnedFd(peer.fd)
    t.teardown(() => upstream.close())

    const { client, connection } = await accepted(t)
    const over = new Promise((resolve) => new Relay(connection, pending.socket, resolve))
    const data = randomBytes(20_000)
    // Both are in the kernel before the relay reads.
    client.write(data)
    client.resetAndDestroy()
    // Not by Node, which would take the reset for an end too.
    const { bytes, end } = await drained(upstream)
    t.ok(bytes.equals(data.subarray(0, bytes.length)))
    t.equal(end, 'ECONNRESET')
    await over
  },
)

/** Everything that arrives at a descriptor, and the code of the error that ends it, or 'end'. */
async function drained({ fd }: OwnedFd): Promise<{ bytes: Buffer; end: string }> {
  const chunks: Buffer[] = []
  for (;;) {
    try {
      const chunk = receivePlain(fd, 64 * 1024)
      if (chunk.length === 0) return { bytes: Buffer.concat(chunks), end: 'end' }
      chunks.push(chunk)
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (error.code !== 'EAGAIN') return { bytes: Buffer.concat(chunks), end: error.code }
      await turn()
    }
  }
}

void t.test(
  'what waits for a slow side is not overwritten by other relays',
  { timeout: LIMIT },
  async (t) => {
    // All relays of a worker read into the same memory.
    const stalled = async () => {
      const { client, connection } = await accepted(t)
      const { upstream, backend } = dialled(t)
      const over = new Promise((resolve) => new Relay(connection, upstream, resolve))
      client.pause()
      const piece = randomBytes(100_000)
      const sent = createHash('sha256')
      // Until the kernel takes no more for the client.
      while (!upstream.isPaused()) {
        sent.update(piece)
        backend.write(piece)
        await turn()
      }
      backend.end()
      const arrived = createHash('sha256')
      client.on('data', (chunk: Buffer) => arrived.update(chunk)).pause()
      return { client, over, sent: sent.digest('hex'), arrived: () => arrived.digest('hex') }
    }
    const all = [await stalled(), await stalled(), await stalled()]
    for (const { client, over, sent, arrived } of all) {
      client.resume()
      await once(client, 'end')
      t.equal(arrived(), sent)
      client.end()
      await over
    }
  },
)

/** Bytes of buffers that are in use, or whose memory is not free yet: that takes a moment. */
function buffered(): number {
  collectGarbage()
  return process.memoryUsage().arrayBuffers
}

/** An endpoint like a backend's, owned by this process's user. */
async function endpoint(t: Test) {
  const folder = mkdtempSync(join(tmpdir(), 'baton-t-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'relay.sock')
  const server = createServer({ allowHalfOpen: true })
  t.teardown(() => server.close())
  server.listen(path)
  await once(server, 'listening')
  const accept = async () => {
    const [socket] = (await once(server, 'connection')) as [Socket]
    t.teardown(() => socket.destroy())
    return socket
  }
  return { path, accept }
}

interface Dialled {
  readonly pending: PendingDial
  readonly heard: string[]
  /** The first event. */
  readonly outcome: Promise<string>
}

function dialAs(uid: number, path: string): Dialled {
  const heard: string[] = []
  let tell: (outcome: string) => void = () => {}
  const outcome = new Promise<string>((resolve) => (tell = resolve))
  const hear = (what: string) => {
    heard.push(what)
    tell(what)
  }
  const pending = dialBackend(
    { path, uid },
    { connected: () => hear('connected'), failed: ({ code, message }) => hear(`${code} ${message}`) },
  )
  return { pending, heard, outcome }
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

void t.test('the endpoint of a backend is dialled for its own user alone', { timeout: LIMIT }, async (t) => {
  const own = process.getuid?.() ?? -1

  await t.test('its own: connected, later, and unread until it is settled', async (t) => {
    const { path, accept } = await endpoint(t)
    const before = descriptors()
    const accepted = accept()
    const { pending, heard, outcome } = dialAs(own, path)
    t.same(heard, [], 'nothing before it returns')
    t.equal(await outcome, 'connected')
    const peer = await accepted
    pending.socket.write('token')
    t.equal(String((await once(peer, 'data'))[0]), 'token')
    peer.end('answer')
    await once(peer, 'finish')
    await turn()
    t.equal(pending.socket.bytesRead, 0)
    pending.detach()
    const answer = once(pending.socket, 'data')
    const ended = once(pending.socket, 'end')
    pending.socket.resume()
    t.equal(String((await answer)[0]), 'answer')
    await ended
    const closed = [pending.socket, peer].map((socket) => once(socket.destroy(), 'close'))
    await Promise.all(closed)
    t.same(heard, ['connected'], 'and nothing after')
    t.equal(descriptors(), before)
  })

  await t.test('another’s: EACCES, later, with both users named, and not a byte', async (t) => {
    const { path, accept } = await endpoint(t)
    const before = descriptors()
    const accepted = accept()
    const { pending, heard, outcome } = dialAs(own + 1, path)
    t.same(heard, [], 'nothing before it returns')
    t.equal(
      await outcome,
      `EACCES connect ${path}: uid ${own} listens there, wanted uid ${own + 1}, with which the backend registered`,
    )
    const peer = await accepted
    peer.resume()
    await once(peer, 'end')
    t.equal(peer.bytesRead, 0)
    await once(peer.destroy(), 'close')
    pending.cancel()
    await turn()
    t.equal(heard.length, 1, 'once')
    t.equal(descriptors(), before)
  })

  await t.test('no listener: the errno of the kernel, later', async (t) => {
    const before = descriptors()
    const { heard, outcome } = dialAs(own, '/nowhere/relay.sock')
    t.same(heard, [])
    t.match(await outcome, /^ENOENT connect \/nowhere\/relay\.sock/)
    t.equal(descriptors(), before)
  })

  await t.test('given up at once: no event, whatever listens', async (t) => {
    const { path, accept } = await endpoint(t)
    const before = descriptors()
    for (const [uid, where] of [
      [own, path],
      [own + 1, path],
      [own, '/nowhere/relay.sock'],
    ] as const) {
      const accepted = where === path ? accept() : undefined
      const { pending, heard } = dialAs(uid, where)
      pending.cancel()
      const peer = await accepted
      peer?.resume()
      if (peer) await once(peer, 'end')
      if (peer) await once(peer.destroy(), 'close')
      await turn()
      t.same(heard, [])
    }
    t.equal(descriptors(), before)
  })

  await t.test('one that breaks before it is settled has failed', async (t) => {
    const { path, accept } = await endpoint(t)
    const accepted = accept()
    const { pending, heard, outcome } = dialAs(own, path)
    await outcome
    await once((await accepted).destroy(), 'close')
    const closed = new Promise((resolve) => pending.socket.once('close', resolve))
    pending.socket.write('token')
    await closed
    t.match(heard, ['connected', /^EPIPE/])
  })
})

void t.test(
  'backends can read the header of a relay, whatever another one has said about the client',
  async (t) => {
    // A backend hands a connection back with the addresses that the broker had read in a PROXY header. If it named two families, the
    // broker wrote a header that is none: every backend dropped the relay, and the failure counted against it.
    const { connection } = await accepted(t)
    t.teardown(() => connection.fd.close())
    const real = localAddress(connection.fd.fd)
    const token = Buffer.alloc(16, 7)
    const known = ['192.0.2.7', '198.51.100.1', '::1', '2001:db8::7', '::ffff:192.0.2.7']
    for (const address of known) {
      for (const localAddress of known) {
        const proxied = proxiedOf({ proxy: { address, port: 40_000, localAddress, localPort: 443 } })
        const bytes = relayHeader({ ...connection, proxied }, token)
        const decoded = decodeProxyHeader(bytes)
        t.equal(decoded?.length, bytes.length, `${address} to ${localAddress}`)
        t.ok(decoded?.header.token?.equals(token))
        const { source, destination } = decoded?.header.addresses ?? {}
        const isOneFamily = address.includes(':') === localAddress.includes(':')
        t.same(
          [source, destination],
          isOneFamily ? [address, localAddress] : [connection.peer.address, real.address],
        )
      }
    }
  },
)

function descriptors(): number {
  return readdirSync('/proc/self/fd').length
}
