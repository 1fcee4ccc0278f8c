import { createServer } from 'node:net'
import { join } from 'node:path'
import fastify from 'fastify'
import t, { type Test } from 'tap'
import { attachServer } from '../src/attach/index.ts'
import baton, { type BatonPluginOptions } from '../src/fastify.ts'
import { dial, gate, listen } from './attach-front.ts'
import { LIMIT } from '../../../test/support/limits.ts'

/** There is no broker: `socket` points into an empty folder. */
async function makeApp(t: Test, options: Partial<BatonPluginOptions> = {}) {
  const app = fastify({ forceCloseConnections: false })
  await app.register(baton, {
    service: 'web',
    socket: join(t.testdir(), 'control.sock'),
    logger: false,
    ...options,
  })
  app.get('/', async (request) => ({ port: request.socket.remotePort }))
  t.teardown(() => app.close())
  return app
}

/** Hands connections to the app's server, like the broker. */
async function handOver(t: Test, app: Awaited<ReturnType<typeof makeApp>>) {
  return listen(
    t,
    createServer({ allowHalfOpen: true }, (socket) => app.server.emit('connection', socket)),
  )
}

void t.test('the registering instance has the decorator, before and after ready', async (t) => {
  const app = await makeApp(t)
  t.equal(typeof app.baton.ready, 'function')
  t.equal(app.baton.state, 'idle')
  t.ok(app.hasPlugin('@baton/backend-sdk'))
  await app.ready()
  t.equal(app.baton.state, 'registering', 'without a broker the app still becomes ready')
})

void t.test("options of Fastify's register() are allowed, unknown ones are refused", async (t) => {
  const options: object = { prefix: '/api', logLevel: 'warn', logSerializers: {} }
  t.equal((await makeApp(t, options)).baton.state, 'idle')
  const wrong: object = { service: 'web', drainDedline: '7s' }
  await t.rejects(async () => fastify().register(baton, wrong), {
    code: 'BATON_ERR_INVALID_OPTION',
    message: /"drainDedline"/,
  })
})

void t.test(
  'the server is attached when the app is ready, and may also listen',
  { timeout: LIMIT },
  async (t) => {
    const app = await makeApp(t)
    attachServer(app.server, { onServerClose() {} }).detach()
    await app.ready()
    t.throws(() => attachServer(app.server, { onServerClose() {} }), { code: 'BATON_ERR_ALREADY_ATTACHED' })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    t.equal((await fetch(url)).status, 200)
    await app.close()
    await t.rejects(fetch(url))
  },
)

void t.test('it drains before the app begins to refuse requests', { timeout: LIMIT }, async (t) => {
  const app = await makeApp(t, { drainDeadline: '7s' })
  await app.ready()
  const port = await handOver(t, app)
  const client = await dial(t, port)
  client.get('/')
  await client.until(/200 OK[^]*\}$/)

  const [entered, leave] = [gate(), gate()]
  const deadlines: unknown[] = []
  const { baton: backend } = app
  const drain = backend.drain.bind(backend)
  backend.drain = async (options) => {
    deadlines.push(options?.deadline)
    await drain(options)
    entered.open()
    await leave.opened
  }
  const closed = app.close()
  await entered.opened
  client.get('/')
  const received = await client.ended()
  t.match(received, /200 OK[^]*200 OK[^]*connection: close/i, 'answered in full, and let go')
  t.notMatch(received, /503/)
  leave.open()
  await closed
  t.same(deadlines, ['7s'])
  t.equal(backend.state, 'closed')
})

void t.test('an onReady hook that waits does not change the order', { timeout: LIMIT }, async (t) => {
  const app = fastify()
  const order: string[] = []
  app.addHook('onReady', () => new Promise<void>((resolve) => setImmediate(resolve)))
  await app.register(baton, { service: 'web', socket: join(t.testdir(), 'control.sock'), logger: false })
  app.addHook('preClose', async () => void order.push('preClose'))
  app.addHook('onClose', async () => void order.push('onClose'))
  app.baton.on('drain', () => order.push('drain'))
  await app.ready()
  await app.close()
  t.same(order, ['drain', 'preClose', 'onClose'])
})

void t.test('an app that closes before it is ready has nothing to drain', { timeout: LIMIT }, async (t) => {
  const app = await makeApp(t)
  await app.close()
  t.pass('closed')
})

void t.test('options are checked where they are given', async (t) => {
  const app = fastify()
  await t.rejects(async () => app.register(baton, { service: '', logger: false }), {
    code: 'BATON_ERR_NO_SERVICE',
  })
})
