import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  acceptOne,
  listenTcp,
  listenUnix,
  localAddress,
  OwnedFd,
  poll,
  POLLIN,
  socketpair,
} from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import type { ClientConnection } from '../src/worker/connection/connection.ts'
import { createConnectionId } from '../src/worker/connection/connection-id.ts'
import { dialBackend, type PendingDial } from '../src/worker/relay/dial.ts'
import { Relay } from '../src/worker/relay/relay.ts'
import { removeRelaySocket, sweepRelaySockets } from '../src/worker/relay/relay-sockets.ts'
import { LIMIT } from '../../../test/support/limits.ts'

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
  const upstream = new Socket({ fd: ours.release(), allowHalfOpen: true })
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
  'only the backend’s own socket is removed when a backend leaves an endpoint behind',
  async (t) => {
    // The broker removed whatever file next to the control socket a backend had named, including another user's endpoint; a folder
    // or a name with a NUL was an error that ended the worker, and a folder also ended every later worker.
    const own = process.getuid?.() ?? -1
    const folder = mkdtempSync(join(tmpdir(), 'baton-t-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const abandoned = (name: string) => {
      listenUnix({ path: join(folder, name) }).close()
      return join(folder, name)
    }
    const file = join(folder, 'relay-file')
    writeFileSync(file, 'precious')
    const subfolder = join(folder, 'relay-folder')
    mkdirSync(subfolder)
    const kept = [file, subfolder, abandoned('relay-of-another'), abandoned('control.sock')]

    removeRelaySocket(folder, { path: abandoned('relay-own'), uid: own })
    removeRelaySocket(folder, { path: join(folder, 'relay-of-another'), uid: own + 1 })
    for (const name of ['relay-file', 'relay-folder', 'control.sock', 'relay-\0', 'relay-gone'])
      removeRelaySocket(folder, { path: join(folder, name), uid: own })
    removeRelaySocket(join(folder, 'elsewhere'), { path: join(folder, 'relay-of-another'), uid: own })
    const names = () => readdirSync(folder).map((name) => join(folder, name))
    t.same(names().toSorted(), kept.toSorted())

    const served = listenUnix({ path: join(folder, 'relay-served') })
    t.teardown(() => served.close())
    sweepRelaySockets(folder)
    const swept = [file, subfolder, join(folder, 'control.sock'), join(folder, 'relay-served')]
    t.same(names().toSorted(), swept.toSorted(), 'at a start only sockets without a listener')
  },
)

function descriptors(): number {
  return readdirSync('/proc/self/fd').length
}
