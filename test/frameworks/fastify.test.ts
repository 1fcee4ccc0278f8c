import { once } from 'node:events'
import t from 'tap'
import { WebSocket } from 'ws'
import { LIMIT } from '../support/limits.ts'
import { FrameworkRun, servesUnderBaton } from '../support/framework-app.ts'
import { NOTHING_LEFT } from '../support/app-run.ts'
import { signal } from '../support/signal.ts'

// Its `keepAliveTimeout` of 72 s is longer than a deploy, and shorter than the drain deadline of these tests: neither is waited for.
void t.test('Fastify: fastify.listen()', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, { app: 'fastify-websocket.mjs', shutdown: 'shut down' }),
)

void t.test(
  'an app with @fastify/websocket says goodbye at SIGTERM, and its master starts another process',
  { timeout: LIMIT },
  async (t) => {
    const app = await FrameworkRun.start(t, { app: 'fastify-websocket.mjs' })
    const ws = new WebSocket(`ws://127.0.0.1:${app.port}/chat`)
    t.teardown(() => ws.terminate())
    const closed = once(ws, 'close')
    const [pid] = (await once(ws, 'message')) as [Buffer]
    signal(Number(pid), 'SIGTERM')
    t.equal((await closed)[0], 1005)
    await app.run.serving(3)
    t.same(await app.run.end('SIGTERM'), NOTHING_LEFT)
  },
)
