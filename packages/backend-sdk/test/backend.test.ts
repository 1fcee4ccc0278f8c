import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:http2'
import { createServer as createTcpServer, Socket } from 'node:net'
import { join } from 'node:path'
import { inspect } from 'node:util'
import t, { type Test } from 'tap'
import { listenUnix } from '@baton/native-sendmsg'
import { temporaryFolder } from '../../../test/support/process.ts'
import { type BackendOptions, createBackend } from '../src/index.ts'

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

void t.test('an unknown option is refused, and the message names it', async (t) => {
  // As in a program without types.
  const options: object = { service: 'web', servise: 'web' }
  t.throws(() => createBackend(options), {
    code: 'BATON_ERR_INVALID_OPTION',
    message:
      'invalid option: unknown option "servise", wanted one of socket, service, version, weight, secret, logger',
  })
  const inherited: object = { service: 'web', toString: undefined }
  t.throws(() => createBackend(inherited), { code: 'BATON_ERR_INVALID_OPTION', message: /"toString"/ })
})

// The broker could not read the HELLO, and `ready()` waited for ever; without the methods of a logger, a promise was rejected unhandled.
void t.test('a value of another type is refused at once', (t) => {
  const refused = (options: object, message: RegExp) =>
    t.throws(() => createBackend({ service: 'web', ...options }), {
      code: 'BATON_ERR_INVALID_OPTION',
      message,
    })
  refused({ version: 3 }, /version is a number, wanted a string/)
  refused({ service: 5 }, /service is a number, wanted a string/)
  refused({ socket: 5 }, /socket is a number, wanted a string/)
  refused({ socket: '' }, /socket is empty, wanted a path/)
  refused({ weight: '1' }, /weight is '1', wanted a number above 0 and at most 1000/)
  refused({ weight: Number.NaN }, /weight is NaN/)
  refused({ secret: 12_345 }, /secret is a number, wanted a string$/)
  refused({ secret: 'x'.repeat(4097) }, /secret has 4097 characters, wanted at most 4096$/)
  refused({ service: 'x'.repeat(256) }, /service has 256 characters, wanted at most 255/)
  refused({ version: 'x'.repeat(129) }, /version has 129 characters, wanted at most 128/)
  refused({ logger: {} }, /logger has no methods info, warn, error/)
  refused({ logger: true }, /logger has no methods/)
  t.end()
})

void t.test('an empty variable counts as not set', async (t) => {
  const folder = temporaryFolder(t)
  const { env } = process
  process.env = { ...env, BATON_SOCKET: '', BATON_VERSION: '', BATON_SECRET: '', XDG_RUNTIME_DIR: folder }
  t.teardown(() => {
    process.env = env
  })
  const { error } = await firstWarning(t, {})
  t.match(error.message, join(folder, 'baton/control.sock'))
  process.env['BATON_SERVICE'] = ''
  t.throws(() => createBackend(), { code: 'BATON_ERR_NO_SERVICE' })
})

// The second one took its place: a drain no longer knew of the connections of the first, and cut none of them.
void t.test('a backend takes one server', (t) => {
  const backend = createBackend({ service: 'web', logger: false })
  t.teardown(() => backend.close())
  const [first, second] = [createServer(), createServer()]
  backend.attach(first)
  const refusal = { code: 'BATON_ERR_ALREADY_ATTACHED', message: /this backend has a server/ }
  t.throws(() => backend.attach(second), refusal)
  t.throws(() => backend.attach(first), refusal)
  backend.detach()
  t.doesNotThrow(() => backend.attach(second))
  t.doesNotThrow(() => createBackend({ service: 'web' }).attach(first), 'it is free again')
  t.end()
})

/** The first line that the SDK logs about a registration that fails. */
async function firstWarning(t: Test, options: BackendOptions): Promise<{ text: string; error: Error }> {
  return new Promise((resolve) => {
    const backend = createBackend({
      service: 'web',
      logger: {
        info: () => {},
        warn: (context, text) => resolve({ text, error: (context as { error: Error }).error }),
        error: () => {},
      },
      ...options,
    })
    t.teardown(() => backend.close())
    backend.attach(createServer())
    backend.ready().catch(() => {})
  })
}

// The error was `connect PATH (fd -1)`: a descriptor that does not exist.
void t.test(
  'without a broker the log names the socket, and BATON_SOCKET only if it was not set',
  async (t) => {
    const folder = temporaryFolder(t)
    const socket = join(folder, 'control.sock')
    const absent = await firstWarning(t, { socket })
    t.equal(absent.text, 'no broker yet, dialling again')
    t.match(absent.error.message, new RegExp(`^connect ${socket}: ENOENT`))

    listenUnix({ path: socket }).close()
    const dead = await firstWarning(t, { socket })
    t.equal(dead.text, 'no broker yet, dialling again')
    t.match(dead.error, { code: 'ECONNREFUSED' })

    const { env } = process
    process.env = { ...env, XDG_RUNTIME_DIR: folder }
    delete process.env['BATON_SOCKET']
    t.teardown(() => {
      process.env = env
    })
    const { text, error } = await firstWarning(t, {})
    t.equal(text, 'no broker yet, dialling again; if its runtimeDir is not the default, set BATON_SOCKET')
    t.match(error.message, join(folder, 'baton/control.sock'))
  },
)

void t.test('a broker that is there but cannot be used is not called absent', async (t) => {
  const socket = join(temporaryFolder(t), 'control.sock')
  const server = createTcpServer((client) => client.destroy()).listen(socket)
  t.teardown(() => server.close())
  await once(server, 'listening')
  const { text } = await firstWarning(t, { socket })
  t.equal(text, 'not registered, dialling again')
})
