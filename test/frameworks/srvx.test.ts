import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

void t.test('srvx', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, { app: 'srvx', args: ['server.js'], shutdown: 'Server closed successfully' }),
)
