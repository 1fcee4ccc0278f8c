import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { migrateSocketIo } from '@baton/backend-sdk/socket.io'
import { Server } from 'socket.io'
import t, { type Test } from 'tap'

function backend() {
  return createBackend({ service: 'web', socket: '/nowhere' })
}

function served(t: Test): Server {
  const io = new Server(createServer(), { serveClient: false })
  const { _nsps } = io
  // A part that a test has taken out is needed to close.
  t.teardown(() => Object.assign(io, { _nsps }).close())
  return io
}

void t.test('options that cannot be meant are refused', async (t) => {
  const invalid = { name: 'BackendError', code: 'BATON_ERR_INVALID_OPTION' }
  t.throws(() => migrateSocketIo(served(t), {} as never), invalid)
  t.throws(() => migrateSocketIo(new Server(), backend()), {
    ...invalid,
    message: /attach io to its HTTP server/,
  })
  t.throws(() => migrateSocketIo(served(t), backend(), { schema: '' }), invalid)
  t.throws(() => migrateSocketIo(served(t), backend(), { accepts: 'chat/1' as never }), invalid)
  t.throws(() => migrateSocketIo(served(t), backend(), { state: 1 as never }), invalid)
})

void t.test('parts that are not as expected are refused, by name', async (t) => {
  const missing: readonly [string, (io: Server) => object][] = [
    ['io.encoder.encode()', (io) => Object.assign(io, { encoder: {} })],
    ['io._nsps', (io) => Object.assign(io, { _nsps: {} })],
    ['Namespace._createSocket()', (io) => Object.assign(io.sockets, { _createSocket: undefined })],
    [
      'io.engine.ws.shouldHandle()',
      (io) => Object.assign(io.engine, { ws: { handleUpgrade() {}, close() {} } }),
    ],
    ['io.engine.generateId()', (io) => Object.assign(io.engine, { generateId: undefined })],
  ]
  for (const [name, remove] of missing) {
    const io = served(t)
    remove(io)
    t.throws(() => migrateSocketIo(io, backend()), {
      name: 'BackendError',
      code: 'BATON_ERR_UNSUPPORTED_LIBRARY',
      message: new RegExp(`missing: ${name.replaceAll(/[.()]/g, '\\$&')}$`),
    })
  }
})
