import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

void t.test('Hono: @hono/node-server', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, { app: 'hono', args: ['server.js'], shutdown: 'shut down' }),
)
