import { once } from 'node:events'
import { connect } from 'node:http2'
import { Socket } from 'node:net'
import { inspect } from 'node:util'
import t from 'tap'
import { createBackend } from '../src/index.ts'

void t.test('a socket that was not adopted has no metadata', async (t) => {
  const backend = createBackend({ socket: '/nowhere/control.sock', service: 'web' })
  t.teardown(() => backend.close())
  t.equal(backend.connection(new Socket()), undefined)
  // `response.socket` is null after the response has ended: in a program without types, this was a TypeError.
  const none: unknown = null
  t.equal(backend.connection(none as Socket), undefined)
  t.equal(backend.connection(undefined as unknown as Socket), undefined)
})

// Its proxy throws on every access: `connection()` threw as well instead of returning undefined.
void t.test('the socket of an HTTP/2 session that is over has no metadata', async (t) => {
  const backend = createBackend({ socket: '/nowhere/control.sock', service: 'web' })
  t.teardown(() => backend.close())
  const session = connect('http://127.0.0.1:1')
  session.on('error', () => {})
  const { socket } = session
  session.destroy()
  await once(session, 'close')
  t.throws(() => socket.remoteAddress, { code: 'ERR_HTTP2_SOCKET_UNBOUND' })
  t.equal(backend.connection(socket), undefined)
})

void t.test('a deadline that is not a duration is refused', async (t) => {
  const idle = () => createBackend({ service: 'web', logger: false })
  for (const deadline of [
    '',
    '30',
    's',
    '-1s',
    '.5s',
    '30 s',
    '30S',
    '1d',
    -1,
    Number.NaN,
    Number.POSITIVE_INFINITY,
  ]) {
    t.throws(() => idle().drain({ deadline }), { code: 'BATON_ERR_INVALID_OPTION' }, inspect(deadline))
  }
  for (const deadline of ['250ms', '1.5s', '5m', '1000h', 0, 0.5]) {
    await t.resolves(idle().drain({ deadline }), inspect(deadline))
  }
})
