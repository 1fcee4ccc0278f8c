import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import {
  acceptMany,
  dup,
  listenTcp,
  localAddress,
  type OwnedFd,
  OwnedFd as Owned,
} from '@baton/native-sendmsg'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { createAdmin } from '../src/worker/admin/server.ts'
import { fakeView } from './worker-view.ts'

// The admin server of a worker that a reload replaces, on a socket that its successor has as well.

async function serve(t: Test, listens = true) {
  const socket = listenTcp({ host: '127.0.0.1', port: 0 })
  /** The successor's. */
  const other = dup(socket.fd)
  t.teardown(() => other.close())
  const { address: host, port } = localAddress(socket.fd)
  const { view, state, drained } = fakeView()
  const config = {
    runtimeDir: '/nonexistent',
    admin: { listen: { kind: 'tcp' as const, host, port }, token: null },
  }
  const admin = createAdmin({ config, view, logger: pino({ enabled: false }), socket })
  t.teardown(() => admin.close())
  if (listens) await admin.listen()
  const open = async () => {
    const client = connect(port, host)
    t.teardown(() => client.destroy())
    await once(
      client.setEncoding('latin1').on('error', () => {}),
      'connect',
    )
    return new Visitor(client)
  }
  return { admin, view, state, drained, other, open }
}

class Visitor {
  received = ''
  isOver = false
  readonly #socket: Socket

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', (text: string) => (this.received += text))
    socket.once('close', () => (this.isOver = true))
  }

  ask(path = '/healthz', method = 'GET'): void {
    this.#socket.write(`${method} ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  }

  answered(times = 1): Promise<void> {
    return eventually(
      () => this.received.split('HTTP/1.1 ').length > times,
      () => `${times} answers; received ${JSON.stringify(this.received)}`,
    )
  }

  over(): Promise<void> {
    return eventually(() => this.isOver, 'the connection is closed')
  }
}

/** How many clients wait in the queue; they are closed. */
function takeAll(socket: OwnedFd): number {
  const { connections } = acceptMany(socket.fd, 8)
  for (const { fd } of connections) new Owned(fd).close()
  return connections.length
}

void t.test(
  'new connections are left to the successor, until it has failed',
  { timeout: LIMIT },
  async (t) => {
    const { admin, open, other } = await serve(t)
    for (let round = 0; round < 3; round++) {
      admin.pause()
      const left = await open()
      left.ask()
      // Nothing else shows that it accepts nothing: a turn of its loop in which it would have.
      await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
      t.equal(takeAll(other), 1, 'it is in the queue')
      await left.over()
      t.equal(left.received, '')
      const waiting = await open()
      waiting.ask()
      await admin.listen()
      await waiting.answered()
      t.match(waiting.received, /^HTTP\/1\.1 200 .*connection: keep-alive/is)
    }
  },
)

void t.test('kept connections do not stay with a worker that leaves', { timeout: LIMIT }, async (t) => {
  const { admin, open, view } = await serve(t)
  const [idle, silent, asking, racing] = [await open(), await open(), await open(), await open()]
  for (const client of [idle, racing]) {
    client.ask()
    await client.answered()
  }
  let reloaded: () => void = () => {}
  const asked = new Promise<void>((resolve) => {
    view.reload = () => {
      resolve()
      return new Promise((done) => (reloaded = () => done({ success: true, log: [] })))
    }
  })
  asking.ask('/api/v1/reload', 'POST')
  await asked
  // In the kernel before the order to pause.
  racing.ask()
  admin.pause()
  await idle.over()
  t.match(idle.received, /^HTTP\/1\.1 200 .*connection: keep-alive/is)
  await racing.over()
  t.equal(racing.received.split('HTTP/1.1 200').length, 3, 'a request that had arrived is answered')
  t.match(racing.received, /connection: keep-alive.*connection: close/is)
  t.notOk(asking.isOver)
  reloaded()
  await asking.over()
  t.match(asking.received, /^HTTP\/1\.1 200 .*connection: close/is)
  // It was accepted before, and has not sent its request yet.
  silent.ask()
  await silent.over()
  t.match(silent.received, /^HTTP\/1\.1 200 .*connection: close/is)
})

void t.test('a drain is refused once another worker has the backends', { timeout: LIMIT }, async (t) => {
  const { open, state, drained } = await serve(t)
  state.isSucceeded = true
  for (const path of ['/api/v1/services/web/drain', '/api/v1/services/web/backends/web-1/drain']) {
    const client = await open()
    client.ask(path, 'POST')
    await client.answered()
    t.match(client.received, /^HTTP\/1\.1 503 .*BATON_ERR_ADMIN_LEAVING/s)
  }
  t.same(drained, [])
  const client = await open()
  client.ask('/api/v1/services/web/pause', 'POST')
  await client.answered()
  t.match(client.received, /^HTTP\/1\.1 200 /, 'the master tells the other worker')
})

void t.test(
  'a socket whose file was recreated while it is paused waits as well',
  { timeout: LIMIT },
  async (t) => {
    const { admin, open, other } = await serve(t)
    const client = await open()
    admin.pause()
    const next = listenTcp({ host: '127.0.0.1', port: 0 })
    const { port } = localAddress(next.fd)
    admin.replaceSocket(next)
    const visitor = new Visitor(connect(port, '127.0.0.1').setEncoding('latin1'))
    visitor.ask()
    client.ask()
    await client.over()
    t.equal(visitor.received, '')
    await admin.listen()
    await visitor.answered()
    t.equal(takeAll(other), 0)
    // Its connections end, too, before the server has drained.
    const drained = admin.drain()
    await visitor.over()
    await drained
  },
)

void t.test(
  'a socket whose file was recreated before it listens waits, too',
  { timeout: LIMIT },
  async (t) => {
    const { admin } = await serve(t, false)
    const next = listenTcp({ host: '127.0.0.1', port: 0 })
    const successor = dup(next.fd)
    t.teardown(() => successor.close())
    const { port } = localAddress(next.fd)
    admin.replaceSocket(next)
    const left = connect(port, '127.0.0.1').on('error', () => {})
    t.teardown(() => left.destroy())
    await once(left, 'connect')
    // Nothing else shows that it accepts nothing: a turn of its loop in which it would have.
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
    t.equal(takeAll(successor), 1, 'it is in the queue')
    await admin.listen()
    const visitor = new Visitor(connect(port, '127.0.0.1').setEncoding('latin1'))
    visitor.ask()
    await visitor.answered()
  },
)
