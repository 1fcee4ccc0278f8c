import { once } from 'node:events'
import { connect } from 'node:net'
import { acceptOne, listenTcp, localAddress, OwnedFd, poll, POLLIN, Poller } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { AcceptedClient, InheritedClient } from '../src/worker/connection/connection.ts'
import { LingeringClose } from '../src/worker/reject/lingering-close.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'

// Answers of the broker itself, over real sockets.

async function rejected(t: Test) {
  const poller = new Poller()
  t.teardown(() => poller.close())
  const socket = listenTcp({ host: '127.0.0.1', port: 0 })
  const client = connect({ port: localAddress(socket.fd).port, host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(() => client.destroy())
  await once(client, 'connect')
  const accepted = acceptOne(socket.fd)
  socket.close()
  if (accepted === undefined) throw new Error('nothing to accept')
  const listener = { name: 'web', protocol: 'http' as const }
  const connection = new AcceptedClient(1, new OwnedFd(accepted.fd), accepted.peer, listener)
  t.teardown(() => connection.fd.close())
  return { lingeringClose: new LingeringClose(poller), client, connection }
}

void t.test('an answer that the client is slow to read arrives as a whole', { timeout: LIMIT }, async (t) => {
  const { lingeringClose, client, connection } = await rejected(t)
  // More than the buffers of both sockets hold.
  const answer = Buffer.alloc(8 * 1024 * 1024, 'x')
  let closed = false
  client.pause()
  client.write('GET / HTTP/1.1\r\n\r\n')
  lingeringClose.answer(connection, answer, () => (closed = true))
  // It sends no more, and is still there.
  client.end()
  await once(client, 'finish')
  t.notOk(closed)
  let received = 0
  client.on('data', (chunk: Buffer) => (received += chunk.length)).resume()
  await once(client, 'end')
  t.equal(received, answer.length)
  await eventually(() => closed, 'it is closed')
  t.ok(connection.fd.closed)
  await lingeringClose.idle()
})

void t.test(
  'a kept connection is closed without an answer, unless a request of it has come',
  { timeout: LIMIT },
  async (t) => {
    for (const asks of [false, true]) {
      const { lingeringClose, client, connection } = await rejected(t)
      const kept = new InheritedClient(connection.fd, {
        order: connection.order,
        listener: connection.listener,
        peer: connection.peer,
        acceptedAt: connection.acceptedAt,
        id: Buffer.alloc(16),
        quietUntil: Number.POSITIVE_INFINITY,
      })
      if (asks) {
        client.write('GET / HTTP/1.1\r\n\r\n')
        await eventually(() => poll(kept.fd.fd, POLLIN) !== 0, 'the request is there')
      }
      let received = ''
      client.on('data', (chunk: Buffer) => (received += chunk.toString()))
      lingeringClose.reject(kept)
      await once(client, 'end')
      client.end()
      t.match(received, asks ? /^HTTP\/1\.1 503 / : /^$/)
      await lingeringClose.idle()
    }
  },
)

void t.test('a client that leaves is let go', { timeout: LIMIT }, async (t) => {
  const { lingeringClose, client, connection } = await rejected(t)
  let closed = false
  lingeringClose.answer(connection, Buffer.alloc(8 * 1024 * 1024, 'x'), () => (closed = true))
  client.destroy()
  await eventually(() => closed, 'it is closed')
  t.ok(connection.fd.closed)
})

void t.test('an answer at once', { timeout: LIMIT }, async (t) => {
  const { lingeringClose, client, connection } = await rejected(t)
  lingeringClose.answerAtOnce(connection, Buffer.from('HTTP/1.1 429'))
  t.ok(connection.fd.closed)
  let received = ''
  client.on('data', (chunk: Buffer) => (received += String(chunk)))
  await once(client, 'end')
  t.equal(received, 'HTTP/1.1 429')
})
