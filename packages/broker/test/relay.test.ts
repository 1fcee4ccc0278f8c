import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { type AddressInfo, connect, Socket } from 'node:net'
import { acceptOne, listenTcp, localAddress, OwnedFd, poll, POLLIN, socketpair } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import type { ClientConnection } from '../src/connection.ts'
import { createConnectionId } from '../src/connection-id.ts'
import { Relay } from '../src/relay/relay.ts'

/** A client's connection as the broker accepts it, and the client at its other end. */
async function accepted(t: Test): Promise<{ client: Socket; connection: ClientConnection }> {
  const listener = listenTcp({ host: '127.0.0.1', port: 0, backlog: 8 })
  const { port } = localAddress(listener.fd) as AddressInfo
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(() => client.destroy())
  await once(client, 'connect')
  poll(listener.fd, POLLIN)
  const incoming = acceptOne(listener.fd)
  if (incoming === undefined) throw new Error('nobody was accepted')
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

void t.test('a backend that fails right behind the end of its answer', { timeout: 20_000 }, async (t) => {
  // A backend was killed: the broker read the end of its stream, passed it on to the client, and in the same turn wrote the
  // client's next request to nobody (EPIPE). The reset that followed met a shutdown under way, and the client's descriptor
  // was never closed; at the end the broker could not exit.
  const { client, connection } = await accepted(t)
  const { upstream, backend } = dialled(t)
  const before = descriptors()
  const relay = new Promise<Relay>((resolve) => new Relay(connection, upstream, resolve))
  // Behind the relay's own listener, which has just ended the client.
  upstream.once('end', () => upstream.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' })))
  let answer = ''
  client.setEncoding('latin1').on('data', (text: string) => (answer += text))
  const ended = once(client, 'end')
  backend.end('answer')
  await ended
  t.equal(answer, 'answer', 'what was written before is whole')
  t.same((await relay).bytes, { in: 0, out: 6 })
  t.equal(descriptors(), before - 2, 'both sides are closed')
})

void t.test('a backend that fails in the middle of its answer', { timeout: 20_000 }, async (t) => {
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

function descriptors(): number {
  return readdirSync('/proc/self/fd').length
}
