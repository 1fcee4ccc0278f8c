import { once } from 'node:events'
import http, { type ServerResponse } from 'node:http'
import t from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { front } from './attach-front.ts'

// Idle connections of a backend that was told to end and has no broker any longer.

void t.test(
  'connections that stay idle are closed; those that have received anything are answered',
  { timeout: LIMIT },
  async (t) => {
    const held: ServerResponse[] = []
    const server = http.createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
      if (request.url === '/held') held.push(response)
      else response.end(request.url)
    })
    const f = await front(t, server)
    const [idle, silent, late, partial, busy, unread] = await Promise.all(
      Array.from({ length: 6 }, () => f.dial()),
    )
    for (const client of [idle, late, partial, unread]) {
      client?.get('/first')
      await client?.until(/\/first$/)
    }
    busy?.get('/held')
    while (held.length === 0) await once(server, 'request')
    partial?.write('GET /partial HT')
    // Still in the kernel's buffer: this socket is paused.
    const paused = f.sockets.find(({ remotePort }) => remotePort === unread?.socket.localPort)
    paused?.pause()
    unread?.get('/unread')

    f.attachment.drain()
    f.attachment.closeIdle()
    f.attachment.closeIdle()
    late?.get('/late')
    t.match(
      await late?.ended(),
      /connection: close\r\n[^]*\/late$/i,
      'a request that was under way is answered',
    )
    t.match(await idle?.ended(), /\/first$/, 'one between two requests is closed')
    t.equal(await silent?.ended(), '', 'one on which no request has come as well')
    t.equal(partial?.socket.closed, false)
    t.equal(busy?.socket.closed, false)
    t.equal(unread?.socket.closed, false)

    partial?.write('TP/1.1\r\nHost: a\r\n\r\n')
    t.match(await partial?.ended(), /connection: close\r\n[^]*\/partial$/i)
    paused?.resume()
    t.match(await unread?.ended(), /connection: close\r\n[^]*\/unread$/i)
    held[0]?.end('/held')
    t.match(await busy?.ended(), /connection: close\r\n[^]*\/held$/i)
    await f.attachment.whenEmpty()
  },
)

void t.test('a response that a client reads slowly is sent completely', { timeout: LIMIT }, async (t) => {
  const size = 32 * 1024 * 1024
  const server = http.createServer({ keepAliveTimeout: 60_000 }, (_, response) =>
    response.end(Buffer.alloc(size)),
  )
  const f = await front(t, server)
  const slow = await f.dial()
  const idle = await f.dial()
  slow.socket.pause()
  slow.get('/')
  await once(server, 'request')
  f.attachment.drain()
  f.attachment.closeIdle()
  await idle.ended()
  slow.socket.resume()
  t.ok((await slow.ended()).length > size)
})
